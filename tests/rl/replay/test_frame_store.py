"""The store of frames: links between them, and which are forgotten."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from ivideogpt_hf.rl.replay.frame_store import FrameStore

FRAME = (3, 1, 1)


def frame(number):
    return np.full(FRAME, number, np.uint8)


def fill(store, numbers, *, terminated=False):
    """Add an episode whose frames show numbers; the reward of a step is the number of its first frame."""
    slot = store.begin(np.stack([frame(numbers[0])] * store.num_stack))
    for before, number in pairwise(numbers):
        ends = terminated and number == numbers[-1]
        slot = store.append(slot, np.zeros(1), float(before), frame(number), terminated=ends)


def shown(store, slots):
    return store.frames[slots][..., 0, 0, 0].tolist()


def test_frames_are_stored_once():
    store = FrameStore(100, FRAME, 1, num_stack=3)
    fill(store, range(10))
    fill(store, range(20, 25))
    assert store.num_frames == 15
    assert len(store.steps) == 9 + 4


def test_no_more_frames_are_kept_than_there_are_slots():
    store = FrameStore(8, FRAME, 1, num_stack=2)
    fill(store, range(20))
    assert store.num_frames == 8
    assert sorted(shown(store, store.steps)) == list(range(13, 19))  # the stack of 12 needs 11


def test_segments_do_not_cross_episodes():
    store = FrameStore(100, FRAME, 1, num_stack=3)
    fill(store, range(4))
    fill(store, range(10, 13))
    assert shown(store, store.segments(store.segment_starts(3), 3)) == [[0, 1, 2], [1, 2, 3], [10, 11, 12]]
    assert shown(store, store.segments(store.segment_starts(4), 4)) == [[0, 1, 2, 3]]
    assert shown(store, store.segments(store.segment_starts(5), 5)) == []


def test_histories_are_whole_where_all_frames_are_known():
    store = FrameStore(100, FRAME, 1, num_stack=3)
    fill(store, range(4))
    rows, is_whole = store.histories(store.steps, 2)
    assert shown(store, rows[is_whole]) == [[0, 1], [1, 2]]


def test_frames_of_a_first_stack_are_no_history():
    """What an environment puts there may be no frames at all."""
    store = FrameStore(100, FRAME, 1, num_stack=3)
    slot = store.begin(np.stack([frame(0), frame(0), frame(7)]))
    store.append(slot, np.zeros(1), 0.0, frame(8), terminated=False)
    assert store.stacks(store.steps)[..., 0, 0, 0].tolist() == [[0, 0, 7]]
    assert not store.histories(store.steps, 2)[1].any()
    assert shown(store, store.segments(store.segment_starts(2), 2)) == [[7, 8]]


def test_rewards_are_scaled_before_they_are_summed():
    store = FrameStore(100, FRAME, 1, num_stack=1)
    fill(store, [1, 2, 3, 4], terminated=True)
    sums, discounts, last, terminated = store.returns(store.steps, 2, 0.5, lambda rewards: rewards**2)
    assert sums.tolist() == [1 + 2, 4 + 4.5, 9]
    assert discounts.tolist() == [0.25, 0.25, 0.5]
    assert shown(store, last) == [3, 4, 4]
    assert terminated.tolist() == [False, True, True]
