"""Order of file names, folders of images, and reading of numpy files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .frame_names import order_frames

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".avif")
# Pictures that would be missing from a clip without a word if they were passed over.
OTHER_IMAGE_SUFFIXES = (".heic", ".heif", ".gif", ".jp2", ".jxl", ".ppm", ".pgm", ".exr", ".tga", ".dng", ".raw")
NUMPY_SUFFIXES = (".npz", ".npy")
NUMPY_SIGNATURES = (b"\x93NUMPY", b"PK\x03\x04")


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """A sort key that reads digits as numbers, so that frame_2 comes before frame_10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text)]


def list_images(folder: Path) -> list[Path]:
    """The images of a folder, in the order in which a clip shows them. Hidden files are not among them.

    The order is that of the numbers in the names, see `order_frames`.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the folder holds pictures of a kind that is not read, or the order is not clear.
    """
    visible = [file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()]
    files = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES]
    others = sorted(file.name for file in visible if file.suffix.lower() in OTHER_IMAGE_SUFFIXES)
    kinds = ", ".join(IMAGE_SUFFIXES)
    if not files:
        found = f"; it holds {others[0]}" if others else ""
        raise FileNotFoundError(f"the folder {folder} holds no images ({kinds}){found}")
    if others:
        raise ValueError(
            f"{folder} holds {others[0]}, which is not read; convert it to one of {kinds}, or move it away"
        )
    files.sort(key=lambda file: file.name)
    for file, following in pairwise(files):
        if file.stem == following.stem:
            raise ValueError(f"{folder} holds {file.name} and {following.name}; a clip has one image of each name")
    try:
        return [files[index] for index in order_frames([file.stem for file in files])]
    except ValueError as error:
        raise ValueError(f"the order of the images of {folder} is not clear: {error}") from error


def read_numpy(path: Path, keys: Sequence[str], *, max_rows: int | None = None) -> np.ndarray:
    """Read the array of an npy file, or the first of ``keys`` that an npz file has. Pickles are never loaded.

    Args:
        path: file.
        keys: names of arrays of an npz file.
        max_rows: largest number of rows of the first dimension to read; None reads all. No others are loaded.
    """
    try:
        content = np.load(path, mmap_mode=None if max_rows is None else "r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return np.array(content[:max_rows]) if max_rows is not None and content.ndim else content
        with content:
            key = next((key for key in keys if key in content.files), None)
            if key is not None:
                return content[key] if max_rows is None else _first_rows(content, key, max_rows)
            names = content.files
    except Exception as error:  # numpy and zipfile raise many kinds on a broken file
        raise OSError(f"{path} cannot be read, it is corrupt or holds pickled objects: {error}") from error
    raise ValueError(f"{path} must hold one of {list(keys)}, it holds {names}")


def _first_rows(content: Any, key: str, max_rows: int) -> np.ndarray:
    """The first rows of an array in an npz file; the rest is not decompressed."""
    with content.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version in ((1, 0), (2, 0)):
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, is_fortran, dtype = read_header(file)
            if shape and not is_fortran and not dtype.hasobject:
                shape = (min(max_rows, shape[0]), *shape[1:])
                num_bytes = dtype.itemsize * int(np.prod(shape))
                return np.frombuffer(bytearray(file.read(num_bytes)), dtype=dtype).reshape(shape)
    return content[key][:max_rows]
