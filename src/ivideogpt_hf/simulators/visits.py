"""A policy for collecting in Meta-world: the hand visits places about the object and the goal, whatever the task is.

Experts go straight to the goal, and random walks seldom come near it. A model that learns from both alone has hardly
seen a hand that is nearly there, or at the wrong thing. A planner then finds such places, and the model believes that
they are worth as much as the goal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

OBSERVATION_SHAPE = (39,)
# Where Meta-world's observation holds the positions, in metres.
HAND, OBJECT, GOAL = slice(0, 3), slice(4, 7), slice(-3, None)
# Standard deviations of a place from the object or the goal, in metres.
SPREADS = (0.05, 0.15)
# Half of the places lie on the camera's line of sight. There the hand covers the object or the goal in the picture,
# and only its size and the arm tell that it is not there.
CAMERA_PLACE = np.array([-1.1, -0.4, 0.6])  # of Meta-world's camera "corner", in metres
NEAREST, FURTHEST = -0.05, 0.3  # from the object or the goal towards the camera, in metres
BESIDE = 0.02  # standard deviation from the line of sight, in metres
LOWEST = 0.03  # height of the lowest place above the table, in metres
FEWEST_STEPS, MOST_STEPS = 10, 24  # number of actions for one place
GAIN, JITTER = 10.0, 0.2  # action per metre to go, and standard deviation of the noise on it


class Visits:
    """Visits one place after another, each for some actions. The gripper stays as it is during a visit.

    Example:
        >>> import numpy as np
        >>> from ivideogpt_hf.simulators.visits import Visits
        >>> Visits()(np.zeros(39), np.random.default_rng(0)).shape
        (4,)
    """

    def __init__(self) -> None:
        self._steps_left = 0

    def __call__(self, observation: Any, generator: np.random.Generator) -> np.ndarray:
        """The next action (4,), not clipped, after an observation (39,) of Meta-world.

        Raises:
            ValueError: if the observation is that of another environment.
        """
        observation = np.asarray(observation)
        if observation.shape != OBSERVATION_SHAPE:
            raise ValueError(
                f"visits read places from Meta-world's observations, of shape {OBSERVATION_SHAPE}, got "
                f"{observation.shape}: take another policy in other environments"
            )
        if self._steps_left == 0:
            centre = observation[OBJECT if generator.random() < 0.5 else GOAL]
            if generator.random() < 0.5:
                towards_camera = (CAMERA_PLACE - centre) / np.linalg.norm(CAMERA_PLACE - centre)
                centre = centre + generator.uniform(NEAREST, FURTHEST) * towards_camera
                spread = BESIDE
            else:
                spread = generator.choice(SPREADS)
            self._place = centre + spread * generator.standard_normal(3)
            self._place[2] = max(self._place[2], LOWEST)
            self._gripper = generator.choice([-1.0, 1.0])
            self._steps_left = int(generator.integers(FEWEST_STEPS, MOST_STEPS, endpoint=True))
        self._steps_left -= 1
        towards = np.clip(GAIN * (self._place - observation[HAND]), -1, 1)
        return np.append(towards, self._gripper) + JITTER * generator.standard_normal(4)
