"""Imagined rollouts, each of which is forgotten as a whole, by their number or by their age."""

from __future__ import annotations

from collections import deque

import numpy as np

from .frame_store import FrameStore


class RolloutStore:
    """Imagined rollouts in a `FrameStore`. Nothing terminates in them, and the oldest make room for new ones.

    Args:
        max_steps: number of steps that are kept at most.
        max_age: number of updates of the world model after which a rollout expires; None: never.
        frame_shape: shape (3, H, W) of a frame.
        action_dim: width A of an action.
        num_stack: number of frames in a stack, S.

    Attributes:
        frames: store of the frames.
        num_updates: number of updates of the world model so far.
    """

    def __init__(
        self, max_steps: int, max_age: int | None, frame_shape: tuple[int, ...], action_dim: int, num_stack: int
    ) -> None:
        self.max_steps, self.max_age = max_steps, max_age
        # Rollouts of one step need the most frames: a stack, and the frame that the step leads to.
        self.frames = FrameStore(max_steps * (num_stack + 1), frame_shape, action_dim, num_stack)
        self.num_updates = 0
        self.clear()

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.frames.steps)

    def clear(self) -> None:
        """Forget all rollouts."""
        self.frames.clear()
        # (number of frames, number of steps, number of model updates before it), oldest first
        self._rollouts: deque[tuple[int, int, int]] = deque()

    def add(self, stack: np.ndarray, frames: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Add a rollout of T steps, at most ``max_steps``.

        Args:
            stack: stack (S, 3, H, W) uint8 that it starts from.
            frames: frames (T, 3, H, W) uint8 that the steps lead to.
            actions: actions (T, A), scaled to [-1, 1].
            rewards: rewards (T,).
        """
        num_steps, store = len(frames), self.frames
        while len(self) + num_steps > self.max_steps:
            self._expire_oldest()
        before = store.num_frames
        slot = store.begin(stack)
        for frame, action, reward in zip(frames, actions, rewards, strict=True):
            slot = store.append(slot, action, float(reward), frame, terminated=False)
        self._rollouts.append((store.num_frames - before, num_steps, self.num_updates))

    def count_model_update(self) -> None:
        """Note that the world model was updated: rollouts that are too old expire."""
        self.num_updates += 1
        while self.max_age and self._rollouts:
            if self.num_updates - self._rollouts[0][2] < self.max_age:
                break
            self._expire_oldest()

    def _expire_oldest(self) -> None:
        num_frames, _, _ = self._rollouts.popleft()
        self.frames.forget_oldest(num_frames)

    @property
    def rollouts(self) -> list[list[int]]:
        """Numbers of frames, of steps, and of updates before it, of each rollout, oldest first."""
        return [list(rollout) for rollout in self._rollouts]

    def set_rollouts(self, rollouts: list[list[int]], num_updates: int) -> None:
        """Take over the rollouts of another store, whose frames were set already.

        Raises:
            ValueError: if they are not those of the frames.
        """
        frames, steps = (sum(rollout[column] for rollout in rollouts) for column in (0, 1))
        if (frames, steps) != (self.frames.num_frames, len(self)) or steps > self.max_steps:
            raise ValueError(
                f"the saved rollouts of {frames} frames and {steps} steps do not fit {self.frames.num_frames} frames, "
                f"{len(self)} steps and room for {self.max_steps}"
            )
        self._rollouts, self.num_updates = deque((f, s, birth) for f, s, birth in rollouts), num_updates
