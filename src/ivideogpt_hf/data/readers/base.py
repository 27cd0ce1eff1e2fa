"""What every reader of episodes is: count, iterate, read by index, and name what is wrong with an episode.

Here is also what `ReadOptions` ask of all formats alike: size, rate, and the frame that a row of actions belongs to.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...media.files import natural_key
from ...media.streams import describe_video, iterate_video, read_frames_at, resample_frames
from ...media.video import frames_from_array
from ..episodes import CameraFrames, Episode, Signature, decode_frames, step_rows
from ..fitting import Size, aspects_differ, fit_frames
from ..read_options import ActionAlignment, ReadOptions

# Where so many episodes in a row are bad, something else is wrong, such as the name of a camera.
SIGNATURE_ATTEMPTS = 20
# What archivers, network drives and thumbnailers leave behind.
SIDECAR_NAMES = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "Thumbs.db"}
NOT_RGB_NAME = re.compile(r"(^|[^a-z])(depth|disparity|masks?|seg|segmentation)([^a-z]|$)", re.IGNORECASE)
ALIGNMENTS: Mapping[ActionAlignment, str] = {
    "before": "row t of the actions led to frame t",
    "after": "row t of the actions leads from frame t to frame t + 1",
}


class EpisodeError(ValueError):
    """An episode that cannot be read, with its file and the reason."""


class VideoFrames(NamedTuple):
    """Frames that come from a video file.

    Attributes:
        pixels: frames (T, H, W, 3) uint8, of the size that was asked for.
        source_size: (height, width) of the file's frames.
        fps: number of frames per second; None where it is not one number.
        notes: remarks for the report.
    """

    pixels: np.ndarray
    source_size: Size
    fps: float | None = None
    notes: Sequence[str] = ()


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

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        self.path = path
        self.options = options or ReadOptions()
        self.notes: list[str] = []
        if self.options.action_key is not None and not self.has_action_keys:
            raise ValueError(f"{self.name} data have no names of actions to choose from: leave out action_key")
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
        episode = self._read_with_options(index)
        with self._naming(index):
            self._check_aspects(episode)
        return episode

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Turn whatever exception a broken file causes into an `EpisodeError` that names the episode."""
        try:
            yield
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # numpy, zipfile, h5py, PyAV and protobuf raise many kinds on broken files
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise EpisodeError(f"episode {self.episode_ids[index]!r} of {self.path}: {reason}") from error

    def _read_with_options(self, index: int) -> Episode:
        with self._naming(index):
            episode = self._read(index)
            return self._fit(self._with_bounds(self._with_rate(episode)))

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

    def _action_key(self, usual: Sequence[str], available: Collection[str]) -> str | None:
        """The name under which an episode holds its actions, or None."""
        key = self.options.action_key
        if key is not None:
            if key not in available:
                raise ValueError(f"there are no actions {key!r}; there are {sorted(available)}")
            return key
        found = [key for key in usual if key in available]
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
        self._check_rate(actions, rewards)
        if actions is not None:
            rows = step_rows(actions, num_frames, "actions", alignment)
            if len(rows) < len(actions):
                asked = self.options.action_alignment is not None
                reason = "as action_alignment says" if asked else "as the format says" if told else "assumed"
                notes.append(f"{ALIGNMENTS[alignment]} ({reason})")
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
            source=self.source_name,
            actions=actions,
            rewards=rewards,
            notes=notes,
            source_sizes={camera: clip.source_size for camera, clip in videos.items()},
            **values,
        )

    def _decode_video(self, file: Any, name: str) -> VideoFrames:
        """A video file, at the size and rate that were asked for."""
        info = describe_video(file, name)
        images = _rewound(file, iterate_video, name)
        notes = ["interlaced: a frame shows two times"] if info.is_interlaced else []
        fps = None if info.is_variable or info.rate is None else info.rate
        if info.is_variable:
            intervals = np.diff(info.times)
            notes.append(
                f"uneven: {intervals.min():.3g} to {intervals.max():.3g} s between frames; --fps makes it even"
                if self.options.fps is None
                else "uneven in the source"
            )
        if self.options.fps is not None and (fps is None or not np.isclose(fps, self.options.fps)):
            rate = "an uneven rate" if fps is None else f"{fps:.4g} frames per second"
            notes.append(f"resampled from {rate} to {self.options.fps:.4g}")
            images = _choose(images, resample_frames(info.times, self.options.fps).tolist())
            fps = self.options.fps
        return VideoFrames(*self._stack(images), fps, notes)

    def _decode_video_at(self, file: Any, name: str, times: Sequence[float], tolerance: float) -> VideoFrames:
        """The frames that a video file shows at some times, in seconds of its clock."""
        return VideoFrames(*self._stack(read_frames_at(file, name, times, tolerance=tolerance)))

    def _stack(self, images: Iterable[np.ndarray]) -> tuple[np.ndarray, Size]:
        """Frames, resized on the way, so that a long video of large frames need not fit into memory; and their size."""
        source_size, frames = (0, 0), []
        for image in images:
            source_size = image.shape[:2]
            size = self.options.size or source_size
            frames.append(fit_frames(image[None], size, self.options.fit or "squash")[0])
        return np.stack(frames), source_size

    # -- what is asked of all formats alike ---------------------------------------------------------------------------

    def _with_rate(self, episode: Episode) -> Episode:
        """The episode at the rate that was asked for; video files have it already."""
        fps = self.options.fps
        if fps is None:
            return episode
        self._check_rate(episode.actions, episode.rewards)
        if episode.fps is None:
            raise ValueError(
                "it does not say when its frames were taken, so they cannot be resampled: leave out fps, and train "
                "with a stride"
            )
        if np.isclose(episode.fps, fps):
            return episode
        indices = resample_frames(np.arange(episode.num_frames) / episode.fps, fps)
        frames = {camera: [frames[i] for i in indices] for camera, frames in episode.frames.items()}
        return replace(
            episode,
            frames={
                camera: np.stack(chosen) if isinstance(episode.frames[camera], np.ndarray) else chosen
                for camera, chosen in frames.items()
            },
            fps=fps,
            notes=[*episode.notes, f"resampled from {episode.fps:.4g} frames per second to {fps:.4g}"],
        )

    def _check_rate(self, actions: Any, rewards: Any) -> None:
        """Raise ValueError if a rate was asked for, and rows belong to the frames."""
        if self.options.fps is not None and (actions is not None or rewards is not None):
            raise ValueError(
                "it has a row of actions or rewards for each step between frames, so its frames cannot be resampled: "
                "leave out fps, and train with a stride"
            )

    def _with_bounds(self, episode: Episode) -> Episode:
        low, high = self.options.action_low, self.options.action_high
        if low is None or high is None:
            return episode
        if episode.actions is None:
            raise ValueError("bounds of actions were given, but it has no actions")
        if len(low) != episode.action_dim:
            raise ValueError(
                f"action_low and action_high have {len(low)} numbers, its actions have {episode.action_dim} dimensions"
            )
        return replace(episode, action_low=list(low), action_high=list(high))

    def _fit(self, episode: Episode) -> Episode:
        """The episode with frames of the size that was asked for; those that have it stay as they are."""
        size = self.options.size
        if size is None:
            return episode
        sizes, frames, notes = dict(episode.source_sizes or {}), dict(episode.frames), list(episode.notes)
        for camera, encoded in episode.frames.items():
            if camera not in sizes:
                pixels = decode_frames(encoded)
                sizes[camera] = pixels.shape[1:3]
                if sizes[camera] != size:
                    frames[camera] = fit_frames(pixels, size, self.options.fit or "squash")
            if aspects_differ(sizes[camera], size):
                before, after = ("x".join(map(str, pair)) for pair in (sizes[camera], size))
                how = {"crop": "cropped", "pad": "padded"}.get(self.options.fit or "", "squashed")
                notes.append(f"camera {camera}: {how} from {before} to {after}")
        return replace(episode, frames=frames, source_sizes=sizes, notes=notes)

    def _check_aspects(self, episode: Episode) -> None:
        """Raise ValueError if frames would be squashed in another way than those of other episodes."""
        if self.options.size is None or self.options.fit is not None:
            return
        first_sizes = self._first_episode[1]
        for camera, size in (episode.source_sizes or {}).items():
            if camera in first_sizes and aspects_differ(size, first_sizes[camera]):
                first, own = ("x".join(map(str, pair)) for pair in (first_sizes[camera], size))
                raise ValueError(
                    f"frames of camera {camera!r} have another aspect ({own}) than the first episode's ({first}): "
                    f"choose how they come to one size with fit, --fit crop, pad or squash"
                )


