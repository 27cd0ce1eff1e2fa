"""Whatever a user made of a transformer's parts is in its rollouts: they give the logits and rewards of its forward."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from ivideogpt_hf import Sampling, WorldModel
from ivideogpt_hf.decoding.sampling import draw
from tests.conftest import build_world, random_actions, random_frames

NUM_FRAMES = 3
LAYERS = ("model.layers.0", "model.layers.0.self_attn", "model.layers.1.mlp")
INSIDE = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.act_fn", "model.layers.1.input_layernorm")
AROUND = ("model.norm", "lm_head", "model.embed_tokens", "model.rotary_emb", "action_linear", "reward_linear")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(params=["add", "scale_shift"])
def world(request):
    return make_world(request.param)


def make_world(conditioning="add"):
    return build_world(action_dim=3, predict_reward=True, num_key_value_heads=2, action_conditioning=conditioning)


def rolled_out(world, monkeypatch):
    """Logits and rewards of a rollout, and its tokens."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "ivideogpt_hf.decoding.frames.draw", lambda logits, *rest: (seen.append(logits), draw(logits, *rest))[1]
        )
        rollout = world.rollout(random_frames(2, 2), random_actions(2, NUM_FRAMES, 3), sampling=Sampling(seed=0))
    return torch.stack(seen, dim=1).float(), world.processor.rewards_to_head(rollout.rewards), rollout.tokens


def forward(world, tokens):
    """Logits and rewards of the transformer's own forward on the same tokens."""
    layout = world.layout
    prompt, _ = world.vq_model.tokenize(random_frames(2, 2).float() / 255)
    sequence = torch.cat([prompt, F.pad(tokens, (1, 0), value=layout.slot_id).flatten(1)], dim=1)
    with torch.no_grad():
        output = world.transformer(sequence, actions=random_actions(2, NUM_FRAMES, 3))
    logits = output.logits[:, layout.prompt_length :].unflatten(1, (NUM_FRAMES, -1))[:, :, :-1].flatten(1, 2)
    first = layout.dynamics_offset
    return logits[..., first : first + layout.num_dynamics_codes].float(), output.rewards.float()


def assert_rollouts_are_forward(world, monkeypatch, atol=1e-3):
    logits, rewards, tokens = rolled_out(world, monkeypatch)
    expected_logits, expected_rewards = forward(world, tokens)
    torch.testing.assert_close(logits, expected_logits, atol=atol, rtol=0)
    torch.testing.assert_close(rewards, expected_rewards, atol=atol, rtol=0)


def assert_changed_and_honoured(world, change, monkeypatch):
    """The change is made to a world that has rolled out before, and taken back where that can be done."""
    before, rewards, _ = rolled_out(world, monkeypatch)
    undo = change()
    after, rewards_after, _ = rolled_out(world, monkeypatch)
    assert not torch.allclose(before, after, atol=1e-2) or not torch.allclose(rewards, rewards_after, atol=1e-2)
    assert_rollouts_are_forward(world, monkeypatch)
    if undo is not None:
        undo()
        assert rolled_out(world, monkeypatch)[0].equal(before)


def add_lora(transformer, targets=LINEAR, **options):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **options)
    peft.inject_adapter_in_model(config, transformer)
    for name, value in transformer.named_parameters():
        if name.endswith(("lora_A.default.weight", "lora_B.default.weight")):
            nn.init.normal_(value, std=0.3)
    transformer.eval()


def halve(_module, _inputs, output):
    if isinstance(output, tuple):
        return tuple(None if part is None else part * 0.5 for part in output)
    return output * 0.5


class Half(nn.Module):
    def forward(self, weight):
        return weight * 0.5


# -- honoured ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [LINEAR, ["lm_head", "embed_tokens", "action_linear", "reward_linear"]])
def test_an_adapter_that_is_not_merged(world, targets, monkeypatch):
    assert_changed_and_honoured(world, lambda: add_lora(world.transformer, targets), monkeypatch)


def test_an_adapter_that_is_switched_off_and_on(monkeypatch):
    from peft.tuners.lora import LoraLayer

    world = make_world()
    before = rolled_out(world, monkeypatch)[0]
    add_lora(world.transformer)
    adapted = rolled_out(world, monkeypatch)[0]
    layers = [module for module in world.transformer.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    torch.testing.assert_close(rolled_out(world, monkeypatch)[0], before, atol=1e-3, rtol=0)
    for layer in layers:
        layer.enable_adapters(enabled=True)
    assert rolled_out(world, monkeypatch)[0].equal(adapted)
    for layer in layers:
        layer.merge()
    torch.testing.assert_close(rolled_out(world, monkeypatch)[0], adapted, atol=1e-3, rtol=0)


def test_an_adapter_in_half_precision(monkeypatch):
    world = make_world().to(dtype=torch.bfloat16)
    add_lora(world.transformer)
    assert_rollouts_are_forward(world, monkeypatch, atol=0.5)


@pytest.mark.parametrize("path", [*LAYERS, *INSIDE, *AROUND])
def test_a_forward_hook(world, path, monkeypatch):
    module = world.transformer.get_submodule(path)
    assert_changed_and_honoured(world, lambda: module.register_forward_hook(halve).remove, monkeypatch)


@pytest.mark.parametrize("path", ["model.layers.0", "model.layers.1.mlp", "model.layers.0.self_attn.k_proj", "lm_head"])
def test_a_forward_pre_hook(world, path, monkeypatch):
    module = world.transformer.get_submodule(path)

    def change():
        return module.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1, *inputs[1:])).remove

    assert_changed_and_honoured(world, change, monkeypatch)


