"""Frames and actions of a clip, against plain loops over the rules of the paper's data code."""

import numpy as np
import pytest

from ivideogpt_hf.data.clips.segments import (
    SegmentSpec,
    between_frames,
    choose_frames,
    count_starts,
    fitting_stride,
    frame_stride,
)


def frames_of(length, start, stride, spec, seed=0):
    return choose_frames(length, start, stride, spec, np.random.default_rng(seed)).tolist()


@pytest.mark.parametrize(
    ("stride", "expected"), [(3, 1), (10, 3), (5, 2), (1, 1), (20, 7), (30, 10), (15, 5), (12.5, 4), (2, 1)]
)
def test_strides_of_the_paper(stride, expected):
    assert frame_stride(stride, video_step=1, base_stride=3) == expected


def test_a_segment_is_evenly_spaced():
    assert frames_of(20, 3, 2, SegmentSpec(5)) == [3, 5, 7, 9, 11]


@pytest.mark.parametrize(
    ("length", "stride", "expected"), [(32, 2, 2), (31, 2, 1), (100, 10, 6), (15, 3, 1), (7, 1, 1)]
)
def test_the_stride_shrinks_to_what_fits(length, stride, expected):
    assert fitting_stride(stride, length, SegmentSpec(16)) == expected


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [(20, 1, 5), (32, 2, 1), (40, 2, 9), (16, 1, 1), (10, 1, 1), (31, 2, 16), (1, 1, 0)],
)
def test_a_segment_starts_anywhere_it_fits(length, stride, expected):
    assert count_starts(np.array([length]), stride, SegmentSpec(16)).tolist() == [expected]


def test_a_shorter_episode_repeats_its_last_frame():
    assert frames_of(4, 0, 1, SegmentSpec(6)) == [0, 1, 2, 3, 3, 3]


def test_short_episodes_can_be_dropped():
    spec = SegmentSpec(6, short_episodes="drop")
    assert count_starts(np.array([5, 6, 8]), 1, spec).tolist() == [0, 1, 3]


def test_first_clips_only():
    assert count_starts(np.array([50, 20, 5]), 1, SegmentSpec(16, starts="first")).tolist() == [1, 1, 1]


def test_the_goal_is_the_last_frame_put_first():
    assert frames_of(20, 2, 2, SegmentSpec(5, goal_conditioned=True)) == [10, 2, 4, 6, 8]


def test_frames_that_are_not_context_are_future():
    assert SegmentSpec(8, num_context_frames=3).num_future_frames == 5


def test_future_frames_are_a_sorted_choice():
    spec = SegmentSpec(8, num_context_frames=2, horizon=16)
    seen = set()
    for seed in range(200):
        frames = frames_of(100, 10, 3, spec, seed)
        assert frames[:2] == [10, 13]
        assert frames[2:] == sorted(set(frames[2:]))
        assert len(frames) == 8
        seen |= set(frames[2:])
    assert seen == set(range(16, 58))  # every frame after the context, whatever the stride


def test_a_choice_from_a_short_episode_repeats_the_last_frame():
    spec = SegmentSpec(8, num_context_frames=2, horizon=16)
    assert frames_of(5, 0, 1, spec) == [0, 1, 2, 3, 4, 4, 4, 4]


ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)  # of an episode of 11 frames


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [[6, 9], [24, 27]]),
        ("last", [[4, 5], [10, 11]]),
        ("concatenate", [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
    ],
)
def test_actions_between_kept_frames(how, expected):
    assert between_frames(ROWS, np.array([0, 3, 6]), 3, how).tolist() == expected


def test_the_last_action_repeats_with_the_last_frame():
    assert between_frames(ROWS, np.array([8, 9, 10, 10]), 1, "sum").tolist() == [[16, 17], [18, 19], [18, 19]]


@pytest.mark.parametrize(
    "config",
    [
        {"num_frames": 2, "num_context_frames": 2},
        {"num_frames": 8, "horizon": 7},
        {"horizon": 20, "goal_conditioned": True},
        {"num_context_frames": 1, "goal_conditioned": True},
        {"starts": "last"},
        {"short_episodes": "repeat"},
    ],
)
def test_contradictions_are_refused(config):
    with pytest.raises(ValueError, match=r"must|exclude|needs"):
        SegmentSpec(**config)
