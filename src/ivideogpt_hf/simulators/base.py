"""What collection needs of an environment: frames, rewards, bounds of actions, and perhaps a scripted expert."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Transition:
    """What one action led to.

    Attributes:
        reward: what the action earned.
        success: whether the task counts as solved in this state; None where the environment does not say.
        done: whether the episode is over.
    """

    reward: float
    success: bool | None
    done: bool


def choose_renderer() -> None:
    """Have MuJoCo render off screen by EGL where there is no screen, unless MUJOCO_GL says otherwise.

    MuJoCo reads the variable when it is imported, so this comes first.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")


class Simulator(ABC):
    """An environment that renders, with continuous actions.

    Attributes:
        task: what is to be done, as text.
        action_low, action_high: (A,) float32 bounds.
        action_names: a name per dimension, or None.
        observation: the environment's own observation after the last reset or step, for policies written in Python.
        goal: (H, W, 3) uint8, what the world is to look like at the end of this episode; None where there is none.
    """

    task: str
    action_low: np.ndarray
    action_high: np.ndarray
    action_names: Sequence[str] | None = None
    observation: Any = None
    goal: np.ndarray | None = None

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Begin the episode that belongs to a seed, always the same."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Transition:
        """Take an action (A,) within the bounds."""

    def step_repeatedly(self, action: np.ndarray, times: int) -> Transition:
        """Take an action several times, unless the episode ends before: rewards are summed, and the task counts as
        solved if it was after any of them."""
        reward, success = 0.0, None
        for _ in range(times):
            transition = self.step(action)
            reward += transition.reward
            success = transition.success if success is None else success or transition.success
            if transition.done:
                break
        return Transition(reward, success, transition.done)

    @abstractmethod
    def render(self) -> np.ndarray:
        """What the world looks like now, (H, W, 3) uint8."""

    def expert_action(self) -> np.ndarray:
        """What the scripted expert does in this state, (A,), not clipped.

        Raises:
            ValueError: if there is no expert for this environment.
        """
        raise ValueError(f"there is no scripted expert for {self.task!r}; use the policy 'random' or one of your own")

    def get_state(self) -> Any:
        """Everything that the episode's future depends on, to return to by `set_state`.

        Raises:
            ValueError: if this environment cannot.
        """
        raise ValueError(f"the state of {self.task!r} cannot be kept, so that it cannot be planned in")

    def set_state(self, state: Any) -> None:
        """Return to a state of this episode.

        Raises:
            ValueError: if this environment cannot.
        """
        raise ValueError(f"the state of {self.task!r} cannot be kept, so that it cannot be planned in")

    @abstractmethod
    def close(self) -> None:
        """Free the renderer."""
