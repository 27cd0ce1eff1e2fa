"""Online training of a world model: what it learns from, what it changes, and that it can be resumed."""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("accelerate")

from gymnasium.spaces import Box

from ivideogpt_hf import Sampling, WorldModel
from ivideogpt_hf.rl.imagination.learner import LearnerSettings, WorldModelLearner
from ivideogpt_hf.rl.imagination.worlds import check_world, open_world
from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
from ivideogpt_hf.training.loop import NonFiniteLossError
from tests.conftest import build_world, random_frames
from tests.data.files import make_dataset

ACTIONS = Box(-1, 1, (3,), np.float32)
SMALL = {"num_future_frames": 3, "batch_size": 2, "learning_rate": 1e-3, "vq_learning_rate": 1e-3}


def make_world(**options):
    return build_world(**{"action_dim": 3, "predict_reward": True} | options)


def make_buffer(num_steps=9, size=16, shift=0, seed=0):
    """Episodes whose frames show their number in every pixel, and whose rewards are the numbers of the frames that are
    reached."""
    stacks = Box(0, 255, (9, size, size), np.uint8)
    buffer = MixedReplayBuffer(500, stacks, ACTIONS, "cpu", seed=seed)
    rng = np.random.default_rng(seed)
    for episode in range(3):
        ids = np.arange(num_steps + 1) + 50 * episode + shift
        frames = np.broadcast_to(ids[:, None, None, None], (num_steps + 1, 3, size, size)).astype(np.uint8)
        buffer.add_episode(frames, rng.uniform(-1, 1, (num_steps, 3)), ids[1:].astype(float))
    return buffer


def make_learner(world=None, seed=0, trains_codebooks=False, **settings):
    settings = LearnerSettings(**SMALL | settings)
    return WorldModelLearner(world or make_world(), settings, seed=seed, trains_codebooks=trains_codebooks)


def copy_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before, network):
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


def is_same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


# -- B2: rewards ------------------------------------------------------------------------------------------------------


def test_a_frame_s_target_is_the_reward_of_the_step_that_leads_to_it(monkeypatch):
    """B2 of the original: its targets were those of the next frame."""
    learner, seen = make_learner(batch_size=8), {}
    vq_model, processor = learner.world.vq_model, learner.world.processor
    tokenize, to_head = vq_model.tokenize, processor.rewards_to_head

    def watch_frames(frames):
        seen["ids"] = (255 * frames[:, :, 0, 0, 0]).round()
        return tokenize(frames)

    def watch_rewards(rewards):
        seen["rewards"] = rewards
        return to_head(rewards)

    monkeypatch.setattr(vq_model, "tokenize", watch_frames)
    monkeypatch.setattr(processor, "rewards_to_head", watch_rewards)
    learner.update_transformer(make_buffer())
    assert torch.equal(seen["rewards"], seen["ids"][:, learner.world.spec.num_context_frames :])


def test_the_first_action_of_a_target_is_that_of_the_last_context_frame(monkeypatch):
    processor = {"action_mean": [1.0, 0.0, -1.0], "action_std": [2.0, 2.0, 4.0]}
    learner, seen = make_learner(make_world(processor=processor)), {}
    transformer, buffer = learner.world.transformer, make_buffer()
    forward = transformer.forward

    def watch(**arguments):
        seen.update(arguments)
        return forward(**arguments)

    monkeypatch.setattr(transformer, "forward", watch)
    learner.update_transformer(buffer)
    segments = buffer.sample_segments(2, 5, np.random.default_rng(0))
    expected = learner.world.processor.normalize_actions(segments.actions[:, 1:])
    assert torch.allclose(seen["actions"], expected)


def test_the_last_steps_of_an_episode_are_learnt_from_too():
    """B5 of the original: its clips never reached them."""
    learner, buffer = make_learner(), make_buffer(num_steps=6)
    ends = {int(frames[-1, 0, 0, 0]) for frames in buffer.sample_segments(200, learner.num_frames).frames}
    assert {6, 56, 106} <= ends


