"""One schema of an episode: the dataclass in memory, and its columns on disk and on the Hub.

On disk an episode is a row of a Parquet file that plain ``datasets.load_dataset`` reads:

| column | type | meaning |
|---|---|---|
| ``schema_version`` | int32 | `SCHEMA_VERSION` |
| ``source`` | string | name of the data set that the episode comes from |
| ``episode_id`` | string | name of the episode in its source, unique there, such as ``run/7.npz`` |
| ``episode_index`` | int64 | its place in the source's order |
| ``task`` | string | what is done, as text; "" where unknown |
| ``fps`` | float32 | frames per second, or null |
| ``num_frames`` | int32 | T |
| ``success`` | bool | whether the task succeeded, or null |
| ``action_names`` | list of string | one per action dimension, or null |
| ``action_low``, ``action_high`` | list of float32 | bounds per action dimension in environment units, or null |
| ``actions`` | list of list of float32 | (T - 1, A), environment units, or null: row t leads from frame t to t + 1 |
| ``rewards`` | list of float32 | (T - 1,), or null: row t is what action t earned |
| ``frames.<camera>`` | list of Image | T encoded images of one size, one such column per camera |

An action after the last frame leads to nothing that is stored, so a source with T actions loses its last row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ..extras import require_packages
from ..media.action_files import check_exact
from ..media.action_tables import MAX_COLUMNS
from ..media.alignment import ActionAlignment
from ..media.images import decode_images, encode_png, images_to_store

SCHEMA_VERSION = 1
DEFAULT_CAMERA = "image"
FRAMES_PREFIX = "frames."
PATHS_ONLY = (
    "holds paths of images of camera {camera!r}, not the images; `datasets` embeds them when it writes Parquet files "
    "or pushes to the Hub"
)
CHANNELS = 3

# Of one camera: pixels, or encoded images.
CameraFrames = np.ndarray | Sequence[bytes]


class Signature(NamedTuple):
    """What all episodes of a data set share.

    Attributes:
        cameras: names of the cameras, sorted.
        action_dim: width of the actions; None without actions.
    """

    cameras: tuple[str, ...]
    action_dim: int | None

    def __str__(self) -> str:
        actions = "no actions" if self.action_dim is None else f"{self.action_dim}-wide actions"
        return f"cameras {', '.join(self.cameras)} and {actions}"


@dataclass(frozen=True)
class Episode:
    """One episode; the module's table says what the fields mean.

    Attributes:
        frames: images of each camera, (T, H, W, 3) uint8, or T encoded images as bytes (PNG, JPEG, ...).
        actions: (T - 1, A) float32, or None.
        rewards: (T - 1,) float32, or None.
        notes: remarks for the report about how the episode was read, such as "resampled from 30 to 10 fps". They are
            not stored: `COLUMN_FIELDS` are.
        source_sizes: (height, width) that each camera's frames have in the source, where it was looked at; not stored.

    Raises:
        ValueError: if lengths, shapes or dtypes contradict each other, or a number is not finite.

    Example:
        >>> import numpy as np
        >>> from ivideogpt_hf.data.episodes import Episode
        >>> frames = {"front": np.zeros((5, 16, 16, 3), np.uint8)}
        >>> episode = Episode(frames, episode_id="0", source="kitchen", actions=np.zeros((4, 2), np.float32))
        >>> episode.num_frames, episode.action_dim
        (5, 2)
    """

    frames: Mapping[str, CameraFrames]
    episode_id: str
    source: str
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    success: bool | None = None
    task: str = ""
    fps: float | None = None
    action_names: Sequence[str] | None = None
    action_low: Sequence[float] | None = None
    action_high: Sequence[float] | None = None
    notes: Sequence[str] = ()
    source_sizes: Mapping[str, tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        lengths = {camera: len(frames) for camera, frames in self.frames.items()}
        if not lengths or 0 in lengths.values():
            raise ValueError(f"it has no frames (per camera: {lengths})")
        if len(set(lengths.values())) > 1:
            raise ValueError(f"its cameras have different numbers of frames: {lengths}")
        for camera, frames in self.frames.items():
            if isinstance(frames, np.ndarray) and (
                frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != CHANNELS
            ):
                raise ValueError(
                    f"frames of camera {camera!r} must be RGB, uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}"
                )
        if self.num_frames == 1 and (self.actions is not None or self.rewards is not None):
            raise ValueError(
                "it has a single frame, so that there is no step for its actions or rewards, and no clip: leave it "
                "out, as skip_bad, --skip-bad, does"
            )
        if self.actions is not None and self.actions.ndim == 2:
            if not self.actions.shape[1]:
                raise ValueError("actions have no columns: leave them out of the source where there are none")
            if self.actions.shape[1] > MAX_COLUMNS:
                raise ValueError(f"actions have {self.actions.shape[1]} columns; at most {MAX_COLUMNS} are read")
        self._check_rows("actions", self.actions, 2)
        self._check_rows("rewards", self.rewards, 1)
        for name in ("action_names", "action_low", "action_high"):
            values = getattr(self, name)
            if values is not None and len(values) != self.action_dim:
                raise ValueError(f"{name} has {len(values)} entries for {self.action_dim} action dimensions")

    def _check_rows(self, name: str, rows: np.ndarray | None, ndim: int) -> None:
        if rows is None:
            return
        if rows.dtype != np.float32 or rows.ndim != ndim:
            raise ValueError(f"{name} must be float32 with {ndim} dimension(s), got {rows.dtype} {rows.shape}")
        if len(rows) != self.num_frames - 1:
            raise ValueError(
                f"{self.num_frames} frames need {self.num_frames - 1} {name}, one for each step between two frames "
                f"(or one more, after the last), got {len(rows)}"
            )
        broken_rows = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))
        if len(broken_rows):
            raise ValueError(f"{name} contain NaN or infinite values, first in row {broken_rows[0]}")

    @property
    def num_frames(self) -> int:
        """T, the number of frames of each camera."""
        return len(next(iter(self.frames.values())))

    @property
    def action_dim(self) -> int | None:
        """A, the width of the actions; None without actions."""
        return None if self.actions is None else self.actions.shape[1]

    @property
    def signature(self) -> Signature:
        """What must be the same in all episodes of a data set."""
        return Signature(tuple(sorted(self.frames)), self.action_dim)


COLUMN_FIELDS = tuple(field.name for field in fields(Episode) if field.name not in ("frames", "notes", "source_sizes"))


def step_rows(rows: Any, num_frames: int, name: str, alignment: ActionAlignment = "after") -> np.ndarray:
    """The rows that lie between frames, as float32.

    Args:
        rows: numbers with T or T - 1 rows.
        num_frames: number of frames T.
        name: name of the rows, for errors.
        alignment: place of row t where there are T rows. Of "after", the last one is dropped, since no frame follows
            it; of "before", the first one, since no frame precedes it.

    Raises:
        ValueError: unless there are T or T - 1 rows of numbers, and float32 holds the integers among them.
    """
    try:
        numbers = np.asarray(rows)
        if numbers.size and numbers.dtype.kind not in "biuf":
            raise ValueError(f"they have the type {numbers.dtype}")
        if not numbers.ndim:
            raise ValueError("they are a single value")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are not a table of numbers: {error}") from error
    if len(numbers) not in (num_frames, num_frames - 1):
        raise ValueError(f"{num_frames} frames do not match {len(numbers)} {name}; allowed are as many, or one fewer")
    with np.errstate(over="ignore"):  # an episode refuses what is infinite
        values, numbers = numbers, numbers.astype(np.float32)
    check_exact(values, numbers, name)
    if len(numbers) < num_frames:
        return numbers
    return numbers[1:] if alignment == "before" else numbers[:-1]


# -- images -----------------------------------------------------------------------------------------------------------


def decode_frames(frames: CameraFrames) -> np.ndarray:
    """Frames of one camera as (T, H, W, 3) uint8.

    Raises:
        ValueError: if an image is corrupt, not RGB, or of another size than the first.
    """
    return frames if isinstance(frames, np.ndarray) else decode_images(frames)


# -- columns ----------------------------------------------------------------------------------------------------------


def episode_features(cameras: Sequence[str]) -> Any:
    """The schema as `datasets.Features`, for these cameras."""
    require_packages("datasets", purpose="a data set")
    from datasets import Features, Image, List, Value

    numbers = List(Value("float32"))
    return Features(
        {
            "schema_version": Value("int32"),
            "source": Value("string"),
            "episode_id": Value("string"),
            "episode_index": Value("int64"),
            "task": Value("string"),
            "fps": Value("float32"),
            "num_frames": Value("int32"),
            "success": Value("bool"),
            "action_names": List(Value("string")),
            "action_low": numbers,
            "action_high": numbers,
            "actions": List(numbers),
            "rewards": numbers,
            **{FRAMES_PREFIX + camera: List(Image()) for camera in cameras},
        }
    )


def cameras_in(columns: Sequence[str]) -> list[str]:
    """The cameras among the columns of a data set."""
    return [column.removeprefix(FRAMES_PREFIX) for column in columns if column.startswith(FRAMES_PREFIX)]


def check_columns(columns: Sequence[str], name: str) -> None:
    """Raise ValueError unless a data set has the columns of the schema."""
    missing = set(episode_features(())) - set(columns)
    if missing or not cameras_in(columns):
        lacks = sorted(missing) or f"a column {FRAMES_PREFIX}<camera>"
        raise ValueError(
            f"{name} is not a data set of episodes in this package's schema, it lacks {lacks}; "
            f"`ivideogpt convert-data` makes one from it"
        )


def check_same_cameras(cameras: Sequence[str], before: Sequence[str], name: str) -> None:
    """Raise ValueError unless a file of a data set has the cameras of the files before it."""
    if set(cameras) != set(before):
        raise ValueError(
            f"{name} has the cameras {sorted(cameras)}, files before it have {sorted(before)}: they are of several "
            f"data sets"
        )


def check_version(version: int, name: str) -> None:
    """Raise ValueError unless a data set has the schema's version."""
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{name} has version {version} of the episode schema, this package reads version {SCHEMA_VERSION}; "
            f"{'update the package' if version > SCHEMA_VERSION else 'convert the source again'}"
        )


