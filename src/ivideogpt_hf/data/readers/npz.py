"""The original's episodes, one npz file each: image arrays, and ``action`` for BAIR, RoboNet and VP2."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...media import numpy_files
from ...media.action_files import FIRST_KEY, flagged_alignment
from ...settings import read_yaml
from ..episodes import Episode
from .base import FileReader, any_success, pixels
from .stacked_npz import OBSERVATION_KEY

REWARD_KEYS = ("reward", "rewards")
SUCCESS_KEY = "success"
NEXT_PREFIX = "next_"


class NpzReader(FileReader):
    """npz files with frames (T, H, W, 3) under any of the original's image keys, or under any key of such a shape.

    ``action`` or ``actions`` (T or T - 1, A), ``reward`` or ``rewards`` and ``success``, a flag or one per step, are
    optional. ``is_first`` is Dreamer's: then row t of the actions, of which the first is zero, led to frame t.
    """

    name = "npz"
    description = "npz files, one per episode, with frames (T, H, W, 3) such as 'image'"
    suffixes = (".npz",)
    has_action_keys = True

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        files = cls.find_files(path)
        return bool(files) and OBSERVATION_KEY not in numpy_files.names_in(files[0])

    def _read(self, index: int) -> Episode:
        file = self._files[index]
        with numpy_files.opened_npz(file) as content:
            return self._read_arrays(content, index)

    def _read_arrays(self, content: numpy_files.ArrayFile, index: int) -> Episode:
        headers = content.headers()
        cameras, left_out = self._cameras(headers)
        action_key = self._action_key(headers)
        reward_key = next((key for key in REWARD_KEYS if key in headers), None)
        flags = [key for key in (action_key, reward_key, SUCCESS_KEY, FIRST_KEY) if key is not None and key in headers]
        arrays = {name: content.read(name) for name in (*cameras, *flags)}
        actions = None if action_key is None else arrays[action_key]
        told = None
        if actions is not None and self.options.action_alignment is None:
            told = flagged_alignment(arrays.get(FIRST_KEY), actions)
        return self._make_episode(
            index,
            {camera: pixels(arrays[camera], camera) for camera in cameras},
            actions=actions,
            rewards=None if reward_key is None else arrays[reward_key],
            told_alignment=told,
            success=any_success(arrays[SUCCESS_KEY]) if SUCCESS_KEY in arrays else None,
            left_out=left_out,
        )

    def _cameras(self, headers: Mapping[str, numpy_files.Header]) -> tuple[list[str], set[str]]:
        """The cameras to read, and the other arrays that may be images, which are taken only if they are asked for."""
        possible = {key for key, header in headers.items() if _may_be_camera(header)}
        available = [key for key, header in headers.items() if _is_camera(key, header)]
        if self.options.cameras is not None:
            available += sorted(possible - set(available))
        elif possible and not available:
            raise ValueError(f"it has no camera images, but {sorted(possible)} may be: choose with cameras, --cameras")
        cameras = self._select_cameras(available)
        return cameras, possible - set(cameras)


@cache
def original_datasets() -> dict[str, Any]:
    """The table of the original's data sets: ``base_stride``, ``strides`` and ``image_keys`` by data set name."""
    return read_yaml(Path(__file__).parents[1] / "original.yaml")


def _may_be_camera(header: numpy_files.Header) -> bool:
    return len(header.shape) == 4 and header.dtype.kind in "iuf" and 3 in (header.shape[1], header.shape[3])


def _is_camera(key: str, header: numpy_files.Header) -> bool:
    known = key in {"image", *original_datasets()["image_keys"].values()}
    is_following = key.startswith(NEXT_PREFIX)  # the frames after the steps, beside those before them
    return known or (_may_be_camera(header) and header.dtype == np.uint8 and not is_following)