def _rewound(file: Any, iterate: Any, name: str) -> Iterator[np.ndarray]:
    if hasattr(file, "seek"):
        file.seek(0)
    return iterate(file, name)


def _choose(images: Iterator[np.ndarray], indices: Sequence[int]) -> Iterator[np.ndarray]:
    """The images of ascending indices, which may repeat."""
    position, image = -1, None
    for index in indices:
        while position < index:
            image, position = next(images), position + 1
        if image is not None:
            yield image


class FileReader(EpisodeReader):
    """A reader of files that lie in a folder, at any depth, in natural order of their names.

    Attributes:
        suffixes: endings of the files' names, in lower case.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        super().__init__(path, options)
        if path.is_dir():
            hidden = natural_sort(file for file in path.rglob("*") if self.matches(file) and is_hidden(file, path))
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

    def name_of(self, file: Path) -> str:
        """A file's name relative to the source."""
        return file.name if self.path.is_file() else file.relative_to(self.path).as_posix()


def is_hidden(file: Path, root: Path) -> bool:
    """Whether a file below ``root``, or a folder on its way, is hidden or a sidecar."""
    return any(part.startswith(".") or part in SIDECAR_NAMES for part in file.relative_to(root).parts)


def visible_files(root: Path) -> Iterator[Path]:
    """The files below a folder but for hidden ones and sidecars."""
    return (file for file in root.rglob("*") if not is_hidden(file, root) and file.is_file())


def hidden_note(hidden: Sequence[Path], root: Path) -> list[str]:
    """The remark that hidden files were left out, if there are any."""
    if not hidden:
        return []
    return [f"hidden files are no episodes: {hidden[0].relative_to(root).as_posix()}" + _others(len(hidden) - 1)]


def _others(number: int) -> str:
    return f" and {number} more" if number else ""


def natural_sort(paths: Iterable[Path]) -> list[Path]:
    """The paths in an order in which episode_2 comes before episode_10."""
    return sorted(paths, key=lambda path: natural_key(str(path)))


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


__all__ = ["EpisodeError", "EpisodeReader", "FileReader", "VideoFrames", "natural_sort", "pixels"]
