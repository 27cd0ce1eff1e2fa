"""Order of file names, and reading of numpy files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """A sort key that reads digits as numbers, so that frame_2 comes before frame_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text)]


def read_numpy(path: Path, keys: Sequence[str]) -> np.ndarray:
    """Read the array of an npy file, or the first of ``keys`` that an npz file has. Pickles are never loaded."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            key = next((key for key in keys if key in content.files), None)
            if key is not None:
                return content[key]
            names = content.files
    except Exception as error:  # numpy and zipfile raise many kinds on a broken file
        raise OSError(f"{path} cannot be read, it is corrupt or holds pickled objects: {error}") from error
    raise ValueError(f"{path} must hold one of {list(keys)}, it holds {names}")
