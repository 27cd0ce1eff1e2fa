"""Stepping worlds of several owners as one batch, and giving each its own back."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace

from .state import Contexts, WorldState


class Joiner:
    """Joins states for one step. Contexts that were joined last are used again, where the same owners come in the same
    order. They are kept for as long as all of the owners' are."""

    def __init__(self) -> None:
        self._last: tuple[list[weakref.ref[Contexts]], Contexts] | None = None

    def join(self, states: Sequence[WorldState]) -> WorldState:
        """All rows of the states, in their order; contexts that states share are joined once."""
        parts = tuple({id(state.contexts): state.contexts for state in states}.values())
        contexts = self._joined(parts)
        starts: dict[int, int] = {}  # by context, the number of its first one among all that are joined
        num_contexts = 0
        for part in parts:
            starts[id(part)] = num_contexts
            num_contexts += len(part)
        return WorldState.cat([_on_joined(state, contexts, starts[id(state.contexts)]) for state in states])

    def _joined(self, parts: tuple[Contexts, ...]) -> Contexts:
        last = self._last  # which another thread may forget
        if last is not None and [id(part()) for part in last[0]] == [id(part) for part in parts]:
            return last[1]
        joined = Contexts.cat(parts)
        self._last = [weakref.ref(part, self._forget) for part in parts], joined
        return joined

    def _forget(self, gone: weakref.ref[Contexts]) -> None:
        last = self._last
        if last is not None and any(part is gone for part in last[0]):
            self._last = None


def _on_joined(state: WorldState, contexts: Contexts, start: int) -> WorldState:
    """The state, continuing the same contexts where they stand among all."""
    return replace(state, contexts=contexts, context_of_row=tuple(start + number for number in state.context_of_row))


def split(joined: WorldState, states: Sequence[WorldState]) -> list[WorldState]:
    """What became of each state after the joined ones were stepped.

    Args:
        joined: state after the step.
        states: states that were joined.
    """
    results, start = [], 0
    for state in states:
        rows = range(start, start + state.batch_size)
        start = rows.stop
        if all(joined.num_frames[row] == count + 1 for row, count in zip(rows, state.num_frames, strict=True)):
            # It goes on with its own contexts, which are not copied.
            part = joined.index_rows(rows)
            results.append(replace(part, contexts=state.contexts, context_of_row=state.context_of_row))
        else:  # it was re-anchored
            results.append(joined.index(list(rows)))
    return results
