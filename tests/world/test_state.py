import itertools
import random
import resource

import pytest
import torch
from safetensors.torch import save_file

from ivideogpt_hf import Sampling, WorldState
from tests.conftest import assert_same_frames, build_world, random_actions, random_frames

SAMPLING = Sampling(seed=0)


def advance(world, state, num_steps, seed=0):
    for i in range(num_steps):
        step, state = world.step(state, random_actions(state.batch_size, 3, seed=seed + i), sampling=SAMPLING)
    return step, state


def test_stepping_leaves_the_old_state_valid(world):
    state = world.reset(random_frames(2, 2))
    _, state = advance(world, state, 1)
    first, _ = advance(world, state, 2, seed=10)
    advance(world, state, 3, seed=20)  # another branch, written over the same buffer
    again, _ = advance(world, state, 2, seed=10)
    assert first.tokens.equal(again.tokens)
    torch.testing.assert_close(first.reward, again.reward)


def test_a_state_keeps_its_frames_when_the_caller_writes_over_them(world):
    frames = random_frames(1, 2)
    state = world.reset(frames)
    frames.zero_()  # such as a buffer that the next observation goes to
    assert world.last_frame(state).equal(random_frames(1, 2)[:, -1])


def test_fork_does_not_copy_the_prefix(world):
    state = world.reset(random_frames(2, 2))
    branches = state.fork(64)
    assert branches.batch_size == 128
    assert branches.contexts is state.contexts
    _, stepped = world.step(branches, random_actions(128, 3))
    assert stepped.contexts is state.contexts


def test_a_context_is_encoded_and_prefilled_once_for_all_candidates(world):
    frames, prompts = [], []

    def note_prompts(_, inputs):
        if inputs[0].shape[1] > 2:  # not a pass of a frame
            prompts.append(len(inputs[0]))

    hooks = [
        world.vq_model.encoder.register_forward_pre_hook(lambda _, inputs: frames.append(len(inputs[0]))),
        world.transformer.model.embed_tokens.register_forward_pre_hook(note_prompts),
    ]
    world.rollout(random_frames(1, 2), random_actions(1, 16, 2, 3))
    for hook in hooks:
        hook.remove()
    assert (frames, prompts) == ([2], [1])


def test_index_takes_rows_in_any_order(world):
    frames, actions = random_frames(4, 2), random_actions(4, 3)
    _, state = world.step(world.reset(frames), actions, sampling=SAMPLING)
    everything, _ = world.step(state, actions, sampling=SAMPLING)
    some, _ = world.step(state.index([3, 0, 3]), actions[[3, 0, 3]], sampling=SAMPLING)
    assert some.tokens.equal(everything.tokens[[3, 0, 3]])


def test_index_drops_contexts_that_nobody_continues(world):
    state = world.reset(random_frames(4, 2)).fork(2)
    assert len(state.index([5, 4]).contexts) == 1


def test_cat_of_states_of_different_ages_equals_each_alone(world):
    _, old = advance(world, world.reset(random_frames(2, 2)), 3)
    _, young = advance(world, world.reset(random_frames(1, 2, seed=1)), 1)
    new = world.reset(random_frames(1, 2, seed=2))
    actions = random_actions(4, 3, seed=9)
    joined = WorldState.cat([old, young, new])
    assert joined.num_steps == (3, 3, 1, 0)
    together, joined = world.step(joined, actions, sampling=SAMPLING)
    next_together, _ = world.step(joined, actions, sampling=SAMPLING)
    for state, rows in ((old, slice(0, 2)), (young, slice(2, 3)), (new, slice(3, 4))):
        alone, state = world.step(state, actions[rows], sampling=SAMPLING)
        next_alone, _ = world.step(state, actions[rows], sampling=SAMPLING)
        assert_same_frames(alone.frame, together.frame[rows])
        assert next_alone.tokens.equal(next_together.tokens[rows])
        torch.testing.assert_close(next_alone.log_prob, next_together.log_prob[rows], atol=1e-4, rtol=1e-4)


def test_cat_of_branches_keeps_sharing_their_context(world):
    state = world.reset(random_frames(1, 2))
    joined = WorldState.cat([advance(world, state, 2)[1], state])
    assert joined.contexts is state.contexts


def test_random_trees_equal_independent_rollouts(world):
    """Forks, indexes and cats in random order: every leaf is what its own action sequence alone leads to."""
    sampling = Sampling(greedy=True)
    choose = random.Random(0)
    frames = random_frames(2, 2)
    counter = itertools.count()
    state, histories = world.reset(frames), [(0, ()), (1, ())]
    for _ in range(8):
        kind = choose.choice(["step", "fork", "index", "cat"])
        if kind == "fork" and state.batch_size < 6:
            state, histories = state.fork(2), [history for history in histories for _ in range(2)]
        elif kind == "index":
            rows = [choose.randrange(state.batch_size) for _ in range(3)]
            state, histories = state.index(rows), [histories[row] for row in rows]
        elif kind == "cat":
            state, histories = WorldState.cat([state, world.reset(frames)]), [*histories, (0, ()), (1, ())]
        elif max(len(actions) for _, actions in histories) < 5:
            actions = torch.stack([random_actions(3, seed=next(counter)) for _ in histories])
            step, state = world.step(state, actions, sampling=sampling)
            histories = [(clip, (*past, action)) for (clip, past), action in zip(histories, actions, strict=True)]
    step, _ = world.step(state, torch.zeros(state.batch_size, 3), sampling=sampling)
    for row, (clip, past) in enumerate(histories):
        actions = torch.stack([*past, torch.zeros(3)])[None]
        alone = world.rollout(frames[clip : clip + 1], actions, sampling=sampling)
        assert alone.tokens[0, -1].equal(step.tokens[row]), (row, len(past))
    assert any(past for _, past in histories)


