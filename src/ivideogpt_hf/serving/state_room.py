"""How much memory the states of clients may take, and how much a call will add. A call for which there is no room is
refused before it is answered.

States share: a step, a branch and a choice of rows go on with the contexts of their state, and a step mostly writes
into the same storage. So what counts is storage, each once, however many states and sessions use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ..decoding.frames import FRAMES_PER_GROWTH
from ..world.state import WorldState, num_bytes_of
from ..world.world_model import WorldModel
from . import messages
from .cores import call_aside
from .limits import ByteBudget


class StateRoom:
    """Memory for the states of all clients.

    Args:
        world: model that makes the states; one is made here, to see what it takes.
        max_bytes: largest number of bytes of all states.
        held: function that gives the states that are kept.
    """

    def __init__(self, world: WorldModel, max_bytes: int, held: Callable[[], Iterable[WorldState]]) -> None:
        spec = world.spec
        frames = torch.zeros(1, spec.num_context_frames, 3, *spec.frame_size, dtype=torch.uint8)
        state = call_aside(lambda: world.reset(frames))
        self._horizon, self._held = spec.max_future_frames, held
        self._context_bytes = state.num_bytes
        self._position_bytes = state.contexts.prefix.nbytes // state.contexts.prefix.shape[-2]
        self._budget = ByteBudget(
            max_bytes,
            "states (--max-state-bytes)",
            "forget states or close sessions, or wait until those of others expire",
        )

    @contextmanager
    def reserved(self, call: messages.Call, states: Sequence[WorldState]) -> Iterator[None]:
        """Keep room for what a call adds, until its state is kept.

        Args:
            call: call that is about to be answered.
            states: states that it names.

        Raises:
            NoRoomError: if there is no room for it beside the states that are kept.
            ValueError: if there would be none without them.
        """
        num_bytes = self.needed(call, states)
        if not num_bytes:
            yield
            return
        held = num_bytes_of(self._held())
        self._budget.used += held
        try:
            self._budget.take(num_bytes)
        finally:
            self._budget.used -= held
        try:
            yield
        finally:
            self._budget.used -= num_bytes

    def needed(self, call: messages.Call, states: Sequence[WorldState]) -> int:
        """The most bytes that the state takes which a call makes, beside the states that it names."""
        if isinstance(call, messages.ResetCall):
            return len(call.frames) * self._context_bytes
        if isinstance(call, messages.BeginCall):
            return len(call.starts) * self._context_bytes
        if isinstance(call, messages.ObserveCall):
            return states[0].batch_size * self._context_bytes
        num_frames = max(max(state.num_frames) for state in states) if states else 0
        if isinstance(call, messages.StepCall):
            num_rows, is_reanchored = states[0].batch_size, num_frames >= self._horizon
            copied = num_rows * self._context_bytes if is_reanchored else 0
            return copied + self._rows(states[0], num_rows, FRAMES_PER_GROWTH + (0 if is_reanchored else num_frames))
        if isinstance(call, messages.ForkCall):
            return self._rows(states[0], states[0].batch_size * call.num_branches, num_frames)
        if isinstance(call, messages.IndexCall):
            num_contexts = len(states[0].contexts)
            copied = 0 if num_contexts == 1 else min(num_contexts, len(call.rows)) * self._context_bytes
            return copied + self._rows(states[0], len(call.rows), num_frames)
        if isinstance(call, messages.CatCall):
            contexts = {id(state.contexts): len(state.contexts) for state in states}
            copied = 0 if len(contexts) == 1 else sum(contexts.values()) * self._context_bytes
            return copied + self._rows(states[0], sum(state.batch_size for state in states), num_frames)
        return 0  # a rollout and a picture leave no state

    def _rows(self, state: WorldState, num_rows: int, num_frames: int) -> int:
        """What rows like a state's take with tails of so many frames: a block of positions for each, and one more."""
        block_length = state.tokens.shape[2] + 1
        return num_rows * ((num_frames * block_length + 1) * self._position_bytes + num_frames * block_length * 8)
