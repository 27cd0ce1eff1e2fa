"""npy and npz files. Pickles are never loaded, and arrays that nobody asked for are not either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

SUFFIXES = (".npz", ".npy")
SIGNATURES = (b"\x93NUMPY", b"PK\x03\x04")


class Header(NamedTuple):
    """Shape, dtype and order in memory of an array that is not loaded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool


def read_array(path: Path, keys: Sequence[str], *, max_rows: int | None = None) -> np.ndarray:
    """Read the array of an npy file, or the one of ``keys`` that an npz file has.

    Args:
        path: file.
        keys: names of arrays of an npz file.
        max_rows: largest number of rows of the first dimension to read; None reads all. No others are loaded.

    Raises:
        OSError: if the file is corrupt, or holds pickled objects.
        ValueError: if an npz file has none of the keys, or several.
    """
    with opened(path, mmap_mode=None if max_rows is None else "r") as content:
        if isinstance(content, np.ndarray):
            return np.array(content[:max_rows]) if max_rows is not None and content.ndim else content
        found = [key for key in keys if key in content.files]
        if len(found) == 1:
            return content[found[0]] if max_rows is None else _first_rows(content, found[0], max_rows)
        names = content.files
    if found:
        raise ValueError(f"{path} holds {' and '.join(map(repr, found))}: load the one that is meant, and give that")
    raise ValueError(f"{path} must hold one of {list(keys)}, it holds {names}")


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """The array of an npy file, or the opened arrays of an npz file.

    Args:
        path: file.
        options: other arguments of `np.load`.

    Raises:
        OSError: if the file is corrupt, or holds pickled objects.
    """
    try:
        content = np.load(path, allow_pickle=False, **options)
        if isinstance(content, np.ndarray):
            yield content
        else:
            with content:
                yield content
    except Exception as error:  # numpy and zipfile raise many kinds on a broken file
        raise OSError(f"{path} cannot be read, it is corrupt or holds pickled objects: {error}") from error


def read_headers(path: Path) -> dict[str, Header]:
    """The arrays of an npz file by name.

    Raises:
        OSError: if the file is corrupt.
    """
    with opened(path) as content:
        headers = {}
        for name in content.files:
            with content.zip.open(f"{name}.npy") as stream:
                headers[name] = _read_header(stream)
        return headers


def names_in(path: Path) -> list[str]:
    """The names of an npz file's arrays; none where it cannot be read, so that reading it can say why."""
    try:
        with opened(path) as content:
            return list(content.files)
    except OSError:
        return []


def load_arrays(path: Path, headers: Mapping[str, Header], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names in an npz file, whose headers were read before.

    Raises:
        OSError: if the file is corrupt.
        ValueError: if an array is missing, or holds Python objects.
    """
    for name in names:
        if name not in headers:
            raise ValueError(f"there is no array {name!r}; there are {sorted(headers)}")
        if headers[name].dtype.hasobject:
            raise ValueError(
                f"{name!r} holds pickled Python objects, which are never loaded; store it as an array of numbers"
            )
    with opened(path) as content:
        return {name: content[name] for name in names}


def _read_header(stream: IO[bytes]) -> Header:
    """Read the beginning of an npy file."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    return Header(shape, dtype, is_fortran)


def _first_rows(content: Any, key: str, max_rows: int) -> np.ndarray:
    """The first rows of an array in an npz file; the rest is not decompressed."""
    with content.zip.open(f"{key}.npy") as stream:
        shape, dtype, is_fortran = _read_header(stream)
        if shape and not is_fortran and not dtype.hasobject:
            shape = (min(max_rows, shape[0]), *shape[1:])
            num_bytes = dtype.itemsize * int(np.prod(shape))
            return np.frombuffer(bytearray(stream.read(num_bytes)), dtype=dtype).reshape(shape)
    return content[key][:max_rows]
