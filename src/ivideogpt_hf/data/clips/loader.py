"""Batches of clips for training: by rank, resumable to the clip, in an order that workers do not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from .dataset import Clip, ClipKey, SegmentDataset
from .mixture import Mixture
from .order import SequentialOrder, ShuffledOrder, StreamedOrder
from .segments import SegmentSpec


class ClipBatches(torch.utils.data.Sampler[list[ClipKey]]):
    """The batches of one rank in one epoch, as keys of clips.

    The clips of a global batch, of all ranks together, do not depend on the number of ranks (with streaming they do:
    there each rank reads files of its own). What does not fill a global batch at the end of an epoch is left out,
    unless ``drop_last`` is off.
    """

    def __init__(
        self, dataset: SegmentDataset, batch_size: int, *, rank: int = 0, world_size: int = 1, drop_last: bool = True
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"needs 0 <= rank < world_size, got {rank} and {world_size}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.first_batch = 0
        self._last_order: tuple[int, StreamedOrder] | None = None
        if not len(self):
            raise ValueError(
                f"the data give no batch of {batch_size} clips for each of {world_size} processes; lower batch_size"
            )

    def __len__(self) -> int:
        """Batches of the whole epoch, whatever ``first_batch`` is."""
        if self.dataset.streaming and not self._is_sequential:
            return len(self._streamed_order()) // self.batch_size
        total, step = len(self.dataset.order(self.epoch)), self.batch_size * self.world_size
        return total // step if self.drop_last else -(-total // step)

    @property
    def _is_sequential(self) -> bool:
        return self.dataset.segment.starts == "first"

    def _streamed_order(self) -> StreamedOrder:
        if self._last_order is None or self._last_order[0] != self.epoch:
            order = self.dataset.streamed_order(self.epoch, self.rank, self.world_size, self.batch_size)
            self._last_order = (self.epoch, order)
        return self._last_order[1]

    def groups_in_use(self, num_workers: int) -> int:
        """How many row groups of a source one process reads from at a time, with streaming."""
        if self._is_sequential:
            return 1
        order = self._streamed_order()
        shared = num_workers > 1 and order.num_lanes % num_workers == 0
        lanes = order.num_lanes // num_workers if shared else order.num_lanes
        return lanes * order.groups_per_block

    def __iter__(self) -> Iterator[list[ClipKey]]:
        num_batches = len(self)
        order: StreamedOrder | ShuffledOrder | SequentialOrder
        if self.dataset.streaming and not self._is_sequential:
            order, rank, world_size = self._streamed_order(), 0, 1
        else:
            order, rank, world_size = self.dataset.order(self.epoch), self.rank, self.world_size
        for batch in range(self.first_batch, num_batches):
            first = batch * self.batch_size * world_size
            last = min(first + self.batch_size * world_size, len(order))
            keys = [ClipKey(self.epoch, *order.locate(index)) for index in range(first + rank, last, world_size)]
            if keys:
                yield keys


class ClipLoader:
    """Iterates over one epoch's batches (dicts of stacked tensors), then stands at the next epoch's beginning.

    ``state_dict()`` says how many batches of which epoch were *taken*, whatever workers have prepared ahead; a loader
    with the same arguments that loads it gives exactly the remaining ones.
    """

    def __init__(self, batches: ClipBatches, *, num_workers: int = 0, pin_memory: bool = False) -> None:
        self.batches = batches
        self.dataset = batches.dataset
        self._loader = DataLoader(
            batches.dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # torch's own must not depend on how often iteration begins
        )
        self._taken = 0
        if self.dataset.streaming:
            self.dataset.set_up_streaming(batches.groups_in_use(num_workers))

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.batches)

    @property
    def epoch(self) -> int:
        """The epoch that iteration goes on in."""
        return self.batches.epoch

    def __iter__(self) -> Iterator[Clip]:
        self.batches.first_batch = self._taken
        for batch in self._loader:
            self._taken += 1
            yield batch
        self.batches.epoch += 1
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, and what must be the same for this to mean anything."""
        return {"epoch": self.batches.epoch, "batch": self._taken, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another loader stood.

        Raises:
            ValueError: if that one had another seed, batch size, number of ranks or number of clips.
        """
        changed = [name for name, value in self._identity().items() if state.get(name) != value]
        if changed:
            before = {name: state.get(name) for name in changed}
            raise ValueError(f"the data differ from those of the saved state, which has {before}")
        self.batches.epoch, self._taken = state["epoch"], state["batch"]

    def _identity(self) -> dict[str, Any]:
        windows = [source.windows.num_windows for source in self.dataset.sources]
        return {
            "seed": self.dataset.seed,
            "num_windows": windows,
            "global_batch_size": self.batches.batch_size * self.batches.world_size,
            "streaming_ranks": self.batches.world_size if self.dataset.streaming else None,
        }


def load_clips(
    mixture: str | Mixture,
    *,
    batch_size: int,
    segment: SegmentSpec | None = None,
    streaming: bool = False,
    num_workers: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    drop_last: bool = True,
    pin_memory: bool = False,
    **options: Any,
) -> ClipLoader:
    """Batches of training clips from a data set or a mixture, local or on the Hub.

    Args:
        mixture: a data set in our schema (folder or Hub id), a mixture's yaml file, the name of a shipped mixture, or a
            `Mixture`.
        batch_size: clips in a batch of one rank.
        segment: what clips are cut.
        streaming: False downloads data sets, converts them to memory-mapped Arrow once, and shuffles all their clips;
            True fetches Parquet row groups as they are needed, shuffles block by block, and gives each rank whole
            files.
        num_workers: processes that prepare clips; they do not change the order.
        rank, world_size: of this process; by default those of torch.distributed where it is initialised, else 0 and 1.
        drop_last: whether to leave out an incomplete last global batch.
        pin_memory: see `torch.utils.data.DataLoader`.
        options: forwarded to `SegmentDataset` (size, augmentation, actions, rewards, seed, ...).

    Returns:
        A `ClipLoader`.

    Raises:
        FileNotFoundError, ValueError: see `SegmentDataset`.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if rank is None:
        rank = torch.distributed.get_rank() if distributed else 0
    if world_size is None:
        world_size = torch.distributed.get_world_size() if distributed else 1
    dataset = SegmentDataset(mixture, segment, streaming=streaming, **options)
    batches = ClipBatches(dataset, batch_size, rank=rank, world_size=world_size, drop_last=drop_last)
    return ClipLoader(batches, num_workers=num_workers, pin_memory=pin_memory)
