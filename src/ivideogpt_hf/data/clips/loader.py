"""Batches of clips for training: by rank, resumable to the clip, in an order that workers do not change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader

from ...run_folder import describe_changes
from .dataset import Clip, ClipKey, SegmentDataset
from .mixture import Mixture
from .order import SequentialOrder, ShuffledOrder, StreamedOrder
from .segments import SegmentSpec


class ClipBatches(torch.utils.data.Sampler[list[ClipKey]]):
    """The batches of one rank in one epoch, as keys of clips.

    A global batch is the batches of all ranks together. Its clips do not depend on the number of ranks; with streaming
    they do, since there each rank reads files of its own.

    Args:
        dataset: data set of the clips; a `TokenDataset`, too.
        batch_size: number of clips in a batch of one rank.
        rank: number of this process.
        world_size: number of all processes.
        drop_last: whether to leave out the clips that do not fill a global batch at the end of an epoch.

    Attributes:
        epoch: number of the epoch.
        first_batch: number of the batch that iteration begins with.

    Raises:
        ValueError: if a number is out of range, or if the data do not fill one batch.
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
        """Number of batches in an epoch, whatever ``first_batch`` is."""
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
        """Number of row groups of a source that one process reads from at a time, with streaming.

        Args:
            num_workers: number of processes that prepare clips.
        """
        if self._is_sequential:
            return 1
        order = self._streamed_order()
        is_dealt_evenly = num_workers > 1 and order.num_lanes % num_workers == 0
        lanes = order.num_lanes // num_workers if is_dealt_evenly else order.num_lanes
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

    ``state_dict()`` says how many batches of which epoch were *taken*, whatever workers have prepared ahead. A loader
    with the same arguments that loads it gives exactly the remaining ones.

    Args:
        batches: batches to load.
        num_workers: number of processes that prepare clips; 0 prepares them in this one.
        pin_memory: whether batches lie in memory from which copies to a GPU are fast.

    Example:
        >>> from ivideogpt_hf import SegmentSpec, load_clips
        >>> loader = load_clips("dataset", batch_size=2, segment=SegmentSpec(num_frames=4))
        >>> next(iter(loader))["frames"].shape
        torch.Size([2, 4, 3, 16, 16])
        >>> state = loader.state_dict()  # load_state_dict(state) of a loader like this one goes on here
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
        """Number of batches in an epoch."""
        return len(self.batches)

    @property
    def epoch(self) -> int:
        """The number of the epoch that iteration goes on in."""
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
        return {"epoch": self.batches.epoch, "batch": self._taken, "contents": self._contents, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another loader stood.

        Args:
            state: result of its ``state_dict()``.

        Raises:
            ValueError: if that one had another seed, batch size, number of ranks or number of clips, or the files of
                the data have changed since.
        """
        differences = {name: state.get(name) for name, value in self._identity().items() if state.get(name) != value}
        if differences:
            raise ValueError(f"the data differ from those of the saved state, which has {differences}")
        changes = describe_changes(state.get("contents", self._contents), self._contents)
        if changes:
            raise ValueError(
                f"the data have changed since the state was saved: {changes}; put the old data back, or start again"
            )
        self.batches.epoch, self._taken = state["epoch"], state["batch"]

    @cached_property
    def _contents(self) -> dict[str, str]:
        return self.dataset.contents()

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
        mixture: data set in our schema (folder or Hub id), yaml file of a mixture, name of a shipped mixture, or a
            `Mixture`.
        batch_size: number of clips in a batch of one rank.
        segment: frames that a clip takes of an episode; None takes the defaults of `SegmentSpec`.
        streaming: whether to fetch Parquet row groups as they are needed, shuffle block by block, and give each rank
            whole files. False downloads data sets, converts them to memory-mapped Arrow once, and shuffles all their
            clips.
        num_workers: number of processes that prepare clips; they do not change the order.
        rank: number of this process; None takes that of torch.distributed where it is initialised, else 0.
        world_size: number of all processes; None takes that of torch.distributed where it is initialised, else 1.
        drop_last: whether to leave out an incomplete last global batch.
        pin_memory: whether batches lie in memory from which copies to a GPU are fast.
        options: arguments of `SegmentDataset` (size, augmentation, actions, rewards, seed, ...).

    Returns:
        A loader, which iterates over the batches of one epoch after the other.

    Raises:
        FileNotFoundError, ValueError: see `SegmentDataset`.

    Example:
        Two clips of four frames, from the folder that ``ivideogpt convert-data`` wrote:

        >>> from ivideogpt_hf import SegmentSpec, load_clips
        >>> loader = load_clips("dataset", batch_size=2, segment=SegmentSpec(num_frames=4), actions=True)
        >>> batch = next(iter(loader))
        >>> batch["frames"].shape, batch["frames"].dtype
        (torch.Size([2, 4, 3, 16, 16]), torch.uint8)
        >>> batch["actions"].shape
        torch.Size([2, 3, 3])
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if rank is None:
        rank = torch.distributed.get_rank() if distributed else 0
    if world_size is None:
        world_size = torch.distributed.get_world_size() if distributed else 1
    dataset = SegmentDataset(mixture, segment, streaming=streaming, **options)
    batches = ClipBatches(dataset, batch_size, rank=rank, world_size=world_size, drop_last=drop_last)
    return ClipLoader(batches, num_workers=num_workers, pin_memory=pin_memory)
