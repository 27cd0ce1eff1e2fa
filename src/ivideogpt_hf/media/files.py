"""Names and numpy files, as video, actions and data sets come in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """A sort key that takes digits as numbers: frame_2 before frame_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text)]


def read_numpy(path: Path, keys: Sequence[str]) -> np.ndarray:
    """The array in an npy file, or under the first of ``keys`` in an npz file. Pickles are never loaded."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            key = next((key for key in keys if key in loaded.files), None)
            if key is not None:
                return loaded[key]
            names = loaded.files
    except Exception as error:  # numpy and zipfile raise many kinds on a broken file
        raise OSError(f"{path} cannot be read, it is corrupt or holds pickled objects: {error}") from error
    raise ValueError(f"{path} must hold one of {list(keys)}, it holds {names}")
