"""The ten conventions of the world model."""

import pytest
import torch

from ivideogpt_hf import Sampling, WorldModel, WorldState
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

GREEDY = Sampling(greedy=True)


def test_1_first_action_leads_to_the_first_predicted_frame_and_reward(world):
    actions = random_actions(1, 3, 3)
    changed = actions.clone()
    changed[:, 0] += 30
    before, after = (world.rollout(random_frames(1, 2), a, sampling=GREEDY) for a in (actions, changed))
    assert not before.tokens[:, 0].equal(after.tokens[:, 0])
    assert not before.rewards[:, 0].equal(after.rewards[:, 0])
    assert before.frames.shape[1] == before.rewards.shape[1] == 3
    # The network sees that action at the slot of the first future frame.
    clip = torch.cat([random_frames(1, 2), before.frames], dim=1).float() / 255
    tokens, _ = world.vq_model.tokenize(clip[:, :2])
    block = torch.nn.functional.pad(before.tokens, (1, 0), value=world.layout.slot_id).flatten(1)
    rewards = world.transformer(torch.cat([tokens, block], dim=1), actions=actions).rewards
    torch.testing.assert_close(before.rewards, rewards, atol=1e-4, rtol=1e-4)


def test_2_pixels_are_uint8_outside_and_float_inside(world):
    seen = []
    hook = world.vq_model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    rollout = world.rollout(random_frames(1, 2), random_actions(1, 1, 3))
    hook.remove()
    assert rollout.frames.dtype == torch.uint8
    assert rollout.frames.shape == (1, 1, 3, 16, 16)
    assert seen[0].is_floating_point()
    assert 0 <= seen[0].min() <= seen[0].max() <= 1


def test_3_actions_are_in_environment_units_and_their_statistics_travel(tmp_path):
    plain = build_world(action_dim=3)
    statistics = {"action_mean": [1.0, 2.0, 3.0], "action_std": [2.0, 4.0, 8.0]}
    scaled = build_world(action_dim=3, processor=statistics)
    scaled.save_pretrained(tmp_path)
    actions = random_actions(1, 2, 3)
    in_units = actions * torch.tensor(statistics["action_std"]) + torch.tensor(statistics["action_mean"])
    expected = plain.rollout(random_frames(1, 2), actions, sampling=GREEDY)
    for model in (scaled, WorldModel.from_pretrained(tmp_path)):
        rollout = model.rollout(random_frames(1, 2), in_units, sampling=GREEDY)
        torch.testing.assert_close(rollout.log_probs, expected.log_probs, atol=1e-4, rtol=1e-4)


def test_4_rollouts_run_in_eval_and_inference_mode_and_leave_training_as_it_was():
    world = build_world(action_dim=3, attention_dropout=0.5)
    expected = world.rollout(random_frames(1, 2), random_actions(1, 2, 3), sampling=GREEDY)
    world.vq_model.train()
    world.transformer.train()
    world.transformer.model.norm.eval()
    rollout = world.rollout(random_frames(1, 2), random_actions(1, 2, 3), sampling=GREEDY)
    assert_same_frames(rollout.frames, expected.frames)
    assert rollout.state.tokens.is_inference()
    assert world.vq_model.training
    assert world.transformer.model.layers[0].training
    assert not world.transformer.model.norm.training


def test_5_only_dynamics_codes_are_sampled(world):
    sampling = Sampling(temperature=100.0, top_k=None, seed=0)
    tokens = world.rollout(random_frames(1, 2), random_actions(1, 32, 4, 3), sampling=sampling).tokens
    layout = world.layout
    assert tokens.min() >= layout.dynamics_offset
    assert tokens.max() < layout.dynamics_offset + layout.num_dynamics_codes
    assert len(tokens.unique()) == layout.num_dynamics_codes  # and all of them can be


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=3)], ids=["greedy", "seeded"])
def test_6_a_batched_rollout_equals_a_loop_of_steps(world, sampling):
    frames, actions = random_frames(3, 2), random_actions(3, 4, 3)
    rollout = world.rollout(frames, actions, sampling=sampling)
    state = world.reset(frames)
    for i in range(4):
        step, state = world.step(state, actions[:, i], sampling=sampling)
        assert step.tokens.equal(rollout.tokens[:, i])
        assert_same_frames(step.frame, rollout.frames[:, i])
        torch.testing.assert_close(step.reward, rollout.rewards[:, i])
        torch.testing.assert_close(step.log_prob, rollout.log_probs[:, i])


