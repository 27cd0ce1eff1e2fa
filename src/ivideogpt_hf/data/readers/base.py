"""What every reader of episodes is: count, iterate, read by index, and name what is wrong with an episode.

It also knows, for all formats alike, which images are cameras, and which row of the actions belongs to which frame.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ...media.action_files import ACTION_KEYS
from ...media.alignment import MEANINGS, ActionAlignment
from ...media.decoded_bytes import decoded_within
from ...media.files import all_files, is_hidden, natural_sort, readable, visible_files
from ...media.video import frames_from_array
from ..episodes import CameraFrames, Episode, Signature, step_rows
from ..fitting import Size
from ..read_options import ReadOptions
from .adapting import adapt, check_aspects, check_resampling
from .videos import VideoFrames

# Where so many episodes in a row are bad, something else is wrong, such as the name of a camera.
SIGNATURE_ATTEMPTS = 20
NOT_RGB_NAME = re.compile(r"(^|[^a-z])(depth|disparity|masks?|seg|segmentation)([^a-z]|$)", re.IGNORECASE)


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
        has_action_keys: whether the format has names of actions that ``action_key`` can choose from.
        told_alignment: place of row t of the actions that the format prescribes; None where it prescribes none.
        episode_ids: id of each episode, in order.
        notes: remarks for the report about the source as a whole, such as files that are no episodes.

    Raises:
        ValueError: if there are no episodes, or an option means nothing for the format.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    has_action_keys: ClassVar[bool] = False
    told_alignment: ClassVar[ActionAlignment | None] = None
    # Names of episodes that are not UTF-8, by number; readers whose ids are no names of files have none.
    _bad_names: Mapping[int, str] = MappingProxyType({})

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        self.path = path
        self.options = options or ReadOptions()
        self.notes: list[str] = []
        if self.options.action_key is not None and not self.has_action_keys:
            raise ValueError(f"{self.name} data have no names of actions to choose from: leave out action_key")
        self.episode_ids = self._list_episodes()
        if not self.episode_ids:
            raise ValueError(f"{path} holds no episodes ({self.description})")
        # Names that are not UTF-8 can be neither stored nor printed. Reading such an episode says so.
        self._bad_names = {i: name for i, name in enumerate(self.episode_ids) if readable(name) != name}
        for index, name in self._bad_names.items():
            self.episode_ids[index] = readable(name)

    @classmethod
    @abstractmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a file or folder looks like this reader's format."""

    @abstractmethod
    def _list_episodes(self) -> list[str]:
        """A name for each episode, unique in the source and independent of where it lies."""

    @abstractmethod
    def _read(self, index: int) -> Episode:
        """Read one episode, as `_make_episode` makes it; any exception of a broken file becomes an `EpisodeError`."""

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
        return natural_sort(all_files(self.path)) if self.path.is_dir() else []

    @property
    def source_name(self) -> str:
        """The name of the data set: that of its folder or file."""
        return self.path.resolve().stem if self.path.is_file() else self.path.resolve().name

    def without_place(self, text: str) -> str:
        """A text about the source as others may read it: the source has its name, but not where it lies."""
        place = Path(self.path)
        for path in map(str, (place.resolve(), place.absolute(), place)):
            if "/" in path or "\\" in path:  # a bare name may be a word of the text, and tells no place
                text = text.replace(path, place.resolve().name)
        return readable(text)

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
        episode = self._read_with_options(index)
        if self.options.needs_one_aspect:
            with self._naming(index):
                check_aspects(episode, self._first_episode[1])
        return episode

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Turn whatever exception a broken file causes into an `EpisodeError` that names the episode."""
        try:
            yield
        except ImportError:
            raise
        except MemoryError as error:
            raise EpisodeError(
                f"episode {self.episode_ids[index]!r} of {self.path} does not fit into the memory of this process"
            ) from error
        except Exception as error:  # numpy, zipfile, h5py, PyAV and protobuf raise many kinds on broken files
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise EpisodeError(f"episode {self.episode_ids[index]!r} of {self.path}: {reason}") from error

    def _read_with_options(self, index: int) -> Episode:
        with self._naming(index), decoded_within(self.options.max_bytes):
            if index in self._bad_names:
                raise ValueError(f"its name {self._bad_names[index]!r} is not UTF-8, which stored names are: rename it")
            return adapt(self._read(index), self.options)

    @cached_property
    def _first_episode(self) -> tuple[Signature, Mapping[str, Size]]:
        """Signature, and size of each camera's frames in the source, of the first episode that can be read."""
        first_error = None
        for index in range(min(len(self), SIGNATURE_ATTEMPTS)):
            try:
                episode = self._read_with_options(index)
                return episode.signature, episode.source_sizes or {}
            except EpisodeError as error:
                first_error = first_error or error
        raise first_error or EpisodeError(f"{self.path} holds no episodes")

    @cached_property
    def signature(self) -> Signature:
        """Cameras and action width of the first episode that can be read, which all others must share.

        Raises:
            EpisodeError: the first episode's, if none can be read.
        """
        return self._first_episode[0]

    @property
    def common(self) -> dict[str, Any]:
        """What each episode is compared with besides the signature, as JSON: where it changes, all are read again."""
        return {"sizes": dict(self._first_episode[1])} if self.options.needs_one_aspect else {}

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    # -- what a format's reader calls ---------------------------------------------------------------------------------

    def _select_cameras(self, available: Collection[str], others: Collection[str] = ()) -> list[str]:
        """The cameras to read.

        Args:
            available: cameras that an episode has. Those whose names tell that they are depth or masks are taken only
                if they were asked for.
            others: images that are no RGB pictures by their shape or type.
        """
        wanted = self.options.cameras
        if "" in available:
            raise ValueError("a camera has no name, without what the format puts around names: rename it in the source")
        if wanted is None:
            cameras = [camera for camera in available if not NOT_RGB_NAME.search(camera)]
            left_out = sorted({*available, *others} - {*cameras})
            if not cameras:
                found = f"; these are no RGB cameras, or depth or masks by their names: {left_out}" if left_out else ""
                raise ValueError(f"it has no camera images{found}")
            return cameras
        for camera in wanted:
            if camera in others:
                raise ValueError(f"{camera!r} holds no RGB pictures, such as depth or masks; cameras: {[*available]}")
            if camera not in available:
                raise ValueError(f"there is no camera {camera!r}; there are {sorted(available)}")
        return [camera for camera in available if camera in wanted]

    def _action_key(self, available: Collection[str]) -> str | None:
        """The name under which an episode holds its actions; None if it has none of the usual names."""
        key = self.options.action_key
        if key is not None:
            if key not in available:
                raise ValueError(f"there are no actions {key!r}; there are {sorted(available)}")
            return key
        found = [key for key in ACTION_KEYS if key in available]
        if len(found) > 1:
            raise ValueError(f"it has {' and '.join(found)}: choose one with action_key, --action-key")
        return found[0] if found else None

    def _make_episode(
        self,
        index: int,
        frames: Mapping[str, CameraFrames | VideoFrames],
        *,
        actions: Any = None,
        rewards: Any = None,
        told_alignment: ActionAlignment | None = None,
        left_out: Collection[str] = (),
        notes: Sequence[str] = (),
        **values: Any,
    ) -> Episode:
        """An episode whose rows are those between its frames.

        Args:
            index: index of the episode.
            frames: frames of each camera.
            actions: numbers (T, A), (T - 1, A), (T,) or (T - 1,).
            rewards: numbers with T or T - 1 rows of one number.
            told_alignment: place of row t that a flag of the episode tells, where the format prescribes none.
            left_out: images that were not taken for cameras, if nobody asked for certain ones.
            notes: remarks for the report.
            values: other fields of `Episode`.
        """
        videos = {camera: clip for camera, clip in frames.items() if isinstance(clip, VideoFrames)}
        plain = {camera: clip.pixels if isinstance(clip, VideoFrames) else clip for camera, clip in frames.items()}
        num_frames = len(next(iter(plain.values())))
        told = self.told_alignment or told_alignment
        alignment = self.options.action_alignment or told or "after"
        notes = [*notes, *(note for clip in videos.values() for note in clip.notes)]
        if left_out and self.options.cameras is None:
            notes.append(f"not taken for cameras: {', '.join(sorted(left_out))}")
        if not num_frames:
            raise ValueError("it has no frames")
        check_resampling(self.options, has_rows=actions is not None or rewards is not None)
        if actions is not None:
            rows = step_rows(actions, num_frames, "actions", alignment)
            if len(rows) < len(actions):
                asked = self.options.action_alignment is not None
                reason = "as action_alignment says" if asked else "as the format says" if told else "assumed"
                notes.append(f"{MEANINGS[alignment]} ({reason})")
            if rows.ndim == 1:
                if np.asarray(actions).dtype.kind in "iu":
                    notes.append("actions are single integers and read as numbers: one-hot rows suit choices better")
                rows = rows[:, None]
            actions = rows
        if rewards is not None:
            rewards = step_rows(rewards, num_frames, "rewards", alignment)
            if rewards.size != len(rewards):
                raise ValueError(f"rewards must be one number per row, got shape {rewards.shape}")
            rewards = rewards.reshape(-1)
        return Episode(
            frames=plain,
            episode_id=self.episode_ids[index],
            source=readable(self.source_name),
            actions=actions,
            rewards=rewards,
            notes=notes,
            source_sizes={camera: clip.source_size for camera, clip in videos.items()},
            **values,
        )


