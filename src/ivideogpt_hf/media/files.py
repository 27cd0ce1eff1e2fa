"""Files of a source: which are hidden, their order, and the images of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from .frame_names import order_frames

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".avif")
# Pictures that would be missing from a clip without a word if they were passed over.
OTHER_IMAGE_SUFFIXES = (".heic", ".heif", ".gif", ".jp2", ".jxl", ".ppm", ".pgm", ".exr", ".tga", ".dng", ".raw")
OTHER_VIDEO_SUFFIXES = (".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp", ".mjpg", ".mjpeg")
# What archivers, network drives and thumbnailers leave behind.
SIDECAR_NAMES = {
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "Thumbs.db",
    "lost+found",
    "System Volume Information",
}


def is_hidden(file: Path, root: Path) -> bool:
    """Whether a file below ``root``, or a folder on its way, is hidden or a sidecar."""
    return any(part.startswith(".") or part in SIDECAR_NAMES for part in file.relative_to(root).parts)


def all_files(root: Path) -> Iterator[Path]:
    """The files below a folder, and below the folders that it has links to; each folder once, since links may go round.

    A link to a file that is not there is among them, so that its episode is not left out without a word.

    Raises:
        OSError: if a folder that is not hidden cannot be listed.
    """

    def refuse(error: OSError) -> None:
        if not is_hidden(Path(error.filename), root):
            raise error

    seen = set()
    for place, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folder = Path(place)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders.sort(key=lambda name: ((folder / name).is_symlink(), name))
        yield from (file for file in map(folder.joinpath, names) if file.is_file() or file.is_symlink())


def visible_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, at any depth, but for hidden ones and sidecars."""
    return (file for file in all_files(folder) if not is_hidden(file, folder))


def readable(text: str) -> str:
    """A text about files as it can be stored and printed: bytes of names that are not UTF-8 are escaped."""
    return text.encode(errors="backslashreplace").decode()


def natural_sort(paths: Iterable[Path]) -> list[Path]:
    """The paths in an order in which episode_2 comes before episode_10."""
    return sorted(paths, key=lambda path: natural_key(str(path)))


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
    # A link to an image that is not there stays, so that a frame is not left out without a word.
    visible = [file for file in folder.iterdir() if not is_hidden(file, folder) and not file.is_dir()]
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
