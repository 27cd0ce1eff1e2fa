"""A gymnasium environment of a few lines, for tests of collection: the state is where the actions have led."""

import gymnasium
import numpy as np

SIZE = 12


class CountingEnvironment(gymnasium.Env):
    """A bright pixel in a 12 x 12 picture, moved by actions (2,); success where it reaches the right edge."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None, action_space=None):
        self.render_mode = render_mode
        self.action_space = action_space or gymnasium.spaces.Box(-1, 1, (2,))
        self.observation_space = gymnasium.spaces.Box(0, SIZE - 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, 4, 2).astype(np.float32)
        return self.place.copy(), {}

    def step(self, action):
        self.place = np.clip(self.place + action, 0, SIZE - 1)
        reached = bool(self.place[0] >= SIZE - 1)
        return self.place.copy(), float(self.place[0]), reached, False, {"is_success": reached}

    def render(self):
        picture = np.zeros((SIZE, SIZE, 3), np.uint8)
        column, row = self.place.round().astype(int)
        picture[row, column] = 255
        return picture


def to_the_right(observation, generator):
    """A policy."""
    return np.array([1.0, generator.uniform(-0.5, 0.5)])


class ThereAndBack:
    """A policy with a memory: to the right in its even calls, to the left in the others."""

    def __init__(self):
        self.num_calls = 0

    def __call__(self, observation, generator):
        self.num_calls += 1
        return np.array([1.0 if self.num_calls % 2 else -1.0, 0.0])


def wrong_width(observation, generator):
    """A policy with one number too few."""
    return np.zeros(1)


gymnasium.register("Counting-v0", CountingEnvironment)
gymnasium.register(
    "Discrete-v0", CountingEnvironment, kwargs={"action_space": gymnasium.spaces.Discrete(3)}, order_enforce=False
)
