"""The original's Meta-world demonstrations: npz files of a replay buffer with stacked frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...media import numpy_files
from ...media.files import readable
from ..episodes import DEFAULT_CAMERA, Episode
from .base import FileReader

OBSERVATION_KEY = "observation"
CHANNELS = 3
# A reward sums two simulator steps, of 10 at most each, and 10 for success; without success the 30 demonstrations stay
# below this value.
SUCCESS_REWARD = 16.5
ACTION_NAMES = ("x", "y", "z", "gripper")


class StackedNpzReader(FileReader):
    """npz files with ``observation`` (T, 3 K, H, W) uint8, K stacked frames, the newest last; ``action``; ``reward``.

    Row t holds the frame that action t led to and the reward that it earned; row 0 is the reset: its action is dropped.
    The actions are the expert's, unclipped, though the simulator clips them to [-1, 1]; the bounds say so.
    """

    name = "stacked-npz"
    description = "npz files, one per episode, with stacked frames 'observation' (T, 3 K, H, W)"
    suffixes = (".npz",)
    told_alignment = "before"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        files = cls.find_files(path)
        return bool(files) and OBSERVATION_KEY in numpy_files.names_in(files[0])

    def _read(self, index: int) -> Episode:
        file = self._files[index]
        self._select_cameras([DEFAULT_CAMERA])
        with numpy_files.opened_npz(file) as content:
            observation, action, reward = map(content.read, (OBSERVATION_KEY, "action", "reward"))
        if observation.dtype != np.uint8 or observation.ndim != 4 or observation.shape[1] % CHANNELS:
            raise ValueError(f"observation must be uint8 (T, 3 K, H, W), got {observation.dtype} {observation.shape}")
        if not len(observation) == len(action) == len(reward):
            raise ValueError(
                f"observation, action and reward have {len(observation)}, {len(action)} and {len(reward)} rows"
            )
        if action.ndim != 2:
            raise ValueError(f"action must be (T, A), got {action.shape}")
        is_robot = action.shape[1] == len(ACTION_NAMES)
        return self._make_episode(
            index,
            {DEFAULT_CAMERA: observation[:, -CHANNELS:].transpose(0, 2, 3, 1)},
            actions=action,
            rewards=reward,
            success=bool((reward[1:] >= SUCCESS_REWARD).any()),
            task=readable(file.resolve().parent.name.replace("-", " ")),
            action_names=ACTION_NAMES if is_robot else None,
            action_low=[-1.0] * action.shape[1],
            action_high=[1.0] * action.shape[1],
        )
