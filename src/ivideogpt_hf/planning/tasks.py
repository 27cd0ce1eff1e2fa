"""Tasks to plan for: environments whose instances have a start, perhaps a goal image, and a test of success.

Each seed has one instance. Those of RoboDesk follow VP2 (Tian et al., 2023), but with other starts and goals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..simulators import Simulator, Transition, make_simulator
from .objectives import FrameChoice

# The number of steps from the start to the goal.
ROBODESK_STEPS_BEFORE, PUSHT_STEPS_BEFORE = 10, 25
PUSHT_WARM_UP = 20  # number of steps after which the disc is near the block
PUSHT_PIXELS, PUSHT_ANGLE = 20.0, np.pi / 9  # largest distance of the block from the goal in a success
LONGEST_EPISODE = 60  # number of steps that the expert has to solve a task
ATTEMPTS = 50
SEED_STEP = 1_000_003  # difference between the seeds of two attempts at an instance


@dataclass(frozen=True)
class Imagined:
    """Results of action sequences in a simulator.

    Attributes:
        frames: frames (N, 1 or H, 3, H, W) uint8, or None.
        rewards: rewards (N, H) float32.
    """

    frames: Tensor | None
    rewards: Tensor


class PlanningTask:
    """An environment with one instance per seed.

    Args:
        name: name of the environment, see `make_simulator`.
        size: side of the frames, in pixels.
        action_repeat: number of simulator steps per action.

    Attributes:
        goal: goal image (3, H, W) uint8 of the instance that was begun last, or None.

    Raises:
        ImportError: if the environment's package is missing; names the extra.
        ValueError: if there is no such environment, or its state cannot be saved.
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
        """Lower and upper bounds of an action, A values each."""
        return self.simulator.action_low.tolist(), self.simulator.action_high.tolist()

    def reset(self, seed: int) -> Tensor:
        """Begin an instance; returns its first frame (3, H, W) uint8."""
        self.simulator.reset(seed)
        self.goal = None if self.simulator.goal is None else _as_frame(self.simulator.goal)
        return self.frame()

    def frame(self) -> Tensor:
        """The frame (3, H, W) uint8 that shows the current state."""
        return _as_frame(self.simulator.render())

    def step(self, action: Tensor) -> Transition:
        """Take an action (A,), which is clipped to the bounds. Success is decided by the task's own test."""
        clipped = np.clip(action.numpy(), self.simulator.action_low, self.simulator.action_high)
        return self.simulator.step_repeatedly(clipped, self.action_repeat)

    def imagine(self, actions: Tensor, frames: FrameChoice | None) -> Imagined:
        """Try action sequences (N, H, A) from the current state, and return to it.

        Args:
            actions: action sequences (N, H, A).
            frames: frames that are rendered: "all", the "last" one of each sequence, or None for none.
        """
        start = self.simulator.get_state()
        rewards = torch.zeros(actions.shape[:2])
        videos = []
        for number, sequence in enumerate(actions):
            self.simulator.set_state(start)
            video = []
            for step, action in enumerate(sequence):
                rewards[number, step] = self.step(action).reward
                if frames == "all" or (frames == "last" and step == len(sequence) - 1):
                    video.append(self.frame())
            if frames is not None:
                videos.append(torch.stack(video))
        self.simulator.set_state(start)
        return Imagined(torch.stack(videos) if videos else None, rewards)

    def close(self) -> None:
        """Free the renderer."""
        self.simulator.close()


class ReachableGoalTask(PlanningTask):
    """A task whose goal is a state that a scripted expert reached from the start."""

    def reset(self, seed: int) -> Tensor:
        for attempt in range(ATTEMPTS):
            self.simulator.reset(seed + attempt * SEED_STEP)
            if self._find_goal():
                return self.frame()
        raise ValueError(f"the expert of {self.name} found no goal from the seed {seed} in {ATTEMPTS} episodes")

    def _find_goal(self) -> bool:
        """Let the expert act, set the goal, and return to the start. Returns whether the expert found a goal."""
        raise NotImplementedError

    def _play(self, num_steps: int) -> tuple[list[Any], Transition]:
        """Let the expert act until it succeeds or the episode ends. Returns all states and the last transition."""
        states = [self.simulator.get_state()]
        for _ in range(num_steps):
            transition = self.step(torch.from_numpy(np.asarray(self.simulator.expert_action(), dtype=np.float32)))
            states.append(self.simulator.get_state())
            if transition.success or transition.done:
                break
        return states, transition


class RoboDeskTask(ReachableGoalTask):
    """A RoboDesk task as in VP2. The goal is the end of an episode that the expert solved. The start is some steps
    before it. Success at any time counts."""

    def _find_goal(self) -> bool:
        states, last = self._play(LONGEST_EPISODE)
        if not last.success:
            return False
        self.goal = self.frame()
        self.simulator.set_state(states[max(0, len(states) - 1 - ROBODESK_STEPS_BEFORE)])
        return True


class PushTTask(ReachableGoalTask):
    """Push-T with a goal that the expert reaches in 25 steps. The block must be within 20 of 512 pixels, and 20
    degrees, of where the expert pushed it."""

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
        """Pose (3,) of the block: x, y and angle."""
        return np.array(self.simulator.observation[2:5])

    def step(self, action: Tensor) -> Transition:
        transition = super().step(action)
        reached = self.goal is not None and _near(self._block(), self._goal_block)
        return Transition(transition.reward, reached, transition.done)


def make_task(name: str, size: int, action_repeat: int = 1) -> PlanningTask:
    """Make a task by the name of its environment; see `PlanningTask` for arguments and errors."""
    family = name.partition("/")[0]
    kind = {"robodesk": RoboDeskTask, "pusht": PushTTask}.get(family, PlanningTask)
    return kind(name, size, action_repeat)


def _near(pose: np.ndarray, goal: np.ndarray) -> bool:
    angle = (pose[2] - goal[2] + np.pi) % (2 * np.pi) - np.pi
    return bool(np.linalg.norm(pose[:2] - goal[:2]) < PUSHT_PIXELS and abs(angle) < PUSHT_ANGLE)


def _as_frame(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
