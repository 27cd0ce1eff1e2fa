"""LeRobot data sets, version 3.0: Parquet tables with many episodes per file, and many episodes per mp4."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import require_packages
from ...media.files import natural_sort
from ...media.streams import describe_video
from ...run_folder import naming, read_object
from ..episodes import CameraFrames, Episode
from .base import EpisodeReader, any_success, named_cameras
from .videos import VideoFrames, decode_video_at

INFO_FILE = Path("meta", "info.json")
TASKS_FILE = Path("meta", "tasks.parquet")
CAMERA_PREFIX = "observation.images."
SINGLE_CAMERA = "observation.image"
VIDEO, IMAGE = "video", "image"
ACTION_PREFIX = "action."
REWARD, SUCCESS, TIME, TASK = "next.reward", "next.success", "timestamp", "task_index"
NUMBERINGS = ("frame_index", "index")


class LeRobotReader(EpisodeReader):
    """A LeRobot data set in format v3.0, from its folder; read without the lerobot package.

    Cameras are the features of dtype video or image with three channels, without the prefix "observation.images.". A
    frame of a video is the one whose time is ``from_timestamp + timestamp``, within half a frame. Actions are
    ``action``, or ``actions``, or all of ``action.*`` side by side. ``next.reward`` and ``next.success`` are taken
    where they exist.
    """

    name = "lerobot"
    description = "a LeRobot v3.0 folder with meta/info.json"
    has_action_keys = True
    told_alignment = "after"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return (path / INFO_FILE).is_file()

    def _list_episodes(self) -> list[str]:
        require_packages("datasets", purpose="reading Parquet")
        import pyarrow.parquet as pq

        self._info = read_object(self.path / INFO_FILE)
        version = str(self._info.get("codebase_version"))
        if not version.startswith("v3."):
            raise ValueError(
                f"{self.path} has LeRobot format {version}; v3.0 is read. LeRobot's own script "
                f"convert_dataset_v21_to_v30 converts older ones"
            )
        missing = [key for key in ("features", "fps", "data_path") if key not in self._info]
        if missing:
            raise ValueError(f"{self.path / INFO_FILE} lacks {missing}")
        features = self._info["features"]
        if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
            raise ValueError(f"{self.path / INFO_FILE}: features must be an object with a description of each")
        self._fps = self._info["fps"]
        if not isinstance(self._fps, (int, float)) or not (isfinite(self._fps) and self._fps > 0):
            raise ValueError(f"{self.path / INFO_FILE} must state a positive fps, it states {self._fps!r}")
        self._video_times: dict[Path, np.ndarray] = {}
        files = natural_sort((self.path / "meta" / "episodes").rglob("*.parquet"))
        self._episodes: list[dict[str, Any]] = []
        for file in files:
            with naming(file):
                self._episodes += pq.read_table(file).to_pylist()
                self._episodes.sort(key=lambda row: row["episode_index"])
        return [f"episode_{row['episode_index']}" for row in self._episodes]

    def files_of(self, index: int) -> list[Path]:
        try:
            return [*self._shared_files, *self._files_with(self._episodes[index])]
        except KeyError:  # reading it says what is missing
            return self._all_files

    @cached_property
    def _shared_files(self) -> list[Path]:
        """What is said of all episodes, and images that lie in files of their own."""
        folders = (self.path / "meta", self.path / "images")
        return natural_sort(file for folder in folders for file in folder.rglob("*") if file.is_file())

    def _files_with(self, row: dict[str, Any]) -> list[Path]:
        """The table and the videos that hold an episode, among those of others."""
        files: list[tuple[str, str, dict[str, str]]] = [("data_path", "data", {})]
        for key, feature in self._info["features"].items():
            if feature["dtype"] == "video" and f"videos/{key}/chunk_index" in row:
                files.append(("video_path", f"videos/{key}", {"video_key": key}))
        return [
            self._file_at(path, chunk_index=row[f"{place}/chunk_index"], file_index=row[f"{place}/file_index"], **names)
            for path, place, names in files
            if self.options.cameras is None or not names or _camera_name(names["video_key"]) in self.options.cameras
        ]

    def _read(self, index: int) -> Episode:
        row, features = self._episodes[index], self._info["features"]
        images = named_cameras(
            (_camera_name(key), key) for key, value in features.items() if value["dtype"] in (VIDEO, IMAGE)
        )
        rgb = [camera for camera, key in images.items() if _is_rgb(features[key])]
        cameras = self._select_cameras(rgb, set(images) - set(rgb))
        action_keys = self._action_keys()
        wanted = [*NUMBERINGS, TIME, REWARD, SUCCESS, *action_keys, *map(images.__getitem__, cameras)]
        if not row.get("tasks"):
            wanted.append(TASK)
        rows = self._read_rows(row, [key for key in wanted if features.get(key, {}).get("dtype", VIDEO) != VIDEO])
        times = self._check_numbering(row, rows)
        actions, names, notes = self._actions(rows, action_keys)
        return self._make_episode(
            index,
            {camera: self._frames(images[camera], row, rows, times) for camera in cameras},
            actions=actions,
            rewards=rows.get(REWARD),
            success=any_success(rows[SUCCESS]) if SUCCESS in rows else None,
            task=self._task(row, rows),
            fps=float(self._fps),
            action_names=names,
            left_out=set(images) - set(cameras),
            notes=notes,
        )

    def _file_at(self, key: str, **values: Any) -> Path:
        """The file that a pattern of meta/info.json gives for some values.

        Raises:
            ValueError: if it is no pattern of these values, or leads out of the data set's folder.
        """
        pattern = self._info.get(key)
        try:
            place = os.path.normpath(pattern.format(**values))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path / INFO_FILE}: {key} {pattern!r:.80} is no pattern of a path: {error}"
            ) from error
        if os.path.isabs(place) or Path(place).drive or Path(place).parts[0] == "..":
            raise ValueError(f"{self.path / INFO_FILE}: {key} {pattern!r:.80} leads out of {self.path}")
        return self.path / place

    def _read_rows(self, row: dict[str, Any], columns: Sequence[str]) -> dict[str, list[Any]]:
        """The rows of one episode in a file of many."""
        import pyarrow.parquet as pq

        file = self._file_at("data_path", chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        lacking = sorted(set(columns) - set(pq.read_schema(file).names))
        if lacking:
            raise ValueError(f"{file} lacks the columns {lacking} that meta/info.json states")
        table = pq.read_table(file, columns=list(columns), filters=[("episode_index", "=", row["episode_index"])])
        if len(table) != row["length"]:
            raise ValueError(f"{file} has {len(table)} rows of it, meta/episodes says {row['length']}")
        if not len(table):
            raise ValueError("it has no frames")
        return table.to_pydict()

    def _check_numbering(self, row: dict[str, Any], rows: dict[str, list[Any]]) -> list[float]:
        """The time of each row in seconds from the beginning of the episode.

        Raises:
            ValueError: if the columns that number rows contradict each other.
        """
        starts = {"frame_index": 0, "index": row.get("dataset_from_index")}
        for name, start in starts.items():
            numbers = [_single(number) for number in rows.get(name, ())]
            first = numbers[0] if numbers and start is None else start
            wrong = next((t for t, number in enumerate(numbers) if number != first + t), None)
            if wrong is not None:
                raise ValueError(f"row {wrong} has the {name} {numbers[wrong]}, where {first + wrong} is expected")
        times = [float(_single(time)) for time in rows.get(TIME, ())]
        if not times:
            return [t / self._fps for t in range(row["length"])]
        for t, time in enumerate(times):
            if not isfinite(time) or (t and time <= times[t - 1]):
                raise ValueError(
                    f"row {t} has the timestamp {time} s, after {times[max(t - 1, 0)]} s: they must ascend"
                )
        return times

    def _frames(
        self, key: str, row: dict[str, Any], rows: dict[str, list[Any]], times: Sequence[float]
    ) -> CameraFrames | VideoFrames:
        if key in rows:
            return [self._image_bytes(image, t) for t, image in enumerate(rows[key])]
        place = f"videos/{key}"
        file = self._file_at(
            "video_path", video_key=key, chunk_index=row[f"{place}/chunk_index"], file_index=row[f"{place}/file_index"]
        )
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        start = row[f"{place}/from_timestamp"]
        wanted = [start + time for time in times]
        self._check_times(file, wanted)
        return decode_video_at(str(file), str(file), wanted, self.options, tolerance=0.5 / self._fps)

    def _check_times(self, file: Path, wanted: Sequence[float]) -> None:
        """Raise ValueError unless a video has a frame for each row, near its time, and none between them."""
        if file not in self._video_times:
            self._video_times[file] = describe_video(str(file), str(file)).times
        shown = self._video_times[file]
        after = np.searchsorted(shown, wanted).clip(1, max(len(shown) - 1, 1))
        near = after - (np.abs(shown[after - 1] - wanted) <= np.abs(shown[after.clip(max=len(shown) - 1)] - wanted))
        for t, (index, time) in enumerate(zip(near, wanted, strict=True)):
            if abs(shown[index] - time) > 0.5 / self._fps:
                raise ValueError(
                    f"{file} has no frame for row {t}: it is wanted at {time:.4f} s, the nearest is at "
                    f"{shown[index]:.4f} s, more than half a frame away"
                )
            if t and index != near[t - 1] + 1:
                raise ValueError(
                    f"{file} has {index - near[t - 1] - 1} frames between those of the rows {t - 1} and {t}: its rate "
                    f"is not the {self._fps} frames per second of meta/info.json"
                    if index > near[t - 1]
                    else f"{file} has one frame for the rows {t - 1} and {t}, at {shown[index]:.4f} s"
                )

    def _image_bytes(self, image: dict[str, Any] | None, row: int) -> bytes:
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise ValueError(f"row {row} has no image")
        return image["bytes"] if image["bytes"] is not None else (self.path / image["path"]).read_bytes()

    # -- actions and tasks --------------------------------------------------------------------------------------------

    def _action_keys(self) -> list[str]:
        features = self._info["features"]
        key = self._action_key(features)
        return [name for name in features if name.startswith(ACTION_PREFIX)] if key is None else [key]

    def _actions(
        self, rows: dict[str, list[Any]], keys: Sequence[str]
    ) -> tuple[np.ndarray | None, list[str] | None, list[str]]:
        """The actions, the names of their dimensions, and remarks."""
        if not keys:
            return None, None, []
        parts: list[np.ndarray] = []
        for key in keys:
            values = np.array(rows[key])
            if values.dtype.kind not in "biuf":
                raise ValueError(f"{key} has missing values, or rows of different widths")
            parts.append(values[:, None] if values.ndim == 1 else values)
        if len(keys) > 1:
            labels = [f"{key}[{i}]" for key, part in zip(keys, parts, strict=True) for i in range(part.shape[1])]
            return np.concatenate(parts, axis=1), labels, [f"actions side by side: {', '.join(keys)}"]
        names = _names(self._info["features"][keys[0]].get("names"))
        if names is not None and len(names) != parts[0].shape[-1]:
            return parts[0], None, [f"names of actions are left out: {len(names)} for {parts[0].shape[-1]} dimensions"]
        return parts[0], names, []

    def _task(self, row: dict[str, Any], rows: dict[str, list[Any]]) -> str:
        tasks = row.get("tasks")
        if not tasks:
            numbers = dict.fromkeys(_single(number) for number in rows.get(TASK, ()))
            tasks = [self._tasks[number] for number in numbers if number in self._tasks]
        return tasks if isinstance(tasks, str) else "; ".join(tasks)

    @cached_property
    def _tasks(self) -> dict[int, str]:
        """Task of each task_index. LeRobot writes the texts as the table's index, which is the column of text."""
        import pyarrow.parquet as pq

        file = self.path / TASKS_FILE
        if not file.is_file():
            return {}
        rows = pq.read_table(file).to_pylist()
        return {row[TASK]: next((text for text in row.values() if isinstance(text, str)), "") for row in rows}


def _single(value: Any) -> Any:
    """A scalar, which is stored as such or as a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _camera_name(key: str) -> str:
    return "image" if key == SINGLE_CAMERA else key.removeprefix(CAMERA_PREFIX)


def _is_rgb(feature: dict[str, Any]) -> bool:
    """Whether a feature holds pictures of three channels, by what its description states."""
    details = feature.get("info") or feature.get("video_info") or {}
    if details.get("video.is_depth_map") or details.get("is_depth_map"):
        return False
    shape, names = feature.get("shape") or [], feature.get("names")
    labels = [str(name).rstrip("s") for name in names] if isinstance(names, list) else []
    if "channel" in labels and len(labels) == len(shape):
        channels = {shape[labels.index("channel")]}
    else:
        channels = (
            {shape[0], shape[-1]} if len(shape) == 3 else {details.get("video.channels", 3)} if not shape else {1}
        )
    return 3 in channels and details.get("video.channels", 3) == 3


def _names(names: Any) -> list[str] | None:
    """LeRobot writes names as a list, or as a dict from a group to its list."""
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return names
