"""Where imagined worlds stand: contexts that are shared, and states that can be kept, branched, joined and saved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..decoding.sampling import check_count
from ..decoding.tails import Tail, TailBuffer, starts_of
from ..models.vq_layers import ContextMemory
from .snapshots import PER_ROW, problem_of_snapshot, read_tensors, write_tensors

SNAPSHOT_VERSION = 1


@dataclass(frozen=True)
class Contexts:
    """P contexts, computed once and shared by all rows that continue them.

    Args:
        frames: context frames (P, C, 3, H, W) uint8.
        last_tokens: last token (P,) int64 of each prompt.
        prefix: keys and values (layers, 2, P, kv_heads, L, head_dim) of the prompts without their last token.
        memory: keys and values for each cross-attention of the VQ decoder.
    """

    frames: Tensor
    last_tokens: Tensor
    prefix: Tensor
    memory: tuple[ContextMemory, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the contexts."""
        yield from self.named().values()

    def named(self) -> dict[str, Tensor]:
        """All tensors of the contexts, by the names that they have in files."""
        tensors = {"frames": self.frames, "last_tokens": self.last_tokens, "prefix": self.prefix}
        for number, memory in enumerate(self.memory):
            tensors |= {f"memory.{number}.key": memory.key, f"memory.{number}.value": memory.value}
        return tensors

    @staticmethod
    def of_named(tensors: Mapping[str, Tensor]) -> Contexts:
        """Contexts of what `named` gave; other tensors are left out."""
        memory = tuple(
            ContextMemory(tensors[f"memory.{number}.key"], tensors[f"memory.{number}.value"])
            for number in range(sum(name.endswith(".key") for name in tensors))
        )
        return Contexts(tensors["frames"], tensors["last_tokens"], tensors["prefix"], memory)

    def index(self, indices: Tensor) -> Contexts:
        """Copy the given contexts."""
        memory = tuple(ContextMemory(m.key[indices], m.value[indices]) for m in self.memory)
        return Contexts(self.frames[indices], self.last_tokens[indices], self.prefix[:, :, indices], memory)

    def to(self, device: torch.device) -> Contexts:
        """Copy to a device."""
        memory = tuple(ContextMemory(m.key.to(device), m.value.to(device)) for m in self.memory)
        return Contexts(self.frames.to(device), self.last_tokens.to(device), self.prefix.to(device), memory)

    @staticmethod
    def cat(contexts: Sequence[Contexts]) -> Contexts:
        """Join contexts, one after the other."""
        joined = zip(*(c.memory for c in contexts), strict=True)
        return Contexts(
            torch.cat([c.frames for c in contexts]),
            torch.cat([c.last_tokens for c in contexts]),
            torch.cat([c.prefix for c in contexts], dim=2),
            tuple(ContextMemory(torch.cat([m.key for m in ms]), torch.cat([m.value for m in ms])) for ms in joined),
        )


def whole_rows(rows: Sequence[int] | Tensor) -> list[int]:
    """Numbers of rows, in a list.

    Raises:
        ValueError: if they are no whole numbers, as in a mask, or one number that is in no list.
    """
    listed = rows.tolist() if isinstance(rows, Tensor) else rows
    listed = list(listed) if isinstance(listed, Iterable) else [None]
    if any(isinstance(row, bool) or not isinstance(row, Integral) for row in listed):
        raise ValueError(f"rows must be whole numbers in a list (of a mask, mask.nonzero()[:, 0]), got {rows!r}")
    return list(map(int, listed))


class State(Protocol):
    """What planners, environments and players need of the state of a world; to them it is opaque otherwise.

    `WorldState` is the state of a `WorldModel`, `RemoteState` that of a `RemoteWorldModel`. Stepping returns a new
    state, and leaves the old one as it is.
    """

    @property
    def batch_size(self) -> int:
        """Number of worlds B."""
        ...

    def fork(self, num_branches: int) -> Self:
        """Branch every world: B become B * num_branches, the branches of world 0 first."""
        ...

    def index(self, rows: Sequence[int] | Tensor) -> Self:
        """Take the given worlds, in the given order; one may be taken more than once."""
        ...

    @staticmethod
    def cat(states: Sequence[Any]) -> Any:
        """Join states of one world, row after row."""
        ...