def test_a_hook_for_all_modules(world, monkeypatch):
    def change():
        hook = nn.modules.module.register_module_forward_hook(
            lambda module, _inputs, output: output * 0.5 if isinstance(module, nn.Linear) else None
        )
        return hook.remove

    assert_changed_and_honoured(world, change, monkeypatch)


@pytest.mark.parametrize("path", ["model.layers.0.mlp.up_proj", *(path for path in AROUND if "rotary" not in path)])
def test_a_parametrisation(path, monkeypatch):
    world = make_world()
    module = world.transformer.get_submodule(path)

    def change():
        parametrize.register_parametrization(module, "weight", Half())
        return lambda: parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)

    assert_changed_and_honoured(world, change, monkeypatch)


@pytest.mark.parametrize("path", ["model.layers.0.mlp.up_proj", "lm_head"])
def test_pruning(path, monkeypatch):
    world = make_world()
    module = world.transformer.get_submodule(path)
    assert_changed_and_honoured(world, lambda: prune.l1_unstructured(module, "weight", 0.5) and None, monkeypatch)


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("model.layers.0.mlp", nn.Linear(32, 32)),
        ("model.layers.0.input_layernorm", nn.Identity()),
        ("model.layers.1.mlp.up_proj", nn.Linear(32, 48)),
        ("model.norm", nn.LayerNorm(32)),
        ("lm_head", nn.Linear(32, 66)),
        ("action_linear", nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 32))),
        ("reward_linear", nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 1))),
    ],
)
def test_a_module_of_the_users(path, module, monkeypatch):
    world = make_world()
    assert world.transformer.config.vocab_size == 66
    assert_changed_and_honoured(
        world, lambda: world.transformer.set_submodule(path, copy.deepcopy(module)), monkeypatch
    )


def test_a_forward_that_was_put_on_a_module(monkeypatch):
    world = make_world()
    mlp = world.transformer.model.layers[0].mlp

    def change():
        original = mlp.forward
        mlp.forward = lambda x: original(x) * 0.5
        return lambda: delattr(mlp, "forward")

    assert_changed_and_honoured(world, change, monkeypatch)


def test_other_scaling_and_fewer_layers(monkeypatch):
    world = make_world()

    def change():
        world.transformer.model.layers[0].self_attn.scaling = 0.1
        world.transformer.config.num_hidden_layers = 1

    assert_changed_and_honoured(world, change, monkeypatch)


def test_quantised_weights(monkeypatch):
    quantization = pytest.importorskip("torchao.quantization")
    world = make_world()
    everything = lambda module, _name: isinstance(module, nn.Linear)  # noqa: E731
    quantization.quantize_(world.transformer, quantization.Int8WeightOnlyConfig(), filter_fn=everything)
    assert_rollouts_are_forward(world, monkeypatch)


def test_tied_embeddings(monkeypatch):
    world = build_world(action_dim=3, predict_reward=True, tie_word_embeddings=True)

    def change():
        with torch.no_grad():
            world.transformer.model.embed_tokens.weight.mul_(0.5)

    assert_changed_and_honoured(world, change, monkeypatch)


@pytest.mark.parametrize("make_change", ["train", "assign"])
def test_weights_that_changed_since(make_change, monkeypatch):
    world = make_world()

    def change():
        if make_change == "assign":
            state = {name: value * 0.9 for name, value in world.transformer.state_dict().items()}
            world.transformer.load_state_dict(state, assign=True)
        else:
            optimizer = torch.optim.SGD(world.transformer.parameters(), lr=0.1)
            tokens = torch.randint(0, 24, (2, world.layout.prompt_length))
            world.transformer(tokens, labels=tokens).loss.backward()
            optimizer.step()

    assert_changed_and_honoured(world, change, monkeypatch)


def test_hidden_states_that_were_asked_for_once_change_nothing(monkeypatch):
    """transformers then leaves its hooks on the layers."""
    world = make_world()
    before = rolled_out(world, monkeypatch)[0]
    world.transformer(torch.zeros(1, 8, dtype=torch.int64), output_hidden_states=True)
    torch.testing.assert_close(rolled_out(world, monkeypatch)[0], before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_of_the_config_stays(implementation):
    world = make_world()
    world.transformer.set_attn_implementation(implementation)
    world.transformer.model.layers[0].register_forward_hook(halve)
    world.rollout(random_frames(1, 2), random_actions(1, 2, 3))
    assert world.transformer.config._attn_implementation == implementation


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "model"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_on_a_whole_network_is_refused(path, kind):
    world = make_world()
    getattr(world.transformer.get_submodule(path), kind)(lambda *arguments: None)
    with pytest.raises(ValueError, match="has a forward hook or another forward, which rollouts go past"):
        world.reset(random_frames(1, 2))
    with pytest.raises(ValueError, match="has a forward hook"):
        WorldModel(world.vq_model, world.transformer)


def test_a_layer_that_does_not_attend_by_transformers_is_refused():
    class Layer(nn.Module):
        def forward(self, x, **_arguments):
            return x

    world = make_world()
    world.transformer.model.layers[1] = Layer()
    with pytest.raises(ValueError, match="layer 1 of the transformer, a Layer, cannot take part in rollouts"):
        world.reset(random_frames(1, 2))
