"""Steps of many clients are taken together, and nobody notices."""

import gc
import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch

from ivideogpt_hf import RemoteWorldModel, RolloutOptions, Sampling
from ivideogpt_hf.serving import batching
from ivideogpt_hf.serving.batching import Batcher, OtherJob, OverloadedError, StepJob, StoppingError, TooLongError
from ivideogpt_hf.world.slices import in_one_slice
from ivideogpt_hf.world.state import Contexts
from tests.conftest import random_actions, random_frames
from tests.serving.conftest import serving, wait_for


class Held:
    """A batcher whose thread is kept busy until `release`, so that jobs pile up."""

    def __init__(self, world, max_waiting=100):
        self.batches, self.go = [], threading.Event()
        self.batcher = Batcher(world, max_waiting, self.batches.append)
        self.batcher.submit(OtherJob(in_one_slice(self.go.wait)))
        wait_for(lambda: not self.batcher.num_waiting)

    def release(self):
        self.go.set()
        self.batcher.close()


def job(world, state, seed, **sampling):
    actions = random_actions(state.batch_size, 3, seed=seed)
    return StepJob(state, actions, RolloutOptions(Sampling(seed=seed, **sampling), ("frames", "rewards")))


def expected(world, job):
    options = job.options
    return world.step(job.state, job.actions, sampling=options.sampling, outputs=tuple(options.outputs))


def assert_same(result, wanted):
    (step, state), (wanted_step, wanted_state) = result, wanted
    assert step.tokens.equal(wanted_step.tokens)
    torch.testing.assert_close(step.reward, wanted_step.reward)
    assert (step.frame.int() - wanted_step.frame.int()).abs().max() <= 1
    assert state.num_frames == wanted_state.num_frames


def test_waiting_steps_are_taken_together_and_are_what_they_are_alone(world):
    states = [world.reset(random_frames(rows, 2, seed=rows)) for rows in (1, 2, 3)]
    states[1] = world.step(states[1], random_actions(2, 3), sampling=Sampling(seed=0))[1]  # of another age
    held = Held(world)
    jobs = [job(world, state, seed) for seed, state in enumerate(states)]
    futures = [held.batcher.submit(j) for j in jobs]
    held.release()
    assert held.batches == [6]
    for j, future in zip(jobs, futures, strict=True):
        assert_same(future.result(), expected(world, j))


def test_branches_of_one_context_go_on_from_joined_steps(world):
    """Twice, so that the second step begins with states that the first one left."""
    root = world.reset(random_frames(1, 2))
    ours = [root.fork(2), root.index([0]), world.reset(random_frames(1, 2, seed=7))]
    theirs = list(ours)
    for seed in (1, 2):
        held = Held(world)
        jobs = [job(world, state, seed + 10 * i) for i, state in enumerate(theirs)]
        futures = [held.batcher.submit(j) for j in jobs]
        held.release()
        for i, (j, future) in enumerate(zip(jobs, futures, strict=True)):
            result, wanted = future.result(), expected(world, job(world, ours[i], j.options.sampling.seed))
            assert_same(result, wanted)
            theirs[i], ours[i] = result[1], wanted[1]


def after_a_step(world, monkeypatch, states, seconds):
    """A batcher that waits for so many seconds, and what became of states that it just stepped together."""
    monkeypatch.setattr(batching, "GATHERING_SHARE", 1e9)
    monkeypatch.setattr(batching, "GATHERING_SECONDS", seconds)
    held = Held(world)
    jobs = [job(world, state, seed) for seed, state in enumerate(states)]
    futures = [held.batcher.submit(j) for j in jobs]
    held.go.set()
    return held, [future.result(60)[1] for future in futures]


def worlds_of_their_own(world, num_states):
    return [world.reset(random_frames(1, 2, seed=seed)) for seed in range(num_states)]


def branches(world, num_states):
    root = world.reset(random_frames(1, 2)).fork(num_states)
    return [root.index([row]) for row in range(num_states)]


@pytest.mark.parametrize("make", [worlds_of_their_own, branches])
def test_whoever_was_stepped_together_is_waited_for(world, monkeypatch, make):
    held, states = after_a_step(world, monkeypatch, make(world, 2), 300)
    first = held.batcher.submit(job(world, states[0], 5))
    time.sleep(0.3)
    assert not first.done()
    held.batcher.submit(job(world, states[1], 6)).result(60)
    held.release()
    assert held.batches == [2, 2]


@pytest.mark.parametrize("other", ["nobody else", "a full batch", "another kind", "another call"])
def test_nobody_is_waited_for(world, monkeypatch, other):
    """Where that would be in vain, or hold up somebody."""
    worlds = worlds_of_their_own(world, 1 if other == "nobody else" else 2)
    held, states = after_a_step(world, monkeypatch, worlds, 300)
    if other == "a full batch":
        monkeypatch.setattr(batching, "MAX_BATCH_ROWS", 1)
    waiting = job(world, states[0], 5)
    if other == "another kind":
        waiting.options = replace(waiting.options, outputs=("rewards",))
    future = held.batcher.submit(waiting)
    if other == "another call":
        held.batcher.submit(OtherJob(in_one_slice(lambda: None)))
    future.result(60)
    held.release()
    assert held.batches[1:] == [1]


