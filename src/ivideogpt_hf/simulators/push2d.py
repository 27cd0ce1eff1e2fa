"""A disc pushes a puck over a square table, seen from above. There is no physics engine, and a step takes
microseconds."""

from __future__ import annotations

import numpy as np

from .base import Simulator, Transition

AGENT_RADIUS, PUCK_RADIUS = 0.07, 0.1  # the table has sides of 1
REACH = 0.05  # way of the disc by an action of 1 along one axis
SUBSTEPS = 8
SUCCESS_DISTANCE = 0.05
MIN_GOAL_DISTANCE = 0.15  # smallest distance from the puck's start to the goal
LONGEST_PUSH = 12  # largest number of steps from the start to the goal
BACKGROUND, PUCK, AGENT = np.array([236, 232, 222.0]), np.array([40, 90, 200.0]), np.array([215, 60, 50.0])
GOAL = np.array([165, 185, 225.0])
GOAL_SHOWN = "goal-shown"


class Push2DSimulator(Simulator):
    """Pushing in the plane. The puck moves only while it is pushed, along the line between the two centres. Walls stop
    both.

    The goal of each seed is the place where a scripted push from the start leaves the puck. The reward is minus the
    puck's distance from the goal. Success is a distance below 0.05, and does not end the episode.

    Frames do not show the goal: planners get it as an image of its own. An agent that sees nothing but frames needs the
    task "goal-shown", "push2d/goal-shown" by name, in which a pale disc lies at the goal.

    Args:
        size: side of the frames, in pixels.
        task: "" or "goal-shown".

    Raises:
        ValueError: if there is no such task.
    """

    task = "push the puck to the goal"
    action_names = ("right", "down")

    def __init__(self, size: int, task: str = "") -> None:
        if task not in ("", GOAL_SHOWN):
            raise ValueError(f"push2d has no task {task!r}; it has {GOAL_SHOWN}, or none: 'push2d'")
        self.size = size
        self._shows_goal = task == GOAL_SHOWN
        self.action_low, self.action_high = np.full(2, -1, np.float32), np.full(2, 1, np.float32)

    def reset(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        while True:
            puck = generator.uniform(0.3, 0.7, 2)
            angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(0.2, 0.3)
            agent = puck - distance * np.array([np.cos(angle), np.sin(angle)])
            # The push does not go exactly through the puck's centre, so that goals do not all lie straight ahead.
            heading = angle + generator.uniform(-0.25, 0.25)
            start = self.observation = np.concatenate([_inside(agent, AGENT_RADIUS), puck])
            for _ in range(generator.integers(LONGEST_PUSH // 2, LONGEST_PUSH + 1)):
                self._move(np.array([np.cos(heading), np.sin(heading)]))
            if np.linalg.norm(self.observation[2:] - puck) >= MIN_GOAL_DISTANCE:
                break
        self.goal_position = self.observation[2:]  # before the picture, which may show it
        self.goal = self.render()
        self.observation = start

    def step(self, action: np.ndarray) -> Transition:
        self._move(np.asarray(action, dtype=float))
        distance = float(np.linalg.norm(self.observation[2:] - self.goal_position))
        return Transition(-distance, distance < SUCCESS_DISTANCE, done=False)

    def _move(self, action: np.ndarray) -> None:
        agent, puck = self.observation[:2].copy(), self.observation[2:].copy()
        touch = AGENT_RADIUS + PUCK_RADIUS
        for _ in range(SUBSTEPS):
            agent = _inside(agent + REACH / SUBSTEPS * action, AGENT_RADIUS)
            apart = puck - agent
            distance = np.linalg.norm(apart)
            if distance < touch:
                normal = apart / distance if distance > 0 else np.array([1.0, 0.0])
                puck = _inside(agent + touch * normal, PUCK_RADIUS)
                apart = puck - agent
                distance = np.linalg.norm(apart)
                if distance < touch:  # a wall holds the puck
                    agent = puck - touch * apart / distance if distance > 0 else agent
        self.observation = np.concatenate([agent, puck])

    def render(self) -> np.ndarray:
        """Draw the discs, with smooth edges of one pixel."""
        places = (np.arange(self.size) + 0.5) / self.size
        image = np.broadcast_to(BACKGROUND, (self.size, self.size, 3))
        discs = [(self.observation[2:], PUCK_RADIUS, PUCK), (self.observation[:2], AGENT_RADIUS, AGENT)]
        if self._shows_goal:
            discs.insert(0, (self.goal_position, PUCK_RADIUS, GOAL))
        for (x, y), radius, colour in discs:
            distance = np.hypot(places[None] - x, places[:, None] - y)
            cover = np.clip((radius - distance) * self.size + 0.5, 0, 1)[..., None]
            image = image + cover * (colour - image)
        return image.round().astype(np.uint8)

    def expert_action(self) -> np.ndarray:
        """Go around the puck to the side that is away from the goal, then push."""
        agent, puck = self.observation[:2], self.observation[2:]
        push = self.goal_position - puck
        remaining = np.linalg.norm(push)
        if remaining < SUCCESS_DISTANCE / 2:
            return np.zeros(2, dtype=np.float32)
        push = push / remaining
        behind = puck - (AGENT_RADIUS + PUCK_RADIUS) * push
        outwards = agent - puck
        bearing = np.arctan2(outwards[1], outwards[0])
        detour = (np.arctan2(-push[1], -push[0]) - bearing + np.pi) % (2 * np.pi) - np.pi
        if abs(detour) > 0.5:
            radius = max(np.linalg.norm(outwards), AGENT_RADIUS + PUCK_RADIUS + 0.03)
            angle = bearing + np.clip(detour, -0.6, 0.6)
            target = puck + radius * np.array([np.cos(angle), np.sin(angle)])
        else:
            target = behind + min(remaining, REACH) * push
        return ((target - agent) / REACH).astype(np.float32)

    def get_state(self) -> np.ndarray:
        return self.observation.copy()

    def set_state(self, state: np.ndarray) -> None:
        self.observation = state.copy()

    def close(self) -> None:
        """Do nothing: there is no renderer."""


def _inside(position: np.ndarray, radius: float) -> np.ndarray:
    return np.clip(position, radius, 1 - radius)
