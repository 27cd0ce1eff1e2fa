"""Frames of episodes, each stored once, and the steps between them: stacks and n-step returns are built on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

# Marks the absence of a neighbour.
NONE = -1
ARRAYS = ("frames", "serials", "previous", "following", "is_step", "is_complete", "actions", "rewards", "terminated")
QUEUES = ("free", "order")


class FrameStore:
    """Frames in slots, linked to the frames before and after them.

    A *step* leads from one frame to the following one, and has an action, a reward, and whether the episode terminated
    with it. Stacks follow the links backwards, returns follow them forwards, so neither ever leaves an episode. When
    all slots are taken, the oldest frame is forgotten. A step whose stack would need a forgotten frame is forgotten
    too.

    Memory: one uint8 frame and about 40 + 4 * action_dim bytes for each slot, taken from the system when a slot is
        first used.

    Args:
        num_slots: number of frames that are kept at most.
        frame_shape: shape (3, H, W) of a frame.
        action_dim: width A of an action.
        num_stack: number of frames in a stack, S.
    """

    def __init__(self, num_slots: int, frame_shape: tuple[int, ...], action_dim: int, num_stack: int) -> None:
        self.num_slots, self.frame_shape = num_slots, tuple(frame_shape)
        self.action_dim, self.num_stack = action_dim, num_stack
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        num_slots = self.num_slots
        self.frames = np.zeros((num_slots, *self.frame_shape), np.uint8)
        self.serials = np.full(num_slots, NONE, np.int64)  # tell the frames apart that share a slot one after the other
        self._num_put = 0
        # The first frame of an episode is its own predecessor, so that stacks repeat it.
        self.previous = np.full(num_slots, NONE, np.int64)
        self.following = np.full(num_slots, NONE, np.int64)
        self.is_step = np.zeros(num_slots, bool)  # whether a step leads from this frame to the following one
        self.is_complete = np.zeros(num_slots, bool)  # whether it is a step whose stack is complete, too
        self.actions = np.zeros((num_slots, self.action_dim), np.float32)
        self.rewards = np.zeros(num_slots, np.float32)
        self.terminated = np.zeros(num_slots, bool)
        self._free: list[int] = []  # slots that were used before
        self._num_touched = 0  # slots from here on were never used
        self._order: deque[int] = deque()  # slots in use, oldest first
        self._steps: np.ndarray | None = None

    @property
    def steps(self) -> np.ndarray:
        """Slots (N,) int64 from which a step leads whose stack is complete, in a fixed order."""
        if self._steps is None:
            self._steps = np.flatnonzero(self.is_complete[: self._num_touched])
        return self._steps

    @property
    def num_frames(self) -> int:
        """Number of frames that are stored."""
        return len(self._order)

    # -- writing ------------------------------------------------------------------------------------------------------

    def begin(self, stack: np.ndarray) -> int:
        """Begin an episode with a stack (S, 3, H, W), and return the slot of its last frame.

        Where all frames of the stack are the same, as at a true beginning, one is stored.
        """
        if all(np.array_equal(frame, stack[-1]) for frame in stack[:-1]):
            stack = stack[-1:]
        slot = NONE
        for frame in stack:
            slot = self._put(frame, slot)
        return slot

    def append(self, slot: int, action: np.ndarray, reward: float, frame: np.ndarray, *, terminated: bool) -> int:
        """Add a step from the last frame of an episode, and return the slot of the frame that it led to."""
        new = self._put(frame, slot)
        self.actions[slot], self.rewards[slot], self.terminated[slot] = action, reward, terminated
        self.is_step[slot], self.is_complete[slot] = True, self._has_whole_stack(slot)
        return new

    def _has_whole_stack(self, slot: int) -> bool:
        for _ in range(self.num_stack - 1):
            slot = int(self.previous[slot])
            if slot == NONE:
                return False
        return True

    def forget_oldest(self, count: int) -> None:
        """Forget the oldest frames, and the steps whose stacks need them."""
        for _ in range(count):
            slot = self._order.popleft()
            after = int(self.following[slot])
            if after != NONE:
                self.previous[after] = NONE
            for _ in range(self.num_stack - 1):
                if after == NONE:
                    break
                self.is_complete[after] = False
                after = int(self.following[after])
            self.following[slot] = NONE
            self.is_step[slot] = self.is_complete[slot] = False
            self._free.append(slot)
        self._steps = None

    def _put(self, frame: np.ndarray, before: int) -> int:
        if self._free:
            slot = self._free.pop()
        elif self._num_touched < self.num_slots:
            slot, self._num_touched = self._num_touched, self._num_touched + 1
        else:
            self.forget_oldest(1)
            slot = self._free.pop()
        self.frames[slot], self.following[slot], self.previous[slot] = frame, NONE, slot
        self.serials[slot], self._num_put = self._num_put, self._num_put + 1
        self.is_step[slot] = self.is_complete[slot] = False
        if before != NONE:
            self.previous[slot], self.following[before] = before, slot
        self._order.append(slot)
        self._steps = None
        return slot

    # -- reading ------------------------------------------------------------------------------------------------------

    def stacks(self, slots: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The stacks (N, S, 3, H, W) uint8, oldest frame first, that end at N slots, in ``out`` if it is given."""
        indices = [slots]
        for _ in range(self.num_stack - 1):
            indices.append(self.previous[indices[-1]])
        # With mode "raise", numpy would write to memory of its own first. All slots exist.
        return np.take(self.frames, np.stack(indices[::-1], axis=1), axis=0, out=out, mode="clip")

    def returns(
        self,
        slots: np.ndarray,
        num_steps: int,
        gamma: float,
        scale: Callable[[np.ndarray], np.ndarray] = lambda rewards: rewards,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sum the rewards of up to ``num_steps`` steps, as many as the episode has from each slot on.

        Args:
            slots: slots (N,) from which a step leads.
            num_steps: number of steps.
            gamma: factor by which each further reward counts less.
            scale: function of rewards (N,) that is applied before they are summed.

        Returns:
            The sums (N,) float32, the discounts (N,) float32 of what comes after them, the slots (N,) of the last
            frames, and whether the episode terminated there (N,) bool.
        """
        last, goes_on = slots, np.ones(len(slots), bool)
        sums, discounts = np.zeros(len(slots)), np.ones(len(slots))
        for step in range(num_steps):
            if step:
                after = self.following[last]
                goes_on = goes_on & ~self.terminated[last] & self.is_step[after]
                last = np.where(goes_on, after, last)
            sums += np.where(goes_on, discounts * scale(self.rewards[last]), 0)
            discounts = np.where(goes_on, discounts * gamma, discounts)
        return sums.astype(np.float32), discounts.astype(np.float32), self.following[last], self.terminated[last]

    def segment_starts(self, length: int) -> np.ndarray:
        """All slots (N,) from which steps lead through ``length`` frames, at least 2, with the first one."""
        starts = np.flatnonzero(self.is_step[: self._num_touched])
        last = self.following[starts]
        for _ in range(length - 2):
            goes_on = self.is_step[last]
            starts, last = starts[goes_on], self.following[last[goes_on]]
        return starts

    def segments(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The frames, as slots (N, length), of N segments whose starts `segment_starts` gave."""
        slots = [starts]
        for _ in range(length - 1):
            slots.append(self.following[slots[-1]])
        return np.stack(slots, axis=1)

    def histories(self, slots: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames that end at N slots, as slots (N, length), and which rows are whole (N,) bool.

        A row is not whole where fewer frames are known or steps do not connect them.
        """
        rows, is_whole = [slots], np.ones(len(slots), bool)
        for _ in range(length - 1):
            now, before = rows[-1], self.previous[rows[-1]]
            is_whole = is_whole & (before != NONE) & (before != now) & self.is_step[before]
            rows.append(np.where(is_whole, before, now))
        return np.stack(rows[::-1], axis=1), is_whole

    # -- saving -------------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is stored, for `set_arrays`. The arrays are views of the store."""
        content = {name: getattr(self, name)[: self._num_touched] for name in ARRAYS}
        queues = {"free": np.array(self._free, np.int64), "order": np.array(self._order, np.int64)}
        return content | queues | {"num_put": np.array(self._num_put)}

    def set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `arrays` of a store of the same sizes gave.

        Raises:
            ValueError: if an array does not fit.
        """
        self._check_arrays(arrays)
        num_touched = len(arrays["frames"])
        self.clear()
        for name in ARRAYS:
            getattr(self, name)[:num_touched] = arrays[name]
        self._num_touched, self._num_put = num_touched, int(arrays["num_put"])
        self._free, self._order = arrays["free"].tolist(), deque(arrays["order"].tolist())

    def _check_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        missing = [name for name in (*ARRAYS, *QUEUES, "num_put") if name not in arrays]
        if missing:
            raise ValueError(f"a saved store of frames lacks {', '.join(missing)}")
        num_touched = arrays["frames"].shape[0] if arrays["frames"].ndim else 0
        for name in ARRAYS:
            own, given = getattr(self, name), arrays[name]
            if given.shape != (num_touched, *own.shape[1:]) or given.dtype != own.dtype or num_touched > self.num_slots:
                raise ValueError(
                    f"the saved {name} {given.shape} {given.dtype} do not fit a buffer for {own.shape} {own.dtype}; "
                    "make it with the sizes that the saved one had"
                )
        for name in ("previous", "following"):
            if ((arrays[name] < NONE) | (arrays[name] >= num_touched)).any():
                raise ValueError(f"the saved {name} name frames beyond the {num_touched} that there are")
        slots = np.concatenate([arrays[name].ravel() for name in QUEUES])
        if not np.array_equal(np.sort(slots), np.arange(num_touched)):
            raise ValueError(f"the saved {' and '.join(QUEUES)} do not name each of {num_touched} slots once")
        if (arrays["is_step"] & (arrays["following"] == NONE)).any():
            raise ValueError("a saved step leads to no frame")
        if arrays["num_put"].shape or arrays["num_put"].dtype.kind != "i":
            raise ValueError(f"the saved num_put must be a whole number, got {arrays['num_put']}")

    def __getstate__(self) -> dict[str, Any]:
        # Slots that were never used are left out of pickles and copies.
        sizes = (self.num_slots, self.frame_shape, self.action_dim, self.num_stack)
        return {"sizes": sizes, "arrays": {name: array.copy() for name, array in self.arrays().items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["sizes"])  # type: ignore[misc] # it only fills the object
        self.set_arrays(state["arrays"])
