"""Bad input at the world-model boundary: each has its own message."""

import accelerate
import pytest
import torch

from ivideogpt_hf import Sampling, WorldModel
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

NAN = float("nan")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 2, 1, 16, 16, dtype=torch.uint8), "3 colour channels"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"must have shape \(B, C, 3, H, W\)"),
        (torch.zeros(1, 2, 3, 16, 16), "must be a torch.uint8 tensor"),
        (torch.full((1, 2, 3, 16, 16), NAN), "must be a torch.uint8 tensor"),
        (torch.zeros(1, 2, 3, 16, 16, dtype=torch.int64), "must be a torch.uint8 tensor"),
        ([[1, 2]], "must be a torch.uint8 tensor"),
        (torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8), "frames of 16 x 16 pixels, got 32 x 32"),
        (torch.zeros(1, 1, 3, 16, 16, dtype=torch.uint8), "got 1 context frames, fewer than the 2"),
        (torch.zeros(1, 3, 3, 16, 16, dtype=torch.uint8), "got 3 context frames, more than the 2"),
        (torch.zeros(0, 2, 3, 16, 16, dtype=torch.uint8), "at least one clip"),
    ],
)
def test_bad_frames(world, frames, message):
    with pytest.raises(ValueError, match=message):
        world.reset(frames)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (None, "is action-conditioned"),
        (torch.zeros(2, 3, 4), "actions of width 3, got width 4"),
        (torch.zeros(1, 3, 3), r"must have shape \(2, 3, 3\), got \(1, 3, 3\)"),
        (torch.zeros(2, 3), r"\(B, T, A\) or \(B, N, T, A\)"),
        (torch.zeros(2, 0, 3), "there are 0 actions"),
        (torch.zeros(2, 0, 3, 3), r"need a candidate for each context, N >= 1, got \(2, 0, 3, 3\)"),
        (torch.full((2, 3, 3), NAN), "NaN or infinite values, first at index"),
        (torch.full((2, 3, 3), float("inf")), "NaN or infinite values"),
        ([[0.0]], "must be a tensor"),
    ],
)
def test_bad_actions(world, actions, message):
    with pytest.raises(ValueError, match=message):
        world.rollout(random_frames(2, 2), actions)


def test_number_of_actions_and_frames_must_agree(world):
    with pytest.raises(ValueError, match="num_frames is 5, but there are 3 actions"):
        world.rollout(random_frames(1, 2), random_actions(1, 3, 3), num_frames=5)


def test_actions_for_an_action_free_model(free_world):
    with pytest.raises(ValueError, match="action-free model"):
        free_world.rollout(random_frames(1, 2), random_actions(1, 3, 3))
    with pytest.raises(ValueError, match="action-free model"):
        free_world.step(free_world.reset(random_frames(1, 2)), random_actions(1, 3))


def test_rewards_alone_of_a_model_without_rewards(free_world):
    state = free_world.reset(random_frames(1, 2))
    with pytest.raises(ValueError, match="the model has no reward head"):
        free_world.rollout(state, num_frames=2, outputs=("rewards", "statistics"))
    with pytest.raises(ValueError, match="the model has no reward head"):
        free_world.step(state, outputs=("rewards",))


def test_action_free_rollout_needs_a_length(free_world):
    with pytest.raises(ValueError, match="needs num_frames >= 1"):
        free_world.rollout(random_frames(1, 2))


def test_candidates_in_two_ways(world):
    with pytest.raises(ValueError, match="drop num_samples"):
        world.rollout(random_frames(1, 2), random_actions(1, 4, 3, 3), num_samples=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ("frames", "reward")}, "outputs must be"),
        ({"outputs": "frames"}, "outputs must be"),
        ({"decode_steps": (3,)}, "decode_steps must be"),
        ({"decode_steps": "first"}, "decode_steps must be"),
        ({"horizon_policy": "wrap"}, "horizon_policy must be"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"num_samples": 2.0}, "num_samples must be a whole number"),
        ({"decode_steps": (1.0,)}, "whole numbers of steps"),
        ({"decode_steps": 1}, "whole numbers of steps"),
        ({"outputs": None}, "outputs must be"),
        ({"on_step": lambda _number, step: step.reward > 0}, "on_step must return one flag for all rows"),
        ({"sampling": Sampling(seed=(1, 2, 3))}, "one per row"),
    ],
)
def test_bad_options(world, arguments, message):
    with pytest.raises(ValueError, match=message):
        world.rollout(random_frames(1, 2), random_actions(1, 3, 3), **arguments)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.zeros(1, 3, 16, 16), "torch.uint8 tensor of shape"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"shape \(1, 3, 16, 16\)"),
        (None, "got NoneType"),
    ],
)
def test_bad_observed_frame(world, frame, message):
    with pytest.raises(ValueError, match=message):
        world.observe(world.reset(random_frames(1, 2)), random_actions(1, 3), frame)


def test_a_state_of_another_world_or_device(world):
    other = build_world(vq={"num_context_frames": 1}, action_dim=3)
    with pytest.raises(ValueError, match="of another world model"):
        world.step(other.reset(random_frames(1, 1)), random_actions(1, 3))
    with pytest.raises(ValueError, match="the state is on meta, the world model on cpu"):
        world.rollout(world.reset(random_frames(1, 2)).to("meta"), random_actions(1, 2, 3))


