"""In which order the clips of a mixture are seen: pure functions of seed, epoch and index, without lists of clips.

A *window* is a start in an episode, seen by one camera. The windows of a source are numbered from 0.

With random access an epoch is a permutation of each source's windows (`ShuffledOrder`). With streaming that would fetch
nearly everything for every batch, so that an epoch is dealt out in larger and larger pieces (`StreamedOrder`). This is
rank 0 of 2 in a source of 16 files, each with 4 row groups of 16 episodes ("10.3" is row group 3 of file 10):

    files        0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
                    shuffled; every second one is this rank's
    of rank 0    2  3  7  8  9 10 11 13
                    their row groups, shuffled
    row groups   10.3  7.3   9.3  2.1   10.1  3.2   3.1 11.3  ...  10.0 13.2   8.3  2.2      (32)
                    gathered in this order until a block has 32 episodes
    blocks       [10.3 7.3]  [9.3 2.1]  [10.1 3.2]  [3.1 11.3]  ...  [10.0 13.2]  [8.3 2.2]  (16)
                    dealt to the lanes in turn; a lane needs 8 blocks, so that there are 2
    lane 0       [10.3 7.3]  [10.1 3.2]  ...  [10.0 13.2]
    lane 1       [9.3 2.1]   [3.1 11.3]  ...  [8.3 2.2]
                    clips of the lane's first block, shuffled, then those of its second, ...
    batches      0 from lane 0, 1 from lane 1, 2 from lane 0, 3 from lane 1, ...

Two workers take the batches in turn, so that each of them reads one lane and holds the row groups of one block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PATTERN_SLOTS = 2**14
ROUNDS = 4
# Batches of a rank come from lanes in turn, each with blocks of its own. A worker takes every n-th batch, so that with
# a number of workers that divides the number of lanes no block is fetched twice; the order never depends on the
# workers.
LANES = (12, 6, 4, 3, 2)
MIN_BLOCKS_PER_LANE = 8  # what one lane has more than another is left out: at most one block in nine
BLOCK_EPISODES = 32


def hash_seed(*parts: int | str) -> int:
    """A number of 64 bits that depends on all parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def permute(index: int, size: int, key: int) -> int:
    """Where a pseudorandom permutation of ``range(size)`` puts an index: a Feistel network with cycle walking (Black &
    Rogaway 2002), so that no list of the size is ever made."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(ROUNDS):
            bits = (right + key + round_number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((bits ^ bits >> 31) & mask)
        index = left << half_bits | right
        if index < size:
            return index


class SourcePattern:
    """Which source each draw comes from: a repeated, evenly mixed pattern in which a source has slots by its weight.

    Args:
        weights: share of each source, relative to the others.
        seed: seed of the pattern.

    Raises:
        ValueError: if a source's share is too small for a slot.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        num_slots = 1 if len(shares) == 1 else PATTERN_SLOTS
        self.slots = np.floor(shares * num_slots).astype(int)
        remainders = shares * num_slots - self.slots
        self.slots[np.argsort(-remainders, kind="stable")[: num_slots - self.slots.sum()]] += 1
        if (self.slots == 0).any():
            raise ValueError(f"a weight is below 1 / {PATTERN_SLOTS} of all: {list(weights)}")
        # The k-th draw of a source falls somewhere in the k-th of its equal parts of the pattern.
        generator = np.random.default_rng(hash_seed("pattern", seed))
        places = np.concatenate([(np.arange(n) + generator.random(n)) / n for n in self.slots])
        sources = np.repeat(np.arange(len(shares)), self.slots)
        self.sources = sources[np.argsort(places, kind="stable")]
        self.positions = [np.flatnonzero(self.sources == source) for source in range(len(shares))]
        self.ranks = np.empty(num_slots, dtype=int)
        for positions in self.positions:
            self.ranks[positions] = np.arange(len(positions))

    def locate(self, index: int) -> tuple[int, int]:
        """(source, number of earlier draws from it) of a draw."""
        cycle, slot = divmod(index, len(self.sources))
        source = int(self.sources[slot])
        return source, int(cycle * self.slots[source] + self.ranks[slot])

    def draws_until(self, sizes: Sequence[int]) -> int:
        """Number of draws before the first source of these sizes would be drawn from once too often."""
        draws = []
        for size, slots, positions in zip(sizes, self.slots, self.positions, strict=True):
            cycle, rest = divmod(int(size), int(slots))
            draws.append(cycle * len(self.sources) + int(positions[rest]))
        return min(draws)


@dataclass(frozen=True)
class SourceWindows:
    """How a source's windows lie.

    Attributes:
        cumulative: (episodes + 1,) int64; the windows of episode e are cumulative[e] ... cumulative[e + 1] - 1.
        groups: (file, first episode, last episode + 1) of each row group, in order; None without streaming.
    """

    cumulative: np.ndarray
    groups: Sequence[tuple[int, int, int]] | None = None

    @property
    def num_windows(self) -> int:
        """Number of all windows."""
        return int(self.cumulative[-1])


class ShuffledOrder:
    """The clips of one epoch over sources with random access: each source by a permutation of all its windows.

    An epoch ends when the first source has given each of its windows once, so that no clip comes twice in it.
    """

    def __init__(self, sources: Sequence[SourceWindows], pattern: SourcePattern, seed: int, epoch: int) -> None:
        self._sizes = [source.num_windows for source in sources]
        self._pattern = pattern
        self._keys = [hash_seed("windows", seed, epoch, source) for source in range(len(sources))]
        self._length = pattern.draws_until(self._sizes)

    def __len__(self) -> int:
        return self._length

    def locate(self, index: int) -> tuple[int, int]:
        """(source, window) of a clip of the epoch."""
        source, position = self._pattern.locate(index)
        return source, permute(position, self._sizes[source], self._keys[source])