def test_the_branch_of_a_plan_that_won_is_kept_for_the_next_one(world):
    """Plan, take the winner's first step, plan on: its frame was predicted already, and no context is copied."""
    state, actions = world.reset(random_frames(1, 2)), random_actions(8, 4, 3)
    _, branches = world.step(state.fork(8), actions[:, 0], sampling=SAMPLING)
    plans = world.rollout(branches, actions[:, 1:], sampling=SAMPLING)
    best = plans.rewards.sum(1).argmax().item()
    winner = branches.index([best])
    assert winner.contexts is state.contexts
    step, _ = world.step(winner, actions[best, 1:2], sampling=SAMPLING)
    assert step.tokens.equal(plans.tokens[best, :1])


def test_to_moves_everything(world):
    _, state = advance(world, world.reset(random_frames(1, 2)), 1)
    moved = state.to("meta")
    assert moved.device.type == moved.contexts.prefix.device.type == moved.tail.copy().device.type == "meta"
    assert state.to("cpu").batch_size == 1


@pytest.mark.parametrize("rows", [[], [4], [-5]])
def test_index_of_a_row_that_is_not_there(world, rows):
    with pytest.raises(IndexError, match="rows must be"):
        world.reset(random_frames(4, 2)).index(rows)


def test_fork_and_cat_of_nothing(world):
    with pytest.raises(ValueError, match="at least 1"):
        world.reset(random_frames(1, 2)).fork(0)
    with pytest.raises(ValueError, match="at least one state"):
        WorldState.cat([])


# -- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_goes_on_where_it_was_saved(world, tmp_path):
    """Rows of different ages, two of them on one context."""
    _, old = advance(world, world.reset(random_frames(1, 2)).fork(2), 2)
    state = WorldState.cat([old, world.reset(random_frames(1, 2, seed=1))])
    state.save(tmp_path / "state.safetensors")
    loaded = WorldState.load(tmp_path / "state.safetensors")
    assert len(loaded.contexts) == 2
    actions = random_actions(3, 3, seed=5)
    (step, state), (again, loaded) = (world.step(s, actions, sampling=SAMPLING) for s in (state, loaded))
    assert step.frame.equal(again.frame)
    assert step.log_prob.equal(again.log_prob)
    assert state.tail.copy().equal(loaded.tail.copy())


@pytest.mark.parametrize("num_rows", range(1, 5))
def test_a_loaded_snapshot_is_aligned_like_any_tensor(world, tmp_path, num_rows):
    """Kernels round differently elsewhere, and the same actions would give other rewards."""
    world.reset(random_frames(num_rows, 2)).save(tmp_path / "state.safetensors")
    loaded = WorldState.load(tmp_path / "state.safetensors")
    assert {tensor.data_ptr() % 64 for tensor in loaded.contexts.tensors()} == {0}


def test_a_snapshot_of_a_new_state_and_of_another_precision(tmp_path):
    bfloat16 = build_world(action_dim=3).to(dtype=torch.bfloat16)
    state = bfloat16.reset(random_frames(1, 2))
    state.save(tmp_path / "state.safetensors")
    loaded = WorldState.load(tmp_path / "state.safetensors")
    actions = random_actions(1, 3)
    tokens = [bfloat16.step(s, actions, sampling=SAMPLING)[0].tokens for s in (state, loaded)]
    assert tokens[0].equal(tokens[1])


def test_what_is_no_snapshot_is_refused(world, tmp_path):
    with pytest.raises(OSError, match="cannot be read"):
        WorldState.load(tmp_path / "missing.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a snapshot")
    with pytest.raises(OSError, match="cannot be read"):
        WorldState.load(tmp_path / "damaged.safetensors")
    save_file({"frames": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no snapshot of a WorldState"):
        WorldState.load(tmp_path / "weights.safetensors")


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(world, tmp_path):
    file = tmp_path / "state.safetensors"
    world.reset(random_frames(1, 2)).save(file)
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # beyond, it is as on a full disk
    try:
        with pytest.raises(OSError, match="could not be written"):
            world.reset(random_frames(1, 2, seed=1)).save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_state_of_another_model_is_refused(world):
    other = build_world(action_dim=3, num_hidden_layers=3).reset(random_frames(1, 2))
    with pytest.raises(ValueError, match="another world model: 3 layers, not 2"):
        world.step(other, random_actions(1, 3))
    half = build_world(action_dim=3)
    half.vq_model.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"in torch\.bfloat16, the world model in torch\.float32"):
        world.step(half.reset(random_frames(1, 2)), random_actions(1, 3))
