"""Permutations, patterns of sources, and epochs."""

from collections import Counter

import numpy as np
import pytest

from ivideogpt_hf.data.clips.order import (
    SequentialOrder,
    ShuffledOrder,
    SourcePattern,
    SourceWindows,
    StreamedOrder,
    permute,
)


def windows(*counts):
    """A source of one episode for each count of windows."""
    return SourceWindows(np.concatenate([[0], np.cumsum(counts)]))


def streamed(num_files, episodes_per_group=4, groups_per_file=3, windows_per_episode=5):
    """A source of Parquet files."""
    groups, first = [], 0
    for file in range(num_files):
        for _ in range(groups_per_file):
            groups.append((file, first, first + episodes_per_group))
            first += episodes_per_group
    return SourceWindows(np.arange(first + 1) * windows_per_episode, groups)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000])
def test_a_permutation_is_one(size):
    assert sorted(permute(index, size, key=5) for index in range(size)) == list(range(size))


def test_permutations_look_random():
    """Neighbours are scattered, and another key gives another permutation."""
    size = 10_000
    order = np.array([permute(index, size, key=1) for index in range(size)])
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
    assert (order == [permute(index, size, key=2) for index in range(size)]).sum() < 10


def test_sources_are_drawn_by_weight():
    pattern = SourcePattern([0.5, 0.3, 0.2], seed=0)
    counts = Counter(pattern.locate(index)[0] for index in range(1000))
    assert [counts[source] for source in range(3)] == pytest.approx([500, 300, 200], abs=3)


def test_draws_of_a_source_are_counted():
    pattern = SourcePattern([2, 1], seed=0)
    seen = [0, 0]
    for index in range(40_000):  # more than one round of the pattern
        source, count = pattern.locate(index)
        assert count == seen[source]
        seen[source] += 1


def test_an_epoch_has_no_clip_twice_and_ends_with_the_first_source():
    sources = [windows(30, 20), windows(400)]
    order = ShuffledOrder(sources, SourcePattern([1, 1], seed=0), seed=0, epoch=3)
    clips = [order.locate(index) for index in range(len(order))]
    assert len(set(clips)) == len(clips)
    assert sum(source == 0 for source, _ in clips) == 50


def test_one_source_is_seen_whole_in_an_epoch():
    order = ShuffledOrder([windows(7, 0, 5)], SourcePattern([1.0], seed=0), seed=0, epoch=0)
    assert sorted(order.locate(index)[1] for index in range(len(order))) == list(range(12))


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epoch):
        made = ShuffledOrder([windows(100)], SourcePattern([1.0], seed), seed, epoch)
        return [made.locate(index) for index in range(100)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_sequential_order_is_every_clip_in_order():
    order = SequentialOrder([windows(1, 1), windows(1)])
    assert [order.locate(index) for index in range(len(order))] == [(0, 0), (0, 1), (1, 0)]


def locate_all(sources, weights=(1.0,), **options):
    order = StreamedOrder(sources, SourcePattern(list(weights), 0), 0, 0, **options)
    return order, [order.locate(index) for index in range(len(order))]


def test_streaming_gives_each_rank_whole_files_and_no_clip_twice():
    source = streamed(8)
    files_of = []
    for rank in range(2):
        _, clips = locate_all([source], rank=rank, world_size=2, batch_size=4)
        assert len(set(clips)) == len(clips)
        episodes = {int(np.searchsorted(source.cumulative, window, side="right")) - 1 for _, window in clips}
        files_of.append({next(f for f, first, last in source.groups if first <= e < last) for e in episodes})
    assert len(files_of[0]) == len(files_of[1]) == 4
    assert not files_of[0] & files_of[1]


def test_streaming_epochs_are_equally_long_on_all_ranks():
    lengths = {len(locate_all([streamed(7)], rank=rank, world_size=3, batch_size=2)[0]) for rank in range(3)}
    assert len(lengths) == 1


def test_streaming_keeps_to_few_row_groups_at_a_time():
    """A batch comes from one block of each source, and a lane stays with its block until it is used up."""
    source = streamed(96)
    order, clips = locate_all([source], rank=0, world_size=1, batch_size=8)
    lanes = order.num_lanes
    starts = [source.cumulative[first] for _, first, _ in source.groups]
    in_use = [set() for _ in range(lanes)]
    for index, (_, window) in enumerate(clips[: 8 * lanes * 4]):
        in_use[index // 8 % lanes].add(int(np.searchsorted(starts, window, side="right")))
    assert lanes > 1
    assert all(len(groups) <= order.groups_per_block for groups in in_use)


def test_streaming_sees_nearly_all_of_a_large_source():
    _, clips = locate_all([streamed(96)], rank=0, world_size=1, batch_size=4)
    assert len(clips) > 0.9 * 96 * 3 * 4 * 5


def test_streaming_needs_a_file_for_each_rank():
    with pytest.raises(ValueError, match="split has 3; convert the data with more --num-shards: the splits share them"):
        locate_all([streamed(3)], rank=0, world_size=4, batch_size=1)


def test_streaming_leaves_no_process_without_a_clip():
    source = SourceWindows(np.array([0, 5, 5]), [(0, 0, 1), (1, 1, 2)])  # the second file's episode is too short
    with pytest.raises(ValueError, match="without a clip"):
        locate_all([source], rank=0, world_size=2, batch_size=1)


def test_the_example_of_the_docstring_is_what_happens():
    source = streamed(16, episodes_per_group=16, groups_per_file=4)
    order, clips = locate_all([source], rank=0, world_size=2, batch_size=4)
    groups = [f"{file}.{number % 4}" for number, (file, _, _) in enumerate(source.groups)]
    starts = [source.cumulative[first] for _, first, _ in source.groups]
    in_batch = [
        {groups[int(np.searchsorted(starts, window, side="right")) - 1] for _, window in clips[4 * i : 4 * i + 4]}
        for i in range(4)
    ]
    assert order.num_lanes == 2
    assert in_batch[0] | in_batch[2] == {"10.3", "7.3"}
    assert in_batch[1] | in_batch[3] == {"9.3", "2.1"}
