"""LeRobot data sets, version 3.0: Parquet tables with many episodes per file, and many episodes per mp4."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import require_packages
from ..episodes import CameraFrames, Episode
from .base import EpisodeReader, natural_sort

INFO_FILE = Path("meta", "info.json")
CAMERA_PREFIX = "observation.images."
SINGLE_CAMERA = "observation.image"
COLUMNS = ("timestamp", "action", "next.reward", "next.success")


class LeRobotReader(EpisodeReader):
    """A LeRobot data set in format v3.0, from its folder; read without the lerobot package.

    Cameras are the features of dtype video or image, without the prefix "observation.images.". ``next.reward`` and
    ``next.success`` are taken where they exist.
    """

    name = "lerobot"
    description = "a LeRobot v3.0 folder with meta/info.json"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return (path / INFO_FILE).is_file()

    def _list_episodes(self) -> list[str]:
        require_packages("datasets", purpose="reading Parquet")
        import pyarrow.parquet as pq

        try:
            self._info = json.loads((self.path / INFO_FILE).read_text(encoding="utf-8"))
        except ValueError as error:
            raise OSError(f"{self.path / INFO_FILE} is not valid JSON: {error}") from error
        version = str(self._info.get("codebase_version"))
        if not version.startswith("v3."):
            raise ValueError(
                f"{self.path} has LeRobot format {version}; v3.0 is read. LeRobot's own script "
                f"convert_dataset_v21_to_v30 converts older ones"
            )
        files = natural_sort((self.path / "meta" / "episodes").rglob("*.parquet"))
        tables = [pq.read_table(file).to_pylist() for file in files]
        self._episodes = sorted((row for table in tables for row in table), key=lambda row: row["episode_index"])
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
        files: list[tuple[str, str, dict[str, str]]] = [(self._info["data_path"], "data", {})]
        for key, feature in self._info["features"].items():
            if feature["dtype"] == "video" and f"videos/{key}/chunk_index" in row:
                files.append((self._info["video_path"], f"videos/{key}", {"video_key": key}))
        return [
            self.path
            / template.format(chunk_index=row[f"{place}/chunk_index"], file_index=row[f"{place}/file_index"], **names)
            for template, place, names in files
            if self.options.cameras is None or not names or _camera_name(names["video_key"]) in self.options.cameras
        ]

    def _read(self, index: int) -> Episode:
        row = self._episodes[index]
        features = self._info["features"]
        keys = {_camera_name(key): key for key, value in features.items() if value["dtype"] in ("video", "image")}
        cameras = self._select_cameras(list(keys))
        columns = [key for key in (*COLUMNS, *map(keys.get, cameras)) if key in features]
        rows = self._read_rows(row, [key for key in columns if features[key]["dtype"] != "video"])
        frames = {camera: self._frames(keys[camera], row, rows) for camera in cameras}
        success = rows.get("next.success")
        rewards = rows.get("next.reward")
        actions = rows.get("action")
        tasks = row.get("tasks") or [""]
        return Episode(
            frames=frames,
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=None if actions is None else np.array(actions, dtype=np.float32)[:-1],
            rewards=None if rewards is None else np.array(rewards, dtype=np.float32).reshape(len(rewards))[:-1],
            success=None if success is None else bool(np.any(success)),
            task=tasks if isinstance(tasks, str) else "; ".join(tasks),
            fps=float(self._info["fps"]),
            action_names=None if actions is None else _names(features["action"].get("names")),
        )

    def _read_rows(self, row: dict[str, Any], columns: Sequence[str]) -> dict[str, list[Any]]:
        """The rows of one episode in a file of many."""
        import pyarrow.parquet as pq

        file = self.path / self._info["data_path"].format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        table = pq.read_table(file, columns=columns, filters=[("episode_index", "=", row["episode_index"])])
        if len(table) != row["length"]:
            raise ValueError(f"{file} has {len(table)} rows of it, meta/episodes says {row['length']}")
        return table.to_pydict()

    def _frames(self, key: str, row: dict[str, Any], rows: dict[str, list[Any]]) -> CameraFrames:
        if key in rows:
            return [self._image_bytes(image) for image in rows[key]]
        place = f"videos/{key}"
        file = self.path / self._info["video_path"].format(
            video_key=key, chunk_index=row[f"{place}/chunk_index"], file_index=row[f"{place}/file_index"]
        )
        start, length = row[f"{place}/from_timestamp"], row["length"]
        frames = self._decode_video(str(file), str(file), start=start, num_frames=length)
        if len(frames) < length:
            raise ValueError(f"{file} has {len(frames)} frames from {start} s on, the episode has {length}")
        return frames

    def _image_bytes(self, image: dict[str, Any]) -> bytes:
        return image["bytes"] if image["bytes"] is not None else (self.path / image["path"]).read_bytes()


def _camera_name(key: str) -> str:
    return "image" if key == SINGLE_CAMERA else key.removeprefix(CAMERA_PREFIX)


def _names(names: Any) -> list[str] | None:
    """LeRobot writes names as a list, or as a dict from a group to its list."""
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return names
