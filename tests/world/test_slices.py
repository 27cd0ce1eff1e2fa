"""Calls in slices are what they are at once, whatever is done in between."""

import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.world import engine
from ivideogpt_hf.world.slices import at_once
from tests.conftest import random_actions, random_frames

SAMPLING = Sampling(seed=3)


def rollout_slices(world, state, actions, seed):
    return world.calls.in_turns(
        world.calls.rollout(
            state,
            actions,
            num_frames=None,
            num_samples=None,
            sampling=Sampling(seed=seed),
            outputs=("frames", "rewards", "tokens"),
            decode_steps="all",
            horizon_policy="reanchor",
        )
    )


def take_turns(*calls):
    """Do the slices of several calls in turns; the number of frames of each slice, and the results."""
    frames, results, active = [[] for _ in calls], [None] * len(calls), dict(enumerate(calls))
    while active:
        for number, call in list(active.items()):
            try:
                frames[number].append(next(call))
            except StopIteration as end:
                results[number] = end.value
                del active[number]
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled()
    return frames, results


@pytest.mark.filterwarnings("ignore:a rollout passed")
def test_rollouts_in_turns_are_those_at_once(world):
    """Beyond the horizon, where contexts are coded anew, and with candidates."""
    states = [world.reset(random_frames(2, 2, seed=seed)) for seed in range(2)]
    actions = [random_actions(2, 2, num_frames, 3, seed=num_frames) for num_frames in (4, 9)]
    frames, results = take_turns(
        *(rollout_slices(world, states[i], actions[i], i) for i in range(2)),
    )
    for i, result in enumerate(results):
        alone = world.rollout(states[i], actions[i], sampling=Sampling(seed=i))
        for name in ("tokens", "frames", "rewards", "log_probs"):
            assert getattr(result, name).equal(getattr(alone, name)), name
        assert result.reanchored_at == alone.reanchored_at
    # Each frame of the four rows is a slice, and what they decode in the end.
    assert frames[0] == [4, 4, 4, 4, 16]


def test_what_is_long_comes_in_chunks(world, monkeypatch):
    """Whichever call it is: two contexts at a time, or four frames."""
    monkeypatch.setattr(engine, "PIXELS_PER_CHUNK", 4 * 16 * 16)
    contexts, frames = random_frames(6, 2), random_frames(6)
    state = world.reset(contexts)
    _, after = world.step(state, random_actions(6, 3), sampling=SAMPLING)
    step = world.calls.step(
        state, random_actions(6, 3), sampling=SAMPLING, outputs=("frames",), horizon_policy="reanchor"
    )
    slices, results = take_turns(
        *map(
            world.calls.in_turns,
            (
                world.calls.reset(contexts),
                step,
                world.calls.observe(after, random_actions(6, 3), frames),
                world.calls.last_frame(after),
            ),
        )
    )
    assert slices == [[4, 4, 4], [6, 4, 2], [4, 2, 4, 4, 4], [4, 2]]
    assert results[0].contexts.prefix.equal(state.contexts.prefix)
    assert results[2].contexts.prefix.equal(world.observe(after, random_actions(6, 3), frames).contexts.prefix)
    assert results[3].equal(results[1][0].frame)


def test_a_call_that_is_given_up_leaves_the_networks_as_they_were(world):
    call = rollout_slices(world, world.reset(random_frames(1, 2)), random_actions(1, 4, 3), 0)
    next(call)
    call.close()
    world.transformer.train()
    try:
        at_once(rollout_slices(world, world.reset(random_frames(1, 2)), random_actions(1, 2, 3), 0))
        assert world.transformer.training
    finally:
        world.transformer.eval()


def test_errors_come_with_the_first_slice(world):
    call = rollout_slices(world, world.reset(random_frames(1, 2)), random_actions(1, 4, 2), 0)
    with pytest.raises(ValueError, match="actions of width 3"):
        next(call)
