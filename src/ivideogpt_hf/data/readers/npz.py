"""The original's episodes, one npz file each: image arrays, and ``action`` for BAIR, RoboNet and VP2."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...settings import read_yaml
from ..episodes import Episode, step_rows
from .base import FileReader, keys_of, pixels
from .stacked_npz import OBSERVATION_KEY

ACTION_KEYS = ("action", "actions")
REWARD_KEYS = ("reward", "rewards")


class NpzReader(FileReader):
    """npz files with frames (T, H, W, 3) under any of the original's image keys, or under any key of such a shape.

    ``action`` or ``actions`` (T or T - 1, A), ``reward`` or ``rewards`` and a boolean ``success`` are optional.
    """

    name = "npz"
    description = "npz files, one per episode, with frames (T, H, W, 3) such as 'image'"
    suffixes = (".npz",)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        files = cls.find_files(path)
        return bool(files) and OBSERVATION_KEY not in keys_of(files[0])

    def _list_episodes(self) -> list[str]:
        self._files = self.find_files(self.path)
        return [self.name_of(file) for file in self._files]

    def files_of(self, index: int) -> list[Path]:
        return [self._files[index]]

    def _read(self, index: int) -> Episode:
        with np.load(self._files[index], allow_pickle=False) as arrays:
            cameras = self._select_cameras([key for key in arrays.files if _is_camera(key, arrays)])
            frames = {camera: pixels(arrays[camera], camera) for camera in cameras}
            num_frames = len(frames[cameras[0]])
            actions = _first(arrays, ACTION_KEYS)
            rewards = _first(arrays, REWARD_KEYS)
            return Episode(
                frames=frames,
                episode_id=self.episode_ids[index],
                source=self.source_name,
                actions=None if actions is None else step_rows(actions, num_frames, "actions"),
                rewards=None if rewards is None else step_rows(rewards.reshape(len(rewards)), num_frames, "rewards"),
                success=bool(arrays["success"]) if "success" in arrays.files else None,
            )


@cache
def original_datasets() -> dict[str, Any]:
    """The table of the original's data sets: ``base_stride``, ``strides`` and ``image_keys`` by data set name."""
    return read_yaml(Path(__file__).parents[1] / "original.yaml")


def _is_camera(key: str, arrays: Any) -> bool:
    if key in {"image", *original_datasets()["image_keys"].values()}:
        return True
    array = arrays[key]
    return array.ndim == 4 and array.dtype == np.uint8 and 3 in (array.shape[1], array.shape[3])


def _first(arrays: Any, keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays.files), None)
