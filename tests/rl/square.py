"""A small task in images: a bright square that should be moved to the middle."""

import gymnasium
import numpy as np

SIZE, WIDTH = 24, 6
MIDDLE = (SIZE - WIDTH) / 2


class SquareEnv(gymnasium.Env):
    """Actions of -2 to 6 move the square by -4 to 4 pixels. Rewards are 1 at the middle, and fall with the distance."""

    observation_space = gymnasium.spaces.Box(0, 255, (9, SIZE, SIZE), np.uint8)
    action_space = gymnasium.spaces.Box(-2, 6, (1,), np.float32)

    def __init__(self, num_steps=10):
        self.num_steps = num_steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.step_number = self.np_random.uniform(0, 2 * MIDDLE), 0
        self.frames = [self.draw()] * 3
        return np.concatenate(self.frames), {}

    def step(self, action):
        self.position = float(np.clip(self.position + action[0] - 2, 0, 2 * MIDDLE))
        self.step_number += 1
        self.frames = [*self.frames[1:], self.draw()]
        reward = 1 - abs(self.position - MIDDLE) / MIDDLE
        return np.concatenate(self.frames), reward, False, self.step_number == self.num_steps, {}

    def draw(self):
        frame = np.zeros((3, SIZE, SIZE), np.uint8)
        left = round(self.position)
        frame[:, 9:15, left : left + WIDTH] = 255
        return frame
