"""npz files, looked at without loading their arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Header(NamedTuple):
    """Shape and dtype of an array that is not loaded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_headers(file: Path) -> dict[str, Header]:
    """The arrays of a npz file by name.

    Raises:
        OSError, ValueError: if the file is corrupt; numpy and zipfile raise other kinds, too.
    """
    with np.load(file, allow_pickle=False) as arrays:
        headers = {}
        for name in arrays.files:
            with arrays.zip.open(f"{name}.npy") as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            headers[name] = Header(shape, dtype)
        return headers


def keys_of(file: Path) -> list[str]:
    """The names of a npz file's arrays; none where it cannot be read, so that reading it can say why."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return list(arrays.files)
    except Exception:  # numpy and zipfile raise many kinds on a broken file
        return []


def load_arrays(file: Path, headers: Mapping[str, Header], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names.

    Raises:
        ValueError: if one is missing, or holds Python objects: pickles are never loaded.
    """
    for name in names:
        if name not in headers:
            raise ValueError(f"there is no array {name!r}; there are {sorted(headers)}")
        if headers[name].dtype.hasobject:
            raise ValueError(
                f"{name!r} holds pickled Python objects, which are never loaded; store it as an array of numbers"
            )
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names}
