"""Frames are in the order of their numbers, or refused."""

import random

import pytest

from ivideogpt_hf.media.frame_names import frame_gaps, order_frames

ORDERED = [
    ["frame_1", "frame_2", "frame_10"],
    ["f-1", "f-2", "f-10"],
    ["-10", "-1", "0", "3"],
    ["001", "2", "10"],
    ["0.05", "0.1", "0.15", "0.2"],
    ["frame", "frame (1)", "frame (2)", "frame (10)"],
    ["2024-05-12_10-29-59", "2024-05-12_10-30-01"],
    ["000012_17.25", "000013_17.5"],
]


@pytest.mark.parametrize("names", ORDERED, ids=lambda names: names[-1])
def test_frames_are_in_the_order_of_their_numbers(names):
    shuffled = names.copy()
    random.Random(0).shuffle(shuffled)
    assert [shuffled[index] for index in order_frames(shuffled)] == names


@pytest.mark.parametrize(
    "names",
    [
        ["0.5", "0.10"],
        ["-1", "-2"],
        ["1", "01"],
        ["a", "b"],
        ["left_1", "right_1"],
        ["cam0_1", "cam0_2", "cam1_1", "cam1_2"],
    ],
    ids=lambda names: names[-1],
)
def test_an_order_that_is_not_clear_is_refused(names):
    with pytest.raises(ValueError, match="name frames by one number"):
        order_frames(names)


def test_gaps_are_told():
    assert frame_gaps(["f1", "f2", "f7", "f8"]) == "the numbers of frames have 1 gap, the first from 2 to 7"
    assert frame_gaps(["f0", "f5", "f10"]) is None
