"""What rows of a batch add to the keys and values of their prompt: buffers that branches may share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class TailBuffer:
    """Storage that several tails may share the beginning of, in several threads.

    A tail of length ``filled`` may append in place: nothing that another tail reads is overwritten. It claims the
    positions before it writes them. A shorter one has been overtaken by another branch, and copies its beginning first.

    Args:
        storage: keys and values (layers, 2, rows, kv_heads, capacity, head_dim).
        filled: number of positions that some tail uses, or is writing.
        guard: lock of the compiled program that owns the storage, and may move its content elsewhere; None: the
            content stays where it is.
    """

    def __init__(self, storage: Tensor, filled: int, guard: threading.RLock | None = None) -> None:
        self._storage = storage
        self.filled = filled
        self.guard = guard
        self._claiming = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., TailBuffer], tuple[Any, ...]]:
        # Locks cannot be copied. What a program owns is not the copy's.
        with self.reading() as storage:
            storage = storage if self.guard is None else storage[..., : self.filled, :].clone()
        return TailBuffer, (storage, self.filled)

    @contextmanager
    def reading(self) -> Iterator[Tensor]:
        """The storage; during the block its content is not moved away."""
        guard = self.guard
        if guard is None:
            yield self._storage
            return
        with guard:
            yield self._storage

    def claim(self, length: int, stop: int, capacity: int) -> Tensor | None:
        """Let a tail of this length, and no other one, write the positions up to ``stop``.

        Args:
            length: number of positions that the tail uses.
            stop: number of positions that it will use.
            capacity: number of positions that the storage must have.

        Returns:
            The storage to write to; None if another tail has been there, or there is no room.
        """
        with self._claiming:
            if self.filled != length or self._storage.shape[-2] < capacity:
                return None
            self.filled = stop
            return self._storage

    def leave(self) -> None:
        """Copy the content out of the program's storage, whose guard is held by this thread."""
        self._storage = self._storage[..., : self.filled, :].clone()
        # Last: whoever sees no guard sees the copy.
        self.guard = None


@dataclass(frozen=True)
class Tail:
    """What rows added to their prefixes.

    Args:
        buffer: storage of the keys and values; None while nothing was added.
        length: number of positions in use.
        start: first position (rows,) int64 that belongs to each row: rows of different lengths end together, so that
            all write at the same place. None: all start at 0.
    """

    buffer: TailBuffer | None = None
    length: int = 0
    start: Tensor | None = None

    def copy(self) -> Tensor:
        """A copy of the part of the buffer that is in use."""
        with self.buffer.reading() as storage:
            return storage[..., : self.length, :].clone()

    def index(self, rows: Tensor, lengths: Sequence[int]) -> Tail:
        """Copy the given rows, each with the positions that belong to it; what none of them needs stays behind."""
        longest = max(lengths)
        if not longest:
            return Tail()
        with self.buffer.reading() as storage:
            storage = storage[..., self.length - longest : self.length, :][:, :, rows]
        return Tail(TailBuffer(storage, longest), longest, starts_of(lengths, rows.device))

    def to(self, device: torch.device) -> Tail:
        """Copy to a device."""
        start = None if self.start is None else self.start.to(device)
        if self.buffer is None:
            return Tail(None, 0, start)
        with self.buffer.reading() as storage:
            moved = storage[..., : self.length, :].to(device)
            if moved.device == storage.device:
                return self
        return Tail(TailBuffer(moved, self.length), self.length, start)

    @staticmethod
    def cat(tails: Sequence[Tail], lengths: Sequence[Sequence[int]]) -> Tail:
        """Join tails of any lengths, aligned at their ends; each with the positions that belong to its rows."""
        longest = max(map(max, lengths))
        if not longest:
            return Tail()
        num_rows = sum(map(len, lengths))
        with next(tail.buffer for tail in tails if tail.buffer is not None).reading() as filled:
            layers, two, _, heads, _, head_dim = filled.shape
            joined = filled.new_zeros(layers, two, num_rows, heads, longest, head_dim)
        first = 0
        for tail, of_rows in zip(tails, lengths, strict=True):
            if used := max(of_rows):
                with tail.buffer.reading() as storage:
                    part = storage[..., tail.length - used : tail.length, :]
                    joined[:, :, first : first + len(of_rows), :, longest - used :] = part
            first += len(of_rows)
        return Tail(TailBuffer(joined, longest), longest, starts_of(list(chain(*lengths)), joined.device))

    def copy_with_room(self, prefix: Tensor, num_rows: int, stop: int, capacity: int) -> tuple[TailBuffer, Tensor]:
        """A buffer of the same content, with its storage, which is claimed up to ``stop`` and has room for
        ``capacity`` positions."""
        layers, two, _, heads, _, head_dim = prefix.shape
        storage = prefix.new_empty(layers, two, num_rows, heads, capacity, head_dim)
        if self.buffer is not None:
            with self.buffer.reading() as before:
                storage[..., : self.length, :] = before[..., : self.length, :]
        return TailBuffer(storage, stop), storage


def starts_of(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """First positions of rows of these lengths that end together; None: all begin at 0."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return torch.tensor([longest - length for length in lengths], device=device)
