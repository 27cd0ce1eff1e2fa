"""What every reader of episodes is: count, iterate, read by index, and name what is wrong with an episode."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...media.files import natural_key
from ...media.pixels import resize_pixels
from ...media.streams import iterate_video
from ...media.video import frames_from_array
from ..episodes import Episode, Signature, resize_episode
from ..read_options import ReadOptions

# Where so many episodes in a row are bad, something else is wrong, such as the name of a camera.
SIGNATURE_ATTEMPTS = 20


class EpisodeError(ValueError):
    """An episode that cannot be read, with its file and the reason."""


class EpisodeReader(ABC):
    """The episodes of one source, in a fixed order.

    ``len(reader)`` counts them, ``reader[i]`` reads one, iteration reads all. Opening is cheap: it lists files and at
    most reads headers.

    Args:
        path: file or folder.
        options: what is asked of the reader.

    Attributes:
        name: name of the format, as ``--reader`` takes it.
        description: the format in words, for messages.
        episode_ids: id of each episode, in order.
        notes: remarks for the report about the source as a whole, such as files that are no episodes.

    Raises:
        ValueError: if there are no episodes.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        self.path = path
        self.options = options or ReadOptions()
        self.notes: list[str] = []
        self.episode_ids = self._list_episodes()
        if not self.episode_ids:
            raise ValueError(f"{path} holds no episodes ({self.description})")

    @classmethod
    @abstractmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a file or folder looks like this reader's format."""

    @abstractmethod
    def _list_episodes(self) -> list[str]:
        """A name for each episode, unique in the source and independent of where it lies."""

    @abstractmethod
    def _read(self, index: int) -> Episode:
        """Read one episode; whatever exception a broken file causes becomes an `EpisodeError`."""

    def files_of(self, index: int) -> list[Path]:
        """All files that an episode depends on: where one of them changes, the episode is converted again.

        Args:
            index: index of the episode.

        Returns:
            The files; by default all of the source.
        """
        return self._all_files

    @cached_property
    def _all_files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        return natural_sort(file for file in self.path.rglob("*") if file.is_file())

    @property
    def source_name(self) -> str:
        """The name of the data set: that of its folder or file."""
        return self.path.resolve().stem if self.path.is_file() else self.path.resolve().name

    def __len__(self) -> int:
        return len(self.episode_ids)

    def __getitem__(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            EpisodeError: if it cannot be read; says which one and why.
            IndexError: if there is no such episode.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        try:
            episode = self._read(index)
            return episode if self.options.size is None else resize_episode(episode, self.options.size)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # numpy, zipfile, h5py, PyAV and protobuf raise many kinds on broken files
            reason = str(error) or type(error).__name__
            raise EpisodeError(f"episode {self.episode_ids[index]!r} of {self.path}: {reason}") from error

    @cached_property
    def signature(self) -> Signature:
        """Cameras and action width of the first episode that can be read, which all others must share.

        Raises:
            EpisodeError: the first episode's, if none can be read.
        """
        first_error = None
        for index in range(min(len(self), SIGNATURE_ATTEMPTS)):
            try:
                return self[index].signature
            except EpisodeError as error:
                first_error = first_error or error
        raise first_error or EpisodeError(f"{self.path} holds no episodes")

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def _select_cameras(self, available: Sequence[str]) -> list[str]:
        """The cameras to read among those that an episode has."""
        if not available:
            raise ValueError("it has no camera images")
        unknown = set(self.options.cameras or ()) - set(available)
        if unknown:
            raise ValueError(f"there is no camera {sorted(unknown)[0]!r}; there are {sorted(available)}")
        return [camera for camera in available if self.options.cameras is None or camera in self.options.cameras]

    def _decode_video(self, file: Any, name: str, *, start: float = 0.0, num_frames: int | None = None) -> np.ndarray:
        """(T, H, W, 3) uint8 of a video file from ``start`` seconds on, resized on the way, so that a long video of
        large frames need not fit into memory."""
        images = itertools.islice(iterate_video(file, name, start=start), num_frames)
        if self.options.size is not None:
            images = (resize_pixels(image[None], self.options.size)[0] for image in images)
        return np.stack(list(images))


class FileReader(EpisodeReader):
    """A reader of files that lie in a folder, at any depth, in natural order of their names.

    Attributes:
        suffixes: endings of the files' names, in lower case.
    """

    suffixes: ClassVar[tuple[str, ...]]

    @classmethod
    def find_files(cls, path: Path) -> list[Path]:
        """The files of this format."""
        if path.is_file():
            return [path] if path.suffix.lower() in cls.suffixes else []
        return natural_sort(file for file in path.rglob("*") if file.suffix.lower() in cls.suffixes)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return bool(cls.find_files(path))

    def name_of(self, file: Path) -> str:
        """A file's name relative to the source."""
        return file.name if self.path.is_file() else file.relative_to(self.path).as_posix()


def natural_sort(paths: Any) -> list[Path]:
    """The paths in an order in which episode_2 comes before episode_10."""
    return sorted(paths, key=lambda path: natural_key(str(path)))


def keys_of(file: Path) -> list[str]:
    """The names of a npz file's arrays; none where it cannot be read, so that reading it can say why."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays.files
    except Exception:  # numpy and zipfile raise many kinds on a broken file
        return []


def pixels(frames: np.ndarray, camera: str) -> np.ndarray:
    """Frames as (T, H, W, 3) uint8.

    Args:
        frames: images, of any integer dtype or as floats in [0, 1].
        camera: name of the camera, for errors.

    Raises:
        ValueError: if they are not RGB or out of range.
    """
    if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size:
        return frames
    try:
        return frames_from_array(frames).movedim(1, -1).numpy()
    except ValueError as error:
        raise ValueError(f"camera {camera!r}: {error}") from error


__all__ = ["EpisodeError", "EpisodeReader", "FileReader", "keys_of", "natural_sort", "pixels"]
