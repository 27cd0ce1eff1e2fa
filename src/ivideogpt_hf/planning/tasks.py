"""Tasks to plan for: environments with fixed instances, each with a start, perhaps a goal image, and a test of success.

Instances belong to seeds. Those of RoboDesk follow VP2 (Tian et al., 2023), with starts and goals of our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..simulators import Simulator, Transition, make_simulator
from .objectives import FrameChoice

# A start that is so many steps before the goal.
ROBODESK_STEPS_BEFORE, PUSHT_STEPS_BEFORE = 10, 25
PUSHT_WARM_UP = 20  # steps, after which the disc is near the block
PUSHT_PIXELS, PUSHT_ANGLE = 20.0, np.pi / 9  # how far from the goal the block may be
LONGEST_EPISODE = 60  # steps of an expert, in which a goal must be found
ATTEMPTS = 50
SEED_STEP = 1_000_003  # to the next attempt at an instance


@dataclass(frozen=True)
class Imagined:
    """What a simulator says of action sequences.

    Attributes:
        frames: (N, 1 or H, 3, H, W) uint8, or None.
        rewards: (N, H) float32.
    """

    frames: Tensor | None
    rewards: Tensor


class PlanningTask:
    """An environment whose instances begin by a seed.

    Args:
        name: of the environment, see `make_simulator`.
        size: side of the frames.
        action_repeat: simulator steps per action.

    Attributes:
        goal: (3, H, W) uint8 of the instance that was begun last, or None.

    Raises:
        ImportError: if the environment's package is missing; names the extra.
        ValueError: if there is no such environment, or its state cannot be kept.
    """

    goal: Tensor | None

    def __init__(self, name: str, size: int, action_repeat: int = 1) -> None:
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {action_repeat}")
        self.name, self.action_repeat = name, action_repeat
        self.simulator: Simulator = make_simulator(name, size)
        self.simulator.reset(0)
        self.simulator.get_state()

    @property
    def bounds(self) -> tuple[list[float], list[float]]:
        """Of actions."""
        return self.simulator.action_low.tolist(), self.simulator.action_high.tolist()

    def reset(self, seed: int) -> Tensor:
        """Begin an instance; returns its first frame (3, H, W) uint8."""
        self.simulator.reset(seed)
        self.goal = None if self.simulator.goal is None else _as_frame(self.simulator.goal)
        return self.frame()

    def frame(self) -> Tensor:
        """(3, H, W) uint8."""
        return _as_frame(self.simulator.render())

    def step(self, action: Tensor) -> Transition:
        """Take an action (A,); success by the task's own test."""
        clipped = np.clip(action.numpy(), self.simulator.action_low, self.simulator.action_high)
        return self.simulator.step_repeatedly(clipped, self.action_repeat)

    def imagine(self, actions: Tensor, frames: FrameChoice | None) -> Imagined:
        """Try action sequences (N, H, A) from here, and come back."""
        start = self.simulator.get_state()
        rewards = torch.zeros(actions.shape[:2])
        seen = []
        for number, sequence in enumerate(actions):
            self.simulator.set_state(start)
            shown = []
            for step, action in enumerate(sequence):
                rewards[number, step] = self.step(action).reward
                if frames == "all" or (frames == "last" and step == len(sequence) - 1):
                    shown.append(self.frame())
            if frames is not None:
                seen.append(torch.stack(shown))
        self.simulator.set_state(start)
        return Imagined(torch.stack(seen) if seen else None, rewards)

    def close(self) -> None:
        """Free the renderer."""
        self.simulator.close()


class ReachableGoalTask(PlanningTask):
    """A task whose goal is what a scripted expert made of the start, so many steps later."""

    def reset(self, seed: int) -> Tensor:
        for attempt in range(ATTEMPTS):
            self.simulator.reset(seed + attempt * SEED_STEP)
            if self._find_goal():
                return self.frame()
        raise ValueError(f"the expert of {self.name} found no goal from the seed {seed} in {ATTEMPTS} episodes")

    def _find_goal(self) -> bool:
        """Let the expert play, keep a goal, and return to the start; whether there is one."""
        raise NotImplementedError

    def _play(self, num_steps: int) -> tuple[list[Any], Transition]:
        """Let the expert act until it succeeds or the episode ends: all states, and the last transition."""
        states = [self.simulator.get_state()]
        for _ in range(num_steps):
            transition = self.step(torch.from_numpy(np.asarray(self.simulator.expert_action(), dtype=np.float32)))
            states.append(self.simulator.get_state())
            if transition.success or transition.done:
                break
        return states, transition


class RoboDeskTask(ReachableGoalTask):
    """VP2's: the goal is what a solved episode ends with, the start some steps before. Success at any time counts."""

    def _find_goal(self) -> bool:
        states, last = self._play(LONGEST_EPISODE)
        if not last.success:
            return False
        self.goal = self.frame()
        self.simulator.set_state(states[max(0, len(states) - 1 - ROBODESK_STEPS_BEFORE)])
        return True


class PushTTask(ReachableGoalTask):
    """The block is to be where the expert pushes it within 25 steps: at most 20 of 512 pixels and 20 degrees away."""

    def _find_goal(self) -> bool:
        self.goal = None
        self._play(PUSHT_WARM_UP)
        start, before = self.simulator.get_state(), self._block()
        _, last = self._play(PUSHT_STEPS_BEFORE)
        after = self._block()
        if last.done or _near(before, after):
            return False
        self._goal_block, self.goal = after, self.frame()
        self.simulator.set_state(start)
        return True

    def _block(self) -> np.ndarray:
        """x, y and angle."""
        return np.array(self.simulator.observation[2:5])

    def step(self, action: Tensor) -> Transition:
        transition = super().step(action)
        reached = self.goal is not None and _near(self._block(), self._goal_block)
        return Transition(transition.reward, reached, transition.done)


def make_task(name: str, size: int, action_repeat: int = 1) -> PlanningTask:
    """A task by the name of its environment: arguments and errors as of `PlanningTask`."""
    family = name.partition("/")[0]
    kind = {"robodesk": RoboDeskTask, "pusht": PushTTask}.get(family, PlanningTask)
    return kind(name, size, action_repeat)


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    turned = (one[2] - other[2] + np.pi) % (2 * np.pi) - np.pi
    return bool(np.linalg.norm(one[:2] - other[:2]) < PUSHT_PIXELS and abs(turned) < PUSHT_ANGLE)


def _as_frame(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
