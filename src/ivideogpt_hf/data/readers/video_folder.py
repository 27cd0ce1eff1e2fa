"""Video files, or folders of images, with optional actions: what a phone, a game or a robot's camera leaves behind."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...media.actions import read_action_names, read_actions
from ...media.files import IMAGE_SUFFIXES, list_images
from ...media.streams import video_rate
from ..episodes import DEFAULT_CAMERA, Episode, step_rows
from .base import EpisodeReader, natural_sort

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
ACTION_SUFFIXES = (".csv", ".npy", ".npz", ".json")
ACTIONS_STEM = "actions"
CLIP_COLUMN = "clip"


class VideoFolderReader(EpisodeReader):
    """A folder of video files, each an episode, or of folders of images, each an episode; or one of these.

    Actions are optional, and all clips must have them or none. They are read from ``<clip>.csv`` (npy, npz, json)
    beside the clip, from ``actions.csv`` in a folder of images, or from one ``actions.csv`` beside the clips, with a
    column ``clip`` that names the file and one column per dimension; a csv's header gives the dimensions' names. There
    is a row per frame (the last is not used) or per step between frames.
    """

    name = "video-folder"
    description = f"video files ({', '.join(VIDEO_SUFFIXES)}) or folders of images"

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return bool(_find_clips(path))

    def _list_episodes(self) -> list[str]:
        self._clips = _find_clips(self.path)
        self._root = self.path if self.path.is_dir() and self._clips != [self.path] else self.path.parent
        return [clip.relative_to(self._root).as_posix() for clip in self._clips]

    def files_of(self, index: int) -> list[Path]:
        clip = self._clips[index]
        images = [clip]
        if clip.is_dir():  # scandir, since a question for each of a million images takes long
            images = [Path(file.path) for file in os.scandir(clip) if file.is_file() and not file.name.startswith(".")]
        stem = clip.name if clip.is_dir() else clip.stem
        folders = [folder for folder in clip.parents if folder.is_relative_to(self._root)]
        beside = [clip.parent / f"{stem}{suffix}" for suffix in ACTION_SUFFIXES]
        beside += [folder / f"{ACTIONS_STEM}{suffix}" for folder in folders for suffix in ACTION_SUFFIXES]
        return [*images, *(file for file in beside if file.is_file())]

    def _read(self, index: int) -> Episode:
        clip = self._clips[index]
        self._select_cameras([DEFAULT_CAMERA])
        frames = self._read_images(clip) if clip.is_dir() else self._decode_video(str(clip), clip.name)
        actions, names = self._read_actions(clip)
        return Episode(
            frames={DEFAULT_CAMERA: frames},
            episode_id=self.episode_ids[index],
            source=self.source_name,
            actions=None if actions is None else step_rows(actions, len(frames), "actions"),
            action_names=names,
            fps=None if clip.is_dir() else video_rate(clip),
        )

    @staticmethod
    def _read_images(folder: Path) -> Sequence[bytes]:
        return [file.read_bytes() for file in list_images(folder)]

    def _read_actions(self, clip: Path) -> tuple[np.ndarray | None, list[str] | None]:
        stem = clip / ACTIONS_STEM if clip.is_dir() else clip.with_suffix("")
        file = _actions_file(stem)
        if file is not None:
            return read_actions(file).numpy(), read_action_names(file)
        table = clip.parent / f"{ACTIONS_STEM}.csv"
        if table.is_file():
            return _rows_of(table, clip)
        return None, None


def _find_clips(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() in VIDEO_SUFFIXES else []
    videos = [file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES]
    folders = {file.parent for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    return natural_sort([*videos, *folders])


def _actions_file(stem: Path) -> Path | None:
    candidates = [stem.with_name(stem.name + suffix) for suffix in ACTION_SUFFIXES]
    files = [file for file in candidates if file.is_file()]
    if len(files) > 1:
        raise ValueError(f"there is more than one file of actions: {', '.join(file.name for file in files)}")
    return files[0] if files else None


def _rows_of(table: Path, clip: Path) -> tuple[np.ndarray, list[str]]:
    """A clip's rows of a table for all clips, and the names of its columns."""
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, skipinitialspace=True)
        names = [name for name in reader.fieldnames or () if name != CLIP_COLUMN]
        if CLIP_COLUMN not in (reader.fieldnames or ()) or not names:
            raise ValueError(
                f"{table} must have a column {CLIP_COLUMN!r} with file names and columns of actions, it has "
                f"{reader.fieldnames}; or put the actions of each clip into a file with its name, such as "
                f"{clip.stem}.csv"
            )
        rows = [[row[name] for name in names] for row in reader if row[CLIP_COLUMN] in (clip.name, clip.stem)]
    if not rows:
        raise ValueError(f"{table} has no rows whose {CLIP_COLUMN!r} is {clip.name}")
    return read_actions(rows).numpy(), names