def test_whoever_left_is_waited_for_a_short_time(world, monkeypatch):
    held, states = after_a_step(world, monkeypatch, worlds_of_their_own(world, 2), 0.1)
    held.batcher.submit(job(world, states[0], 5)).result(60)
    held.release()
    assert held.batches == [2, 1]


def test_contexts_are_joined_once_whoever_comes_first(world, monkeypatch):
    states = [world.reset(random_frames(1, 2, seed=seed)) for seed in range(3)]
    copied = []
    for name in ("cat", "index"):
        original = getattr(Contexts, name)
        monkeypatch.setattr(Contexts, name, lambda *args, name=name, of=original: copied.append(name) or of(*args))
    batcher = Batcher(world, 100)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        jobs = [job(world, states[number], seed=number) for number in order]
        with batcher._changed:  # they are there at once
            batcher._waiting.extend(jobs)
            batcher._changed.notify()
        for number, done in zip(order, jobs, strict=True):
            state = done.future.result()[1]
            assert state.contexts is states[number].contexts
            states[number] = state
    batcher.close()
    assert copied == ["cat"]


@pytest.mark.parametrize("num_gone", [1, 3])
def test_nothing_is_kept_of_whoever_is_gone(world, num_gone):
    """Neither a state nor joined contexts."""
    states = [world.reset(random_frames(1, 2, seed=seed)) for seed in range(3)]
    kept = [weakref.ref(state.contexts) for state in states]
    held = Held(world)
    futures = [held.batcher.submit(job(world, state, seed)) for seed, state in enumerate(states)]
    held.go.set()
    for future in futures:
        future.result(60)
    kept.append(weakref.ref(held.batcher._joiner._last[1]))
    del states[:num_gone], futures, future
    gc.collect()
    wait_for(lambda: [part() is None for part in kept] == [True] * num_gone + [False] * (3 - num_gone) + [True])
    held.batcher.close()


def test_worlds_that_are_reanchored_keep_to_themselves(world):
    held_state = world.reset(random_frames(1, 2))
    for _ in range(world.spec.max_future_frames):
        _, held_state = world.step(held_state, random_actions(1, 3), sampling=Sampling(seed=3))
    states = [held_state, world.reset(random_frames(1, 2, seed=1))]
    held = Held(world)
    jobs = [job(world, state, seed) for seed, state in enumerate(states)]
    futures = [held.batcher.submit(j) for j in jobs]
    with pytest.warns(UserWarning, match="re-anchored"):
        held.release()
    results = [future.result() for future in futures]
    assert held.batches == [1, 1]
    with pytest.warns(UserWarning, match="re-anchored"):
        assert_same(results[0], expected(world, jobs[0]))
    assert_same(results[1], expected(world, jobs[1]))


def test_steps_of_another_kind_wait_for_their_own_turn(world):
    state = world.reset(random_frames(1, 2))
    held = Held(world)
    futures = [
        held.batcher.submit(job(world, state, 1)),
        held.batcher.submit(job(world, state, 2, temperature=0.5)),
        held.batcher.submit(job(world, state, 3)),
    ]
    held.release()
    assert held.batches == [2, 1]
    assert all(future.done() for future in futures)


def test_an_error_is_told_to_whom_it_belongs(world):
    state = world.reset(random_frames(1, 2))
    held = Held(world)
    good, bad = job(world, state, 1), job(world, state, 2)
    bad.actions = torch.zeros(1, 5)
    futures = [held.batcher.submit(j) for j in (bad, good)]
    held.release()
    with pytest.raises(ValueError, match="actions of width 3"):
        futures[0].result()
    assert_same(futures[1].result(), expected(world, good))


def test_whoever_gives_up_is_left_out(world):
    state = world.reset(random_frames(1, 2))
    held = Held(world)
    futures = [held.batcher.submit(job(world, state, seed)) for seed in range(3)]
    assert futures[1].cancel()
    held.release()
    assert held.batches == [2]


def rollout_slices(world, state, num_frames, log=None, on_slice=lambda: None):
    """The slices of a rollout, noted in a log."""
    slices = world.calls.in_turns(
        world.calls.rollout(
            state,
            random_actions(state.batch_size, num_frames, 3),
            num_frames=None,
            num_samples=None,
            sampling=Sampling(seed=5),
            outputs=("frames", "rewards", "tokens"),
            decode_steps="all",
            horizon_policy="reanchor",
        )
    )
    while True:
        try:
            num_frames = next(slices)
        except StopIteration as end:
            return end.value
        if log is not None:
            log.append(f"slice of {num_frames}")
        on_slice()
        yield num_frames