class SequentialOrder:
    """Every clip of every source once, in order: for evaluation."""

    def __init__(self, sources: Sequence[SourceWindows]) -> None:
        self._ends = np.cumsum([source.num_windows for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """(source, window) of a clip."""
        source = int(np.searchsorted(self._ends, index, side="right"))
        return source, index - (int(self._ends[source - 1]) if source else 0)


class StreamedOrder:
    """The clips that one rank sees in one epoch of streaming: whole files per rank, shuffled block by block.

    The module's docstring draws an example. All ranks and lanes see equally many clips. What one has more than another
    is left out of the epoch; these are other clips in each epoch.

    Args:
        sources: windows of each source, with row groups.
        pattern: source of each draw.
        seed: seed of the order.
        epoch: number of the epoch.
        rank: number of this process.
        world_size: number of all processes.
        batch_size: number of clips in a batch of one rank.

    Raises:
        ValueError: if a source has fewer files than there are ranks.
    """

    def __init__(
        self,
        sources: Sequence[SourceWindows],
        pattern: SourcePattern,
        seed: int,
        epoch: int,
        *,
        rank: int,
        world_size: int,
        batch_size: int,
    ) -> None:
        self._pattern, self._batch_size = pattern, batch_size
        blocks = [
            self._deal(source, hash_seed("blocks", seed, epoch, i), world_size) for i, source in enumerate(sources)
        ]
        min_blocks = min(len(of_rank) for of_source in blocks for of_rank in of_source)
        if min_blocks == 0:
            raise ValueError(
                f"streaming to {world_size} processes leaves one without a clip; use fewer, or convert the data with "
                f"more --num-shards"
            )
        self.num_lanes = next((lanes for lanes in LANES if lanes * MIN_BLOCKS_PER_LANE <= min_blocks), 1)
        sizes = [
            [[_lane_size(of_rank[lane :: self.num_lanes]) for of_rank in of_source] for lane in range(self.num_lanes)]
            for of_source in blocks
        ]
        draws = pattern.draws_until([min(map(min, of_source)) for of_source in sizes])
        self.groups_per_block = max(len(block) for of_source in blocks for of_rank in of_source for block in of_rank)
        self._length = draws // batch_size * batch_size * self.num_lanes
        self._lanes = [
            [_Lane(of_source[rank][lane :: self.num_lanes]) for of_source in blocks] for lane in range(self.num_lanes)
        ]
        self._seed = hash_seed("clips", seed, epoch, rank)

    def __len__(self) -> int:
        return self._length

    def locate(self, index: int) -> tuple[int, int]:
        """(source, window) of a clip among those of this rank."""
        batch, place = divmod(index, self._batch_size)
        lane = batch % self.num_lanes
        source, position = self._pattern.locate(batch // self.num_lanes * self._batch_size + place)
        return source, self._lanes[lane][source].window(position, hash_seed(self._seed, lane, source))

    @staticmethod
    def _deal(source: SourceWindows, key: int, world_size: int) -> list[list[np.ndarray]]:
        """The blocks of each rank; a block is an array (groups, 2) of ranges of windows."""
        generator = np.random.default_rng(key)
        files = np.unique([group[0] for group in source.groups])
        if len(files) < world_size:
            raise ValueError(
                f"streaming gives whole files to each of {world_size} processes, but this split has {len(files)}; "
                f"convert the data with more --num-shards: the splits share them, as they share the episodes"
            )
        files = generator.permutation(files)
        blocks_of_ranks = []
        for rank in range(world_size):
            files_of_rank = set(files[rank::world_size].tolist())
            groups = [group for group in source.groups if group[0] in files_of_rank]
            order = generator.permutation(len(groups))
            blocks_of_ranks.append(_blocks([groups[i] for i in order], source.cumulative))
        return blocks_of_ranks


class _Lane:
    """A lane's blocks of one source, as one sequence of windows."""

    def __init__(self, blocks: Sequence[np.ndarray]) -> None:
        self._blocks = blocks
        self._ends = np.cumsum([_size(block) for block in blocks])

    def window(self, position: int, key: int) -> int:
        number = int(np.searchsorted(self._ends, position, side="right"))
        block = self._blocks[number]
        offset = position - (int(self._ends[number - 1]) if number else 0)
        offset = permute(offset, _size(block), hash_seed(key, number))
        ends = np.cumsum(block[:, 1] - block[:, 0])
        group = int(np.searchsorted(ends, offset, side="right"))
        return int(block[group, 1] - (ends[group] - offset))


def _blocks(groups: Sequence[tuple[int, int, int]], cumulative: np.ndarray) -> list[np.ndarray]:
    """Ranges of windows of consecutive row groups, gathered until a block has enough episodes."""
    blocks, ranges, episodes = [], [], 0
    for _, first, last in groups:
        if cumulative[first] == cumulative[last]:
            continue
        ranges.append((cumulative[first], cumulative[last]))
        episodes += last - first
        if episodes >= BLOCK_EPISODES:
            blocks.append(np.array(ranges))
            ranges, episodes = [], 0
    if ranges:
        blocks.append(np.array(ranges))
    return blocks


def _size(block: np.ndarray) -> int:
    return int((block[:, 1] - block[:, 0]).sum())


def _lane_size(blocks: Sequence[np.ndarray]) -> int:
    return sum(map(_size, blocks))