# -- updates ----------------------------------------------------------------------------------------------------------


def test_an_update_of_the_transformer_changes_nothing_else():
    learner = make_learner()
    transformer, vq_model = copy_of(learner.world.transformer), copy_of(learner.world.vq_model)
    metrics = learner.update_transformer(make_buffer())
    assert metrics.keys() == {"cross_entropy", "reward_mse", "loss", "grad_norm"}
    assert metrics["loss"] == pytest.approx(metrics["cross_entropy"] + metrics["reward_mse"], rel=1e-5)
    assert "reward_linear.weight" in changed(transformer, learner.world.transformer)
    assert not changed(vq_model, learner.world.vq_model)


def test_an_update_of_the_vq_model_leaves_its_codebooks():
    learner = make_learner()
    transformer, vq_model = copy_of(learner.world.transformer), copy_of(learner.world.vq_model)
    learner.update_vq_model(make_buffer())
    names = changed(vq_model, learner.world.vq_model)
    assert names
    assert not any("quantize" in name for name in names)
    assert not changed(transformer, learner.world.transformer)


def test_new_codebooks_are_trained_until_they_are_frozen():
    learner, buffer = make_learner(trains_codebooks=True), make_buffer()
    before = copy_of(learner.world.vq_model)
    learner.update_vq_model(buffer)
    assert any("quantize" in name for name in changed(before, learner.world.vq_model))
    learner.freeze_codebooks()
    before = copy_of(learner.world.vq_model)
    learner.update_vq_model(buffer)
    assert not any("quantize" in name for name in changed(before, learner.world.vq_model))


def test_scalar_quantisation_has_no_codebooks_to_freeze():
    vq = {"context_fsq_levels": (8, 3), "dynamics_fsq_levels": (8, 5)}
    learner = make_learner(make_world(vq=vq | {"num_context_codes": 24, "num_dynamics_codes": 40}))
    assert learner.update_vq_model(make_buffer())["loss"] > 0


