"""The interface of simulators: frames, rewards, bounds of actions, and perhaps a scripted expert."""

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
    """Result of one action.

    Attributes:
        reward: reward of the action.
        success: whether the task counts as solved in this state; None where the environment does not say.
        done: whether the episode is over.
    """

    reward: float
    success: bool | None
    done: bool


def choose_renderer() -> None:
    """Have MuJoCo render off screen by EGL where there is no screen, unless MUJOCO_GL is set.

    MuJoCo reads the variable when it is imported. So this has to be called before.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")


class Simulator(ABC):
    """An environment that renders, with continuous actions.

    Attributes:
        task: description of the task, as text.
        action_low, action_high: bounds (A,) float32 of actions.
        action_names: name of each action dimension, or None.
        observation: observation of the environment itself after the last reset or step, for policies written in Python.
        goal: image (H, W, 3) uint8 of how the episode should end; None in tasks without a goal image.
    """

    task: str
    action_low: np.ndarray
    action_high: np.ndarray
    action_names: Sequence[str] | None = None
    observation: Any = None
    goal: np.ndarray | None = None

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Begin the episode of a seed, which is always the same."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Transition:
        """Take an action (A,) within the bounds."""

    def step_repeatedly(self, action: np.ndarray, times: int) -> Transition:
        """Take an action several times, unless the episode ends before.

        Rewards are summed. The task counts as solved if it was solved after any of the steps.
        """
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
        """Draw the current state as an image (H, W, 3) uint8."""

    def expert_action(self) -> np.ndarray:
        """The action (A,) of the scripted expert in the current state, not clipped.

        Raises:
            ValueError: if there is no expert for this environment.
        """
        raise ValueError(f"there is no scripted expert for {self.task!r}; use the policy 'random' or one of your own")

    def get_state(self) -> Any:
        """Everything that the episode's future depends on, for `set_state`.

        Raises:
            ValueError: if this environment cannot save its state.
        """
        raise ValueError(f"the state of {self.task!r} cannot be saved, which planning needs")

    def set_state(self, state: Any) -> None:
        """Return to a state of this episode.

        Raises:
            ValueError: if this environment cannot save its state.
        """
        raise ValueError(f"the state of {self.task!r} cannot be saved, which planning needs")

    @abstractmethod
    def close(self) -> None:
        """Free the renderer."""
