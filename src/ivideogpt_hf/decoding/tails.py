"""What rows of a batch add to the keys and values of their prompt: buffers that branches may share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor


class TailBuffer:
    """Storage that several tails may share the beginning of.

    A tail of length ``filled`` may append in place: nothing that another tail reads is overwritten. A shorter one has
    been overtaken by another branch, and copies its beginning first.

    Args:
        storage: keys and values (layers, 2, rows, kv_heads, capacity, head_dim).
        filled: number of positions that some tail uses.
    """

    def __init__(self, storage: Tensor, filled: int) -> None:
        self.storage = storage
        self.filled = filled


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

    @property
    def storage(self) -> Tensor:
        """The part of the buffer that is in use."""
        return self.buffer.storage[..., : self.length, :]

    def index(self, rows: Tensor, lengths: Sequence[int]) -> Tail:
        """Copy the given rows, each with the positions that belong to it; what none of them needs stays behind."""
        longest = max(lengths)
        if not longest:
            return Tail()
        storage = self.buffer.storage[..., self.length - longest : self.length, :][:, :, rows]
        return Tail(TailBuffer(storage, longest), longest, starts_of(lengths, rows.device))

    def to(self, device: torch.device) -> Tail:
        """Copy to a device."""
        start = None if self.start is None else self.start.to(device)
        if self.buffer is None:
            return Tail(None, 0, start)
        return Tail(TailBuffer(self.storage.to(device), self.length), self.length, start)

    @staticmethod
    def cat(tails: Sequence[Tail], lengths: Sequence[Sequence[int]]) -> Tail:
        """Join tails of any lengths, aligned at their ends; each with the positions that belong to its rows."""
        longest = max(map(max, lengths))
        if not longest:
            return Tail()
        num_rows = sum(map(len, lengths))
        filled = next(tail.buffer.storage for tail in tails if tail.buffer is not None)
        layers, two, _, heads, _, head_dim = filled.shape
        storage = filled.new_zeros(layers, two, num_rows, heads, longest, head_dim)
        first = 0
        for tail, of_rows in zip(tails, lengths, strict=True):
            if used := max(of_rows):
                part = tail.buffer.storage[..., tail.length - used : tail.length, :]
                storage[:, :, first : first + len(of_rows), :, longest - used :] = part
            first += len(of_rows)
        return Tail(TailBuffer(storage, longest), longest, starts_of(list(chain(*lengths)), filled.device))

    def with_room(self, prefix: Tensor, num_rows: int, capacity: int) -> Tail:
        """A tail of the same content that may be written up to ``capacity``."""
        buffer = self.buffer
        if buffer is not None and buffer.filled == self.length and buffer.storage.shape[-2] >= capacity:
            return self
        layers, two, _, heads, _, head_dim = prefix.shape
        storage = prefix.new_empty(layers, two, num_rows, heads, capacity, head_dim)
        if buffer is not None:
            storage[..., : self.length, :] = self.storage
        return Tail(TailBuffer(storage, self.length), self.length, self.start)


def starts_of(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """First positions of rows of these lengths that end together; None: all begin at 0."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return torch.tensor([longest - length for length in lengths], device=device)