@pytest.mark.parametrize(
    ("policy", "horizon", "message"),
    [
        (lambda observation: torch.zeros(1, 4), 2, "actions of width 3, got width 4"),
        (lambda observation: torch.full((1, 3), NAN), 2, "NaN"),
        (torch.zeros(1, 3, 3), 2, r"must have shape \(B, 2, A\)"),
        (lambda observation: torch.zeros(1, 3), 0, "horizon must be at least 1"),
        (lambda observation: torch.zeros(1, 3), 2.0, "horizon must be a whole number"),
    ],
)
def test_bad_policies(world, policy, horizon, message):
    with pytest.raises(ValueError, match=message):
        world.imagine(world.reset(random_frames(1, 2)), policy, horizon)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number of at least 1e-06"),
        ({"temperature": 1e-38}, "temperature must be a finite number of at least 1e-06, got 1e-38; use greedy=True"),
        ({"temperature": float("inf")}, "temperature must be a finite number of at least 1e-06, got inf"),
        ({"temperature": float("nan")}, "temperature must be a finite number of at least 1e-06"),
        ({"temperature": torch.ones(2)}, "temperature must be a finite number of at least"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_k": 2.0}, "top_k must be a whole number of at least 1, got 2.0"),
        ({"num_guesses": 1.5}, "num_guesses must be a whole number"),
        ({"greedy": torch.tensor([True, False])}, "greedy must be True or False, for all rows"),
        ({"restrict_to_codes": [True]}, "restrict_to_codes must be True or False"),
        ({"common_random_numbers": None}, "common_random_numbers must be True or False"),
        ({"seed": 2.5}, "seed must be a whole number, or a list"),
        ({"seed": torch.arange(2)}, "seed must be a whole number, or a list"),
    ],
)
def test_bad_sampling(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("rows", [torch.tensor([True, False]), [True, False], [1.5], torch.tensor(1), 1])
def test_a_mask_or_a_number_is_no_choice_of_rows(world, rows):
    with pytest.raises(ValueError, match="rows must be whole numbers"):
        world.reset(random_frames(2, 2)).index(rows)


def test_branches_are_counted(world):
    with pytest.raises(ValueError, match="num_branches must be a whole number"):
        world.reset(random_frames(1, 2)).fork(2.0)


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["vq_model", "transformer"])
def test_weights_that_are_not_in_memory(part):
    world = build_world(action_dim=3)
    getattr(world, part).to("meta")
    with pytest.raises(ValueError, match=r"are not in memory, but on the meta device, among them"):
        WorldModel(world.vq_model, world.transformer)
    with pytest.raises(ValueError, match="are not in memory"):
        world.reset(random_frames(1, 2))


def offload_layers(networks, folder):
    for network in networks:
        accelerate.cpu_offload(network, torch.device("cpu"))


def offload_to_disk(networks, folder):
    for i, network in enumerate(networks):
        accelerate.disk_offload(network, f"{folder}/{i}", execution_device=torch.device("cpu"))


def offload_networks(networks, folder):
    hook = None
    for network in networks:
        _, hook = accelerate.cpu_offload_with_hook(network, torch.device("cpu"), prev_module_hook=hook)


@pytest.mark.parametrize("offload", [offload_layers, offload_to_disk, offload_networks])
@pytest.mark.parametrize("conditioning", ["add", "scale_shift"])
def test_offloaded_networks_roll_out_the_same(offload, conditioning, tmp_path):
    world = build_world(action_dim=3, predict_reward=True, action_conditioning=conditioning)
    clip = random_frames(1, 2), random_actions(1, 3, 3)
    expected = world.rollout(*clip, num_samples=2, sampling=Sampling(seed=0))
    offload((world.vq_model, world.transformer), tmp_path)
    rollout = WorldModel(world.vq_model, world.transformer).rollout(*clip, num_samples=2, sampling=Sampling(seed=0))
    assert rollout.tokens.equal(expected.tokens)
    assert_same_frames(rollout.frames, expected.frames)
    torch.testing.assert_close(rollout.rewards, expected.rewards, atol=1e-4, rtol=1e-4)


def test_networks_on_several_devices():
    world = build_world(action_dim=3)
    accelerate.cpu_offload(world.transformer, torch.device("cpu"))
    world.transformer.model.layers[1].mlp.up_proj._hf_hook.execution_device = torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"is spread over \['cpu', 'cuda:1'\], and a rollout takes one device"):
        world.reset(random_frames(1, 2))


def test_offloaded_weights_are_not_saved(tmp_path):
    world = build_world(action_dim=3)
    accelerate.cpu_offload(world.transformer, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"are offloaded: bring them back by accelerate\.hooks"):
        world.save_pretrained(tmp_path / "world")
    accelerate.hooks.remove_hook_from_module(world.transformer, recurse=True)
    world.save_pretrained(tmp_path / "world")


def test_a_layer_that_is_not_in_memory():
    world = build_world(action_dim=3)
    world.transformer.model.layers[1].to("meta")
    with pytest.raises(ValueError, match=r"9 weights of the transformer are not in memory.*model\.layers\.1"):
        WorldModel(world.vq_model, world.transformer)


def test_networks_that_are_wrapped():
    world = build_world(action_dim=3)
    for wrapped in (torch.nn.DataParallel(world.transformer), None):
        with pytest.raises(ValueError, match="the transformer must be an IVideoGPTForCausalLM with its own forward"):
            WorldModel(world.vq_model, wrapped)
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(world.transformer, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"got PeftModel, .*get_base_model\(\) for LoRA"):
        WorldModel(world.vq_model, adapted)
    WorldModel(world.vq_model, adapted.get_base_model())


def test_a_hook_on_the_whole_vq_model():
    world = build_world(action_dim=3)
    hook = world.vq_model.register_forward_hook(lambda *arguments: None)
    with pytest.raises(ValueError, match="the VQ model has a forward hook or another forward"):
        world.reset(random_frames(1, 2))
    hook.remove()
    world.reset(random_frames(1, 2))