class FileReader(EpisodeReader):
    """A reader of files that lie in a folder, at any depth, in natural order of their names.

    A file is an episode, unless a subclass lists several in each.

    Attributes:
        suffixes: endings of the files' names, in lower case.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        super().__init__(path, options)
        if path.is_dir():
            hidden = natural_sort(file for file in all_files(path) if self.matches(file) and is_hidden(file, path))
            self.notes += hidden_note(hidden, path)

    @classmethod
    def matches(cls, file: Path) -> bool:
        """Whether a file's name is one of this format."""
        return file.suffix.lower() in cls.suffixes

    @classmethod
    def find_files(cls, path: Path) -> list[Path]:
        """The files of this format; hidden files and sidecars are not among them."""
        files = [path] if path.is_file() else visible_files(path)
        return natural_sort(file for file in files if cls.matches(file))

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return bool(cls.find_files(path))

    def _list_episodes(self) -> list[str]:
        self._files = self.find_files(self.path)
        return [self.name_of(file) for file in self._files]

    def files_of(self, index: int) -> list[Path]:
        return [self._files[index]]

    def name_of(self, file: Path) -> str:
        """A file's name relative to the source."""
        return file.name if self.path.is_file() else file.relative_to(self.path).as_posix()


def hidden_note(hidden: Sequence[Path], root: Path) -> list[str]:
    """The remark that hidden files were left out, if there are any."""
    if not hidden:
        return []
    others = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
    return [f"hidden files are no episodes: {hidden[0].relative_to(root).as_posix()}{others}"]


def named_cameras(images: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Images under the names of their cameras.

    Raises:
        ValueError: if two have one name.
    """
    cameras: dict[str, Any] = {}
    for name, content in images:
        if name in cameras:
            raise ValueError(
                f"two cameras have the name {name!r}, without what the format puts around names: rename one in the "
                f"source"
            )
        cameras[name] = content
    return cameras


def any_success(flags: Any) -> bool:
    """Whether an episode succeeded, from one flag or one per step.

    Raises:
        ValueError: if they are neither booleans nor 0 and 1.
    """
    flags = np.asarray(flags)
    if not flags.size or flags.dtype.kind not in "biuf" or not np.isin(flags, (0, 1)).all():
        raise ValueError(f"success must be true or false, for the episode or for each step, got {flags!r}")
    return bool(flags.any())


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