def episode_to_row(episode: Episode, index: int) -> dict[str, Any]:
    """An episode as a row of the schema; arrays of frames are encoded as PNG, encoded images as `images_to_store` does.

    Raises:
        ValueError: if an encoded image is one that `decode_images` refuses.
    """
    row: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "episode_index": index, "num_frames": episode.num_frames}
    for name in COLUMN_FIELDS:
        value = getattr(episode, name)
        if isinstance(value, np.ndarray):
            value = list(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = [item if isinstance(item, str) else float(item) for item in value]
        row[name] = value
    for camera, frames in episode.frames.items():
        images = map(encode_png, frames) if isinstance(frames, np.ndarray) else images_to_store(frames)
        row[FRAMES_PREFIX + camera] = [{"bytes": image, "path": None} for image in images]
    return row


def episode_from_row(row: Mapping[str, Any], cameras: Sequence[str]) -> Episode:
    """The inverse of `episode_to_row`, from plain Python values with undecoded images.

    Raises:
        ValueError: if the row holds the paths of images, and not the images.
    """
    values = {name: row[name] for name in COLUMN_FIELDS}
    for name in ("actions", "rewards"):
        if values[name] is not None:
            values[name] = np.array(values[name], dtype=np.float32)
    frames = {camera: [image["bytes"] for image in row[FRAMES_PREFIX + camera]] for camera in cameras}
    for camera, images in frames.items():
        if None in images:
            raise ValueError(f"it {PATHS_ONLY.format(camera=camera)}")
    return Episode(frames=frames, **values)
