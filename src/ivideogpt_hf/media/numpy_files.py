"""npy and npz files. Pickles are never loaded, and arrays that nobody asked for are not either.

What an array takes in memory is read from its header, and refused where it is more than `decoded_bytes.py` allows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .decoded_bytes import DecodedBytes

SUFFIXES = (".npz", ".npy")
SIGNATURES = (b"\x93NUMPY", b"PK\x03\x04")
# numpy refuses longer headers, but only after it has read them, which may be as long as 4 GiB.
MAX_HEADER_BYTES = 2**14


class Header(NamedTuple):
    """Shape, dtype and order in memory of an array that is not loaded."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool

    @property
    def num_bytes(self) -> int:
        """Size of the array."""
        return prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """The arrays of an opened npz file. Each is loaded when it is asked for.

    Args:
        content: file as numpy opens it.
        path: its path.
    """

    def __init__(self, content: Any, path: Path) -> None:
        self._content, self._path = content, path
        self._clip = DecodedBytes(str(path))
        self.names: list[str] = list(content.files)

    def headers(self) -> dict[str, Header]:
        """The headers of all arrays, by name."""
        return {name: self._header(name) for name in self.names}

    def _header(self, name: str) -> Header:
        with _readable(self._path), self._content.zip.open(f"{name}.npy") as stream:
            return _read_header(stream)

    def read(self, name: str, max_rows: int | None = None) -> np.ndarray:
        """Load an array, or the first rows of it.

        Raises:
            OSError: if the file is corrupt.
            ValueError: if the file has no such array, it holds Python objects, or takes more memory than it may.
        """
        if name not in self.names:
            raise ValueError(f"there is no array {name!r}; there are {sorted(self.names)}")
        header = self._header(name)
        if header.dtype.hasobject:
            raise ValueError(
                f"{name!r} holds pickled Python objects, which are never loaded; store it as an array of numbers"
            )
        if max_rows is None or not header.shape or header.is_fortran:
            self._clip.add(header.num_bytes)
            with _readable(self._path):
                array = self._content[name]
            return array if max_rows is None else array[:max_rows]
        header = header._replace(shape=(min(max_rows, header.shape[0]), *header.shape[1:]))
        self._clip.add(header.num_bytes)
        with _readable(self._path), self._content.zip.open(f"{name}.npy") as stream:  # the rest is not decompressed
            _read_header(stream)
            return np.frombuffer(bytearray(stream.read(header.num_bytes)), header.dtype).reshape(header.shape)


def read_array(path: Path, keys: Sequence[str], *, max_rows: int | None = None) -> np.ndarray:
    """Read the array of an npy file, or the one of ``keys`` that an npz file has.

    Args:
        path: file.
        keys: names of arrays of an npz file.
        max_rows: largest number of rows of the first dimension to read; None reads all. No others are loaded.

    Raises:
        OSError: if the file is corrupt, or holds pickled objects.
        ValueError: if an npz file has none of the keys, or several, or the array takes more memory than it may.
    """
    with opened(path, max_rows=max_rows) as content:
        if isinstance(content, np.ndarray):
            return content
        found = [key for key in keys if key in content.names]
        if len(found) == 1:
            return content.read(found[0], max_rows)
        names = content.names
    if found:
        raise ValueError(f"{path} holds {' and '.join(map(repr, found))}: load the one that is meant, and give that")
    raise ValueError(f"{path} must hold one of {list(keys)}, it holds {names}")


@contextmanager
def opened(path: Path, *, max_rows: int | None = None) -> Iterator[np.ndarray | ArrayFile]:
    """The array of an npy file, or the opened arrays of an npz file.

    Args:
        path: file.
        max_rows: largest number of rows of an npy file's array to load; None loads all.

    Raises:
        OSError: if the file is corrupt, or holds pickled objects.
        ValueError: if an array takes more memory than it may.
    """
    with _readable(path):
        content = np.load(path, mmap_mode="r", allow_pickle=False)  # an npy file is mapped, an npz file is opened
    if isinstance(content, np.ndarray):
        rows = content[:max_rows] if content.ndim else content
        DecodedBytes(str(path)).add(rows.nbytes)
        yield np.array(rows)
    else:
        with content:
            yield ArrayFile(content, path)


@contextmanager
def opened_npz(path: Path) -> Iterator[ArrayFile]:
    """The opened arrays of an npz file.

    Raises:
        OSError: if the file is corrupt, or no npz file.
    """
    with _readable(path):
        content = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, in case it is an npy file
        if isinstance(content, np.ndarray):
            raise ValueError("it holds one array without a name, as npy files do")
    with content:
        yield ArrayFile(content, path)


def names_in(path: Path) -> list[str]:
    """The names of an npz file's arrays; none where it cannot be read, so that reading it can say why."""
    try:
        with opened_npz(path) as content:
            return content.names
    except OSError:
        return []


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # numpy and zipfile raise many kinds on a broken file
        raise OSError(f"{path} cannot be read, it is corrupt or holds pickled objects: {error}") from error


def _read_header(stream: IO[bytes]) -> Header:
    """Read the beginning of an npy file, and go to its end."""
    beginning = io.BytesIO(stream.read(MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(beginning)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(beginning)
    stream.seek(beginning.tell())
    if any(length < 0 for length in shape):
        raise ValueError(f"the array has the shape {shape}")
    return Header(shape, dtype, is_fortran)
