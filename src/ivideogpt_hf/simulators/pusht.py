"""Push-T of gym-pusht: a disc pushes a T-shaped block onto its goal, in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..extras import require_packages
from ..media.pixels import resize_pixels
from .gymnasium import GymnasiumSimulator

ENVIRONMENT_ID = "gym_pusht/PushT-v0"
MIN_RENDERED_SIZE = 96  # pixels; in smaller pictures the environment's lines would have no thickness
GOAL = (256.0, 256.0, np.pi / 4)  # x, y and angle of the block
CENTRE_OF_MASS = 45.0  # distance from the block's origin, down its stem
DETOUR_RADIUS = 115.0  # radius of a circle around the block's centre, on which the disc hardly touches the block
MOTION = ("angle", "position", "velocity", "angular_velocity")  # in this order: turning a body moves its origin
STRIDE = 45.0  # distance from the disc to its next target
LARGEST_OFFSET, OFFSET_PER_RADIAN = 45.0, 60.0  # distance of the push from the block's centre, which turns the block


class PushTSimulator(GymnasiumSimulator):
    """Push-T. An action is the place that the disc moves to: x to the right and y downwards, each from 0 to 512.

    The reward is the share of the goal that the block covers, divided by 0.95. Success is a share above 0.95. It ends
    the episode, as does the environment's limit of 300 steps. Frames do not show the action, unlike the environment's
    own.

    Args:
        size: side of the frames, in pixels.

    Raises:
        ImportError: without gym_pusht; names the extra.
    """

    action_names = ("x", "y")

    def __init__(self, size: int) -> None:
        require_packages("gym_pusht", purpose="Push-T")  # its import registers the environment
        rendered = size * -(-MIN_RENDERED_SIZE // size)  # the least multiple that is large enough
        super().__init__(ENVIRONMENT_ID, size, observation_width=rendered, observation_height=rendered)
        self.task = "push the T onto the goal"

    def render(self) -> np.ndarray:
        # The environment's render() also marks the last action, even that of the episode before.
        pixels = self._environment.unwrapped._render(visualize=False)
        if pixels.shape[0] == self.size:
            return pixels
        return resize_pixels(pixels[None], (self.size, self.size))[0]

    def get_state(self) -> Any:
        environment = self._environment.unwrapped
        bodies = [[getattr(body, name) for name in MOTION] for body in (environment.agent, environment.block)]
        return bodies, self._environment._elapsed_steps, self.observation.copy()

    def set_state(self, state: Any) -> None:
        """Restore the bodies' motion. The contacts that the physics engine remembers are not restored."""
        environment = self._environment.unwrapped
        bodies, self._environment._elapsed_steps, observation = state
        for body, motion in zip((environment.agent, environment.block), bodies, strict=True):
            for name, value in zip(MOTION, motion, strict=True):
                setattr(body, name, value)
            environment.space.reindex_shapes_for_body(body)
        self.observation = observation.copy()

    def expert_action(self) -> np.ndarray:
        """Go around the block to the side that is away from the goal, then push through it, beside its centre to turn
        it.

        Over 30 episodes of 300 steps it solved one; its best cover was 0.41 on average, and above 0.7 in ten. Random
        targets reach 0.15; the block covers 0.07 of the goal at first.
        """
        agent, (x, y, angle) = self.observation[:2], self.observation[2:]
        centre, goal = _centre(x, y, angle), _centre(*GOAL)
        turn = (GOAL[2] - angle + np.pi) % (2 * np.pi) - np.pi
        push = (goal - centre) / max(np.linalg.norm(goal - centre), 1e-6)
        # Beside the centre, a push turns the block.
        sideways = np.array([-push[1], push[0]]) * -np.clip(OFFSET_PER_RADIAN * turn, -LARGEST_OFFSET, LARGEST_OFFSET)
        outwards = agent - centre
        bearing, distance = np.arctan2(outwards[1], outwards[0]), np.linalg.norm(outwards)
        detour = (np.arctan2(-push[1], -push[0]) - bearing + np.pi) % (2 * np.pi) - np.pi
        if abs(detour) > 0.8:
            step = 0.0 if distance < DETOUR_RADIUS - 20 else np.clip(detour, -0.4, 0.4)
            return centre + DETOUR_RADIUS * np.array([np.cos(bearing + step), np.sin(bearing + step)])
        along = float(outwards @ push)
        return centre + sideways + push * min(along + STRIDE, 20.0)


def _centre(x: float, y: float, angle: float) -> np.ndarray:
    """Centre of mass (2,) of the block at a pose."""
    return np.array([x, y]) + CENTRE_OF_MASS * np.array([-np.sin(angle), np.cos(angle)])