def test_others_step_between_the_frames_of_a_rollout_and_both_are_what_they_are_alone(world):
    held = Held(world)
    state, hog = world.reset(random_frames(1, 2)), world.reset(random_frames(20, 2))
    rollout = held.batcher.submit(OtherJob(rollout_slices(world, hog, 4, held.batches), "hog"))
    jobs = [job(world, state, seed, temperature=1 + seed / 10) for seed in range(5)]  # of kinds that are not joined
    for j in jobs:
        j.client = "other"
    futures = [held.batcher.submit(j) for j in jobs]
    held.release()
    # A step is two frames, predicted and decoded: the other one gets ten times as many turns.
    assert held.batches[:7] == ["slice of 20", 1, 1, 1, 1, 1, "slice of 20"]
    for j, future in zip(jobs, futures, strict=True):
        assert_same(future.result(), expected(world, j))
    wanted = world.rollout(hog, random_actions(20, 4, 3), sampling=Sampling(seed=5))
    assert rollout.result().tokens.equal(wanted.tokens)
    assert rollout.result().frames.equal(wanted.frames)
    assert rollout.result().rewards.equal(wanted.rewards)


def test_two_rollouts_take_turns(world):
    held, log = Held(world), []
    for rows in (2, 3):
        slices = rollout_slices(world, world.reset(random_frames(rows, 2)), 3, log)
        held.batcher.submit(OtherJob(slices, f"client {rows}"))
    held.release()
    assert log[:5] == ["slice of 2", "slice of 3", "slice of 2", "slice of 3", "slice of 2"]


def test_a_server_that_stops_finishes_what_has_begun_first(world):
    held, log = Held(world), []
    for rows in (2, 3):
        slices = rollout_slices(world, world.reset(random_frames(rows, 2)), 3, log, held.batcher.finish_in_order)
        held.batcher.submit(OtherJob(slices, f"client {rows}"))
    held.release()
    assert log == ["slice of 2"] * 3 + ["slice of 6"] + ["slice of 3"] * 3 + ["slice of 9"]


def test_a_client_has_one_call_at_a_time(world):
    """So no more calls are begun than there are clients."""
    held, log = Held(world), []
    for rows in (2, 3):
        slices = rollout_slices(world, world.reset(random_frames(rows, 2)), 2, log)
        held.batcher.submit(OtherJob(slices, "client"))
    held.release()
    assert log == ["slice of 2"] * 2 + ["slice of 4"] + ["slice of 3"] * 2 + ["slice of 6"]


def test_a_rollout_that_nobody_waits_for_ends(world):
    held, log = Held(world), []
    jobs = []
    slices = rollout_slices(world, world.reset(random_frames(2, 2)), 5, log, lambda: jobs[0].future.cancel())
    jobs.append(OtherJob(slices))
    held.batcher.submit(jobs[0])
    held.release()
    assert log == ["slice of 2"]


def test_a_call_may_take_so_much_of_the_models_time(world):
    batcher, log = Batcher(world, 10, max_seconds=0.0), []
    future = batcher.submit(OtherJob(rollout_slices(world, world.reset(random_frames(2, 2)), 5, log)))
    with pytest.raises(TooLongError, match="fewer or shorter futures"):
        future.result(60)
    batcher.close()
    assert log == ["slice of 2"]


def test_jobs_can_be_abandoned(world):
    held, log = Held(world), []
    state = world.reset(random_frames(2, 2))
    begun = held.batcher.submit(OtherJob(rollout_slices(world, state, 5, log, held.batcher.abandon)))
    waiting = held.batcher.submit(job(world, state, 1))
    held.release()
    for future in (begun, waiting):
        with pytest.raises(StoppingError, match="the server stops"):
            future.result(60)
    assert log == ["slice of 2"]


def test_too_much_waiting_work_is_refused(world):
    held = Held(world, max_waiting=2)
    state = world.reset(random_frames(1, 2))
    for seed in range(2):
        held.batcher.submit(job(world, state, seed))
    with pytest.raises(OverloadedError):
        held.batcher.submit(job(world, state, 3))
    held.release()


def test_many_clients_at_once_get_what_each_would_get_alone(world):
    def drive(w, seed):
        state, tokens = w.reset(random_frames(1, 2, seed=seed)), []
        for t in range(4):
            step, state = w.step(state, random_actions(1, 3, seed=10 * seed + t), sampling=Sampling(seed=seed))
            tokens.append(step.tokens)
        return torch.stack(tokens)

    results = {}

    def client(url, seed):
        with RemoteWorldModel(url) as remote:
            results[seed] = drive(remote, seed)

    with serving(world) as (url, service):
        threads = [threading.Thread(target=client, args=(url, seed)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(service.sessions) == 0
    for seed in range(8):
        assert results[seed].equal(drive(world, seed))