@dataclass(frozen=True)
class WorldState:
    """Where B imagined worlds stand. Immutable: stepping returns a new state and leaves the old one valid, so that
    keeping a state is all that undo needs. Several threads may step one state at once.

    Args:
        contexts: the P contexts that the rows continue.
        context_of_row: index into `contexts` for each of the B rows.
        tokens: tokens (B, n, tokens_per_future_frame) int64 of the frames since the context; rows with fewer than n
            frames are filled up at the front.
        tail: keys and values that those frames added to the prompts'.
        num_frames: number of frames since its context, for each row.
        num_steps: number of frames since `WorldModel.reset`, for each row, whatever was re-anchored since.
        streams: number of its stream of random numbers, for each row: `fork` gives each branch its own.
        is_from_file: whether it was read from a file, and no world has stepped it since.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, WorldModel, read_video
        >>> world = WorldModel.default()
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> branches = state.fork(3)
        >>> branches.batch_size, branches.index([2, 0]).batch_size, type(state).cat([state, branches]).batch_size
        (3, 2, 4)
    """

    contexts: Contexts
    context_of_row: tuple[int, ...]
    tokens: Tensor
    tail: Tail
    num_frames: tuple[int, ...]
    num_steps: tuple[int, ...]
    streams: tuple[int, ...]
    is_from_file: bool = False

    @property
    def batch_size(self) -> int:
        """Number of rows B."""
        return len(self.context_of_row)

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return self.tokens.device

    @property
    def num_bytes(self) -> int:
        """Memory that it takes: contexts, which states may share, and rows. Of several states see `num_bytes_of`."""
        return num_bytes_of([self])

    @property
    def rows_per_context(self) -> int | None:
        """N where rows 0 ... N-1 continue context 0, the next N context 1 and so on; None in any other order."""
        per_context, rest = divmod(self.batch_size, len(self.contexts))
        grouped = tuple(row // per_context for row in range(self.batch_size)) if per_context and not rest else None
        return per_context if grouped == self.context_of_row else None

    def grouped(self) -> WorldState:
        """The same state with rows in the order of their contexts; copies contexts only where that takes it."""
        if self.rows_per_context is not None:
            return self
        indices = torch.tensor(self.context_of_row, device=self.device)
        return replace(self, contexts=self.contexts.index(indices), context_of_row=tuple(range(self.batch_size)))

    def fork(self, num_branches: int) -> WorldState:
        """Branch every row: B rows become B * num_branches, the branches of row 0 first. Contexts are not copied.

        Branches given the same actions stay equal under greedy sampling or common random numbers; otherwise each draws
        its own future.

        Args:
            num_branches: number of branches of each row.

        Raises:
            ValueError: if num_branches is no whole number, or smaller than one.

        Example:
            >>> import torch
            >>> from ivideogpt_hf import EXAMPLE_EPISODE, Sampling, WorldModel, read_video
            >>> world = WorldModel.default()
            >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
            >>> actions = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
            >>> step, branches = world.step(state.fork(2), actions, sampling=Sampling(seed=0))
            >>> step.frame.shape, len(branches.contexts)
            (torch.Size([2, 3, 64, 64]), 1)
        """
        check_count(num_branches, "num_branches")
        rows = [row for row in range(self.batch_size) for _ in range(num_branches)]
        forked = self.index_rows(rows)
        # Streams are 64-bit numbers on the device; a deep tree wraps around.
        streams = (
            (stream * num_branches + branch) % 2**63 for stream in self.streams for branch in range(num_branches)
        )
        return replace(forked, streams=tuple(streams))

    def index(self, rows: Sequence[int] | Tensor) -> WorldState:
        """Take the given rows, in the given order; a row may be taken more than once.

        Raises:
            IndexError: if a row does not exist.
            ValueError: if a row is no whole number, as in a mask.
        """
        rows = whole_rows(rows)
        if not rows or any(not -self.batch_size <= row < self.batch_size for row in rows):
            raise IndexError(f"rows must be a non-empty choice of 0 ... {self.batch_size - 1}, got {rows}")
        rows = [row % self.batch_size for row in rows]
        selected = self.index_rows(rows)
        numbers = list(dict.fromkeys(selected.context_of_row))  # of the contexts that are used
        if len(numbers) == len(self.contexts):
            return selected
        context_of_row = tuple(numbers.index(context) for context in selected.context_of_row)
        contexts = self.contexts.index(torch.tensor(numbers, device=self.device))
        return replace(selected, contexts=contexts, context_of_row=context_of_row)

    def index_rows(self, rows: Sequence[int]) -> WorldState:
        """As `index`, of rows that exist, and with all contexts, used or not: none is copied."""
        indices = torch.tensor(rows, device=self.device)
        fields: dict[str, Any] = {name: tuple(getattr(self, name)[row] for row in rows) for name in PER_ROW}
        first_frame = self.tokens.shape[1] - max(fields["num_frames"])  # rows are filled up in front
        lengths = [self._tail_length(count) for count in fields["num_frames"]]
        return replace(
            self, tokens=self.tokens[indices, first_frame:], tail=self.tail.index(indices, lengths), **fields
        )

    def _tail_length(self, num_frames: int) -> int:
        """Positions that so many frames take in a tail: their tokens and slots."""
        return num_frames * (self.tokens.shape[2] + 1)

    @staticmethod
    def cat(states: Sequence[WorldState]) -> WorldState:
        """Join states of one world model, of any ages, row after row.

        Raises:
            ValueError: if there is nothing to join, or the states are on different devices.
        """
        if not states:
            raise ValueError("WorldState.cat needs at least one state")
        if len({state.device for state in states}) > 1:
            raise ValueError(f"states are on different devices: {[str(state.device) for state in states]}")
        # Branches of one context keep sharing it.
        contexts = list({id(state.contexts): state.contexts for state in states}.values())
        first: dict[int, int] = {}  # by context, the number of its first one among all that are joined
        for c in contexts:
            first[id(c)] = sum(len(before) for before in contexts[: len(first)])
        longest = max(count for state in states for count in state.num_frames)
        valid_token = next((s.tokens.flatten()[0].item() for s in states if s.tokens.numel()), 0)
        tokens = [
            # A negative width cuts what no row has any more.
            torch.nn.functional.pad(s.tokens, (0, 0, longest - s.tokens.shape[1], 0), value=valid_token)
            for s in states
        ]
        per_row = ("num_frames", "num_steps", "streams")
        return WorldState(
            contexts=contexts[0] if len(contexts) == 1 else Contexts.cat(contexts),
            context_of_row=tuple(first[id(s.contexts)] + context for s in states for context in s.context_of_row),
            tokens=torch.cat(tokens),
            tail=Tail.cat([s.tail for s in states], [list(map(s._tail_length, s.num_frames)) for s in states]),
            is_from_file=any(s.is_from_file for s in states),
            **{name: tuple(value for s in states for value in getattr(s, name)) for name in per_row},
        )

    def to(self, device: torch.device | str) -> WorldState:
        """Copy to a device."""
        device = torch.device(device)
        return replace(
            self, contexts=self.contexts.to(device), tokens=self.tokens.to(device), tail=self.tail.to(device)
        )

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write a snapshot: a safetensors file with a JSON header. The weights are not part of it.

        Raises:
            OSError: if it cannot be written; a file that was there is then unchanged.
        """
        tensors = self.contexts.named() | {"tokens": self.tokens}
        if self.tail.length:
            tensors["tail"] = self.tail.copy()
        header = {name: getattr(self, name) for name in PER_ROW} | {"version": SNAPSHOT_VERSION}
        write_tensors(tensors, file, header)

    @staticmethod
    def load(file: str | os.PathLike[str], device: torch.device | str = "cpu") -> WorldState:
        """Read a snapshot; it goes on exactly where it was saved, with the weights with which it was made.

        Raises:
            OSError: if there is no such file, or it is damaged.
            ValueError: if it holds something else, or a snapshot of another version, or its parts contradict each
                other. What only its world model can tell is checked when the state is first used.
        """
        header, tensors = read_tensors(file, device)
        if not isinstance(header, dict) or header.get("version") != SNAPSHOT_VERSION:
            raise ValueError(f"{file} is no snapshot of a WorldState, version {SNAPSHOT_VERSION}")
        problem = problem_of_snapshot(header, tensors)
        if problem is not None:
            raise ValueError(f"{file} is no snapshot of a WorldState: {problem}")
        tail = tensors.get("tail")
        buffer = None if tail is None else TailBuffer(tail, tail.shape[-2])
        return state_of(header, Contexts.of_named(tensors), tensors["tokens"], buffer)


def state_of(header: dict[str, Any], contexts: Contexts, tokens: Tensor, buffer: TailBuffer | None) -> WorldState:
    """A state of the parts of a snapshot, which were checked by `problem_of_snapshot`.

    Args:
        header: header of the snapshot.
        contexts: contexts that the rows continue.
        tokens: tokens of the state.
        buffer: keys and values that the state may share the beginning of; None where it has no frames.
    """
    rows: dict[str, Any] = {name: tuple(header[name]) for name in PER_ROW}
    state = WorldState(contexts, tokens=tokens, tail=Tail(), is_from_file=True, **rows)
    if buffer is None:
        return state
    lengths = [state._tail_length(count) for count in state.num_frames]
    return replace(state, tail=Tail(buffer, max(lengths), starts_of(lengths, state.device)))


def num_bytes_of(states: Iterable[WorldState]) -> int:
    """Memory that states take together. What several of them share counts once: contexts, and storage of rows."""
    states = list(states)
    shared = {id(state.contexts): state.contexts for state in states}.values()
    tensors = [tensor for contexts in shared for tensor in contexts.tensors()]
    for state in states:
        tensors.append(state.tokens)
        if state.tail.start is not None:
            tensors.append(state.tail.start)
        if state.tail.buffer is not None:
            with state.tail.buffer.reading() as storage:
                tensors.append(storage)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