@pytest.mark.parametrize(
    "config",
    [
        {"action_dim": 3},
        {"action_dim": 3, "num_key_value_heads": 2},
        {"action_dim": 3, "action_conditioning": "scale_shift"},
        {},
    ],
)
def test_6_cached_equals_recomputed(config):
    world = build_world(**config)
    actions = random_actions(2, 4, 3) if "action_dim" in config else None
    num_frames = None if actions is not None else 4
    rollout = world.rollout(random_frames(2, 2), actions, num_frames=num_frames, sampling=GREEDY)
    layout = world.layout
    sequence, _ = world.vq_model.tokenize(random_frames(2, 2).float() / 255)
    for i in range(4):
        sequence = torch.nn.functional.pad(sequence, (0, 1), value=layout.slot_id)
        for _ in range(layout.tokens_per_future_frame):
            given = None if actions is None else actions[:, : i + 1]
            logits = world.transformer(sequence, actions=given).logits[:, -1]
            first = layout.dynamics_offset
            token = logits[:, first : first + layout.num_dynamics_codes].argmax(-1) + first
            sequence = torch.cat([sequence, token[:, None]], dim=1)
    expected = sequence[:, layout.prompt_length :].unflatten(1, (4, -1))[:, :, 1:]
    assert rollout.tokens.equal(expected)
    decoded = world.vq_model.detokenize(sequence)[:, 2:]
    assert (rollout.frames.float() / 255 - decoded.clamp(0, 1)).abs().max() < 0.003


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=0, common_random_numbers=True)], ids=["greedy", "common"])
def test_7_fork_then_equal_actions_gives_equal_frames(world, sampling):
    state = world.reset(random_frames(2, 2))
    _, state = world.step(state, random_actions(2, 3), sampling=sampling)
    actions = random_actions(2, 3, seed=1)
    expected, _ = world.step(state, actions, sampling=sampling)
    branches, _ = world.step(state.fork(3), actions.repeat_interleave(3, dim=0), sampling=sampling)
    assert_same_frames(branches.frame, expected.frame.repeat_interleave(3, dim=0))


def test_7_otherwise_branches_draw_their_own_futures(free_world):
    rollout = free_world.rollout(random_frames(1, 2), num_frames=3, num_samples=4, sampling=Sampling(seed=0))
    assert len({tuple(tokens.flatten().tolist()) for tokens in rollout.tokens[0]}) == 4


def test_8_the_same_seed_gives_the_same_video_whatever_the_batch(world):
    frames, actions = random_frames(4, 2), random_actions(4, 3, 3)
    together = world.rollout(frames, actions, sampling=Sampling(seed=7)).frames
    for row in range(4):
        alone = world.rollout(frames[row : row + 1], actions[row : row + 1], sampling=Sampling(seed=7))
        assert_same_frames(alone.frames, together[row : row + 1])


def test_8_candidates_do_not_depend_on_how_many_there_are(world):
    actions = random_actions(1, 5, 3, 3)
    many = world.rollout(random_frames(1, 2), actions, sampling=Sampling(seed=7)).frames
    few = world.rollout(random_frames(1, 2), actions[:, :2], sampling=Sampling(seed=7)).frames
    assert_same_frames(few, many[:, :2])


def test_8_without_a_seed_torchs_generator_decides(free_world):
    torch.manual_seed(0)
    first, second = (free_world.rollout(random_frames(1, 2), num_frames=3).tokens for _ in range(2))
    torch.manual_seed(0)
    again = free_world.rollout(random_frames(1, 2), num_frames=3).tokens
    assert not first.equal(second)
    assert first.equal(again)


def test_8_every_row_may_have_its_own_seed(world):
    frames, actions = random_frames(1, 2).repeat(2, 1, 1, 1, 1), random_actions(1, 3, 3).repeat(2, 1, 1)
    both = world.rollout(frames, actions, sampling=Sampling(seed=(4, 5))).tokens
    alone = world.rollout(frames[:1], actions[:1], sampling=Sampling(seed=5)).tokens
    assert both[1:].equal(alone)
    assert not both[0].equal(both[1])


def test_9_an_action_leaves_earlier_frames_unchanged(world):
    actions = random_actions(1, 4, 3)
    changed = actions.clone()
    changed[:, 2] += 3
    before, after = (world.rollout(random_frames(1, 2), a, sampling=Sampling(seed=0)) for a in (actions, changed))
    assert_same_frames(before.frames[:, :2], after.frames[:, :2])
    assert before.rewards[:, :2].equal(after.rewards[:, :2])
    assert not before.tokens[:, 2:].equal(after.tokens[:, 2:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_10_networks_compute_in_their_own_precision_below_autocast(world, dtype):
    frames, actions, greedy = random_frames(2, 2), random_actions(2, 3, 3), Sampling(greedy=True)
    outside = world.reset(frames)
    expected = world.rollout(outside, actions, sampling=greedy)
    seen = []

    def policy(observation):
        seen.append(torch.is_autocast_enabled("cpu"))
        return actions[:, observation.step]

    with torch.autocast("cpu", dtype=dtype):
        rollouts = [world.rollout(start, actions, sampling=greedy) for start in (frames, outside)]
        state = world.reset(frames)
        rollouts.append(world.imagine(state, policy, 3, sampling=greedy))
        step, state = world.step(state, actions[:, 0], sampling=greedy)
        world.observe(state, actions[:, 1], frames[:, 0])
    assert step.tokens.equal(expected.tokens[:, 0])
    assert_same_frames(step.frame, expected.frames[:, 0])
    for rollout in rollouts:
        assert rollout.tokens.equal(expected.tokens)
        assert_same_frames(rollout.frames, expected.frames)
        torch.testing.assert_close(rollout.rewards, expected.rewards)
    assert seen == [True] * 3  # the caller's functions run as they would outside


def test_10_torchs_defaults_change_nothing(world):
    frames, actions, sampling = random_frames(2, 2), random_actions(2, 7, 3), Sampling(seed=0)
    expected = world.rollout(frames, actions, sampling=sampling)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        rollout = world.rollout(frames, actions, sampling=sampling)
        world.rollout(frames, actions)  # whose seed is drawn
        state = world.reset(frames)
        WorldState.cat([state, world.step(state, actions[:, 0])[1]]).index([3, 0])
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert rollout.tokens.equal(expected.tokens)
    assert rollout.frames.equal(expected.frames)
    assert rollout.rewards.dtype == torch.float32