def test_it_learns_what_it_is_shown():
    world = make_world(initializer_range=0.02, processor={"reward_transform": "symlog"})
    learner = make_learner(world, batch_size=4, learning_rate=3e-3)
    buffer = make_buffer()
    losses = [learner.update_transformer(buffer)["loss"] for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


@pytest.mark.parametrize("update", ["update_transformer", "update_vq_model"])
def test_a_loss_that_is_not_finite_is_an_error_and_changes_nothing(update):
    learner = make_learner()
    network = learner.world.transformer if update == "update_transformer" else learner.world.vq_model
    last = list(network.parameters())[-1]
    with torch.no_grad():
        last.fill_(float("nan"))
    before = copy_of(network)
    with pytest.raises(NonFiniteLossError, match="a lower learning rate often helps"):
        getattr(learner, update)(make_buffer())
    assert all(
        torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in network.state_dict().items()
    )


def test_gradients_are_clipped():
    """With SGD's rule in place of AdamW's, the step is as long as the clipped gradient."""
    learner = make_learner(max_grad_norm=1e-3)
    learner._optimizer = torch.optim.SGD(learner.world.transformer.parameters(), lr=1.0)
    before = copy_of(learner.world.transformer)
    norm = learner.update_transformer(make_buffer())["grad_norm"]
    after = learner.world.transformer.state_dict()
    length = torch.stack([(after[name] - before[name]).norm() for name in before]).norm()
    assert norm > 1e-3
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_rewards_are_read_in_float32_under_autocast():
    """B13 of the original: its reward head regressed in bfloat16, a hundredth off."""
    learner, seen = make_learner(mixed_precision="bf16"), []
    learner.world.transformer.reward_linear.register_forward_hook(
        lambda module, args, output: seen.append(output.dtype)
    )
    learner.update_transformer(make_buffer())
    assert seen == [torch.float32]


# -- B3: modes --------------------------------------------------------------------------------------------------------


def test_dropout_is_on_in_updates_and_off_in_rollouts():
    """B3 of the original: dropout stayed on while it imagined, and calling train() could not switch it off."""
    world = make_world(attention_dropout=0.5)
    learner, modes = make_learner(world), []
    attention = world.transformer.model.layers[0].self_attn
    attention.register_forward_hook(lambda module, args, output: modes.append(module.training))
    learner.update_transformer(make_buffer())
    assert modes == [True]
    assert not any(module.training for module in [*world.transformer.modules(), *world.vq_model.modules()])
    frames, actions = random_frames(2, 2), torch.zeros(2, 4, 3)
    once = world.rollout(frames, actions, sampling=Sampling(seed=0))
    world.transformer.train()
    world.vq_model.train()
    again = world.rollout(frames, actions, sampling=Sampling(seed=0))
    assert torch.equal(once.tokens, again.tokens)
    assert torch.equal(once.rewards, again.rewards)


# -- other data -------------------------------------------------------------------------------------------------------


def test_a_share_of_the_clips_comes_from_data(tmp_path):
    pytest.importorskip("datasets")
    data = make_dataset(tmp_path / "arm", [13] * 4, test_fraction=0.3)
    learner = make_learner(batch_size=2, data=str(data), data_share=0.25)
    assert [learner._num_data_clips(update) for update in range(4)] == [0, 1, 0, 1]
    buffer = make_buffer()
    for _ in range(2):
        metrics = learner.update_transformer(buffer)
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(learner.update_vq_model(buffer)["loss"])


def test_rewards_of_other_data_are_not_learnt(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    data = make_dataset(tmp_path / "arm", [13] * 4, test_fraction=0.3)
    learner = make_learner(batch_size=4, data=str(data), data_share=0.5)
    seen, to_head = [], learner.world.processor.rewards_to_head
    monkeypatch.setattr(
        learner.world.processor, "rewards_to_head", lambda rewards: seen.append(len(rewards)) or to_head(rewards)
    )
    learner.update_transformer(make_buffer())
    assert seen == [2]


def test_actions_of_other_data_are_scaled_as_the_world_s_own(tmp_path):
    pytest.importorskip("datasets")
    from ivideogpt_hf.data.clips.loader import load_clips
    from ivideogpt_hf.data.clips.segments import SegmentSpec

    data = make_dataset(tmp_path / "arm", [13] * 4, test_fraction=0.3)
    world = make_world(processor={"action_mean": [1.0, 2.0, 3.0], "action_std": [0.5, 0.5, 0.5]})
    learner = make_learner(world, data=str(data), data_share=0.5)
    options = {"batch_size": 1, "segment": SegmentSpec(5), "actions": True, "size": (16, 16)}
    loader = load_clips(str(data), **options)
    raw = next(iter(loader))["actions"]
    if loader.dataset.processor_settings().get("action_mean") is not None:
        settings = loader.dataset.processor_settings()
        raw = raw * torch.tensor(settings["action_std"]) + torch.tensor(settings["action_mean"])
    taken = learner._clips.take(1)["actions"]
    assert torch.allclose(taken, (raw - torch.tensor([1.0, 2, 3])) / 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "folder"}, "data and data_share belong together"),
        ({"data_share": 0.5}, "data and data_share belong together"),
        ({"data_share": 1.0, "data": "folder"}, r"in \[0, 1\)"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LearnerSettings(**settings)


# -- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_data", [False, True])
def test_a_learner_that_loads_the_state_of_another_goes_on_as_it(with_data, tmp_path):
    options = {"batch_size": 2}
    if with_data:
        pytest.importorskip("datasets")
        options |= {"data": str(make_dataset(tmp_path / "arm", [13] * 4, test_fraction=0.3)), "data_share": 0.5}
    buffer = make_buffer()
    one, other = (make_learner(make_world(attention_dropout=0.1), seed=3, **options) for _ in range(2))
    for _ in range(2):
        one.update_transformer(buffer)
        one.update_vq_model(buffer)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.manual_seed(99)  # it does not depend on torch's own generator
    for learner in (one, other):
        torch.rand(5)
        learner.update_transformer(buffer)
        learner.update_vq_model(buffer)
        learner.update_transformer(buffer)
    assert is_same(one.world.transformer.state_dict(), other.world.transformer.state_dict())
    assert is_same(one.world.vq_model.state_dict(), other.world.vq_model.state_dict())


def test_what_it_trained_is_a_checkpoint(tmp_path):
    learner = make_learner()
    learner.update_transformer(make_buffer())
    learner.world.save_pretrained(tmp_path / "world")
    loaded = WorldModel.from_pretrained(tmp_path / "world")
    assert is_same(loaded.transformer.state_dict(), learner.world.transformer.state_dict())


# -- what it begins with ----------------------------------------------------------------------------------------------

NEW = """
vq_config: {resolution: 16, block_out_channels: [32, 32], layers_per_block: 1, latent_channels: 8, patch_size: 4,
  num_context_codes: 24, num_dynamics_codes: 40, max_att_resolution: 8}
transformer_config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4,
  max_position_embeddings: 160}
"""


def test_new_networks_come_from_a_yaml_file(tmp_path):
    file = tmp_path / "new.yaml"
    file.write_text(NEW)
    wide = Box(-2, 6, (1,), np.float32)
    first, second = (open_world(file, wide, num_future_frames=3, seed=1) for _ in range(2))
    assert first.is_new
    spec = first.world.spec
    assert (spec.action_dim, spec.has_reward, spec.max_future_frames) == (1, True, 3)
    assert is_same(first.world.transformer.state_dict(), second.world.transformer.state_dict())
    normalised = first.world.processor.normalize_actions(torch.tensor([[-2.0], [6.0]]))
    assert normalised.flatten().tolist() == [-1, 1]
    assert first.world.processor.reward_transform == "symlog"
    file.write_text(NEW.replace("vq_config", "vq_confg"))
    with pytest.raises(ValueError, match="vq_confg"):
        open_world(file, wide, num_future_frames=3)


def test_a_checkpoint_gets_what_it_lacks(tmp_path):
    build_world().save_pretrained(tmp_path / "free")
    start = open_world(tmp_path / "free", ACTIONS, num_future_frames=3)
    assert start.grown == ("actions", "rewards")
    assert start.world.spec.action_dim == 3
    assert start.world.spec.has_reward
    assert not start.is_new
    build_world(action_dim=3).save_pretrained(tmp_path / "acting")
    assert open_world(tmp_path / "acting", ACTIONS, num_future_frames=3).grown == ("rewards",)


def test_a_goal_conditioned_checkpoint_is_refused(tmp_path):
    build_world(goal_conditioned=True, action_dim=3).save_pretrained(tmp_path / "goal")
    with pytest.raises(ValueError, match="is goal-conditioned"):
        open_world(tmp_path / "goal", ACTIONS, num_future_frames=3)


BOUNDS = {"action_low": [-1.0] * 3, "action_high": [1.0] * 3}


@pytest.mark.parametrize(
    ("options", "space", "size", "horizon", "message"),
    [
        ({"predict_reward": False}, ACTIONS, (16, 16), 3, "has no reward head"),
        ({}, ACTIONS, (32, 32), 3, "frames are 32 x 32 pixels, the world takes 16 x 16"),
        ({}, Box(-1, 1, (2,), np.float32), (16, 16), 3, "are 2 wide, the world takes 3"),
        ({"processor": BOUNDS}, Box(-2, 1, (3,), np.float32), (16, 16), 3, "was trained with actions between"),
        ({}, ACTIONS, (16, 16), 7, "the horizon must be 1 to 6 steps"),
    ],
)
def test_a_world_that_does_not_fit_the_environment_is_refused(options, space, size, horizon, message):
    with pytest.raises(ValueError, match=message):
        check_world(make_world(**options).spec, space, size, horizon)


def test_narrower_actions_than_those_of_the_checkpoint_fit():
    check_world(make_world(processor=BOUNDS).spec, Box(-0.5, 1, (3,), np.float32), (16, 16), 6)
