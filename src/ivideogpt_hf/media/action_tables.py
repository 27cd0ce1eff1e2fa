"""Rows of actions, and the rule that tells which row belongs to which frame of which clip."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from .alignment import ActionAlignment
from .files import VIDEO_SUFFIXES

CLIP_COLUMN, FRAME_COLUMN = "clip", "frame"
NAMES_SHOWN = 5  # of clips and frames, in messages
MAX_COLUMNS = 10_000  # of the actions of any source; a robot has tens


@dataclass(frozen=True)
class ActionTable:
    """Rows of actions, and what their file says about them.

    A table is read by one rule, whoever reads it. Row t of a clip leads from frame t to frame t + 1, and the first row
    belongs to the first frame. A clip of N frames has N rows, of which the last leads to no frame, or N - 1. A column
    "frame" binds the rows to frames instead, which are counted from 0; then rows may stand in any order. A column
    "clip" names the clip of each row.

    Attributes:
        path: file of the table.
        actions: (R, A) float32, finite.
        names: name of each dimension; None where the file has none.
        clips: name of each row's clip, as a path with slashes; None without such a column.
        frames: (R,) int64, the frame of each row; None without such a column.
        alignment: "before", if row t led to frame t instead: of N rows, the first one leads to no frame then. None
            where neither the reader's user nor a flag of the file said so.
        notes: remarks on how the file was read.
    """

    path: Path
    actions: np.ndarray
    names: tuple[str, ...] | None = None
    clips: np.ndarray | None = None
    frames: np.ndarray | None = None
    alignment: ActionAlignment | None = None
    notes: tuple[str, ...] = ()

    def rows_of(self, clip: Path) -> ActionTable | None:
        """The rows of one clip: all of a table without a column "clip"; None if it names other clips only.

        A clip is named by its path from the table's folder, with or without its suffix. Names are compared as they are
        written: "A.mp4" is not "a.mp4", and "7" is not "007".

        Raises:
            ValueError: if a name may mean several clips, or a clip has several names.
        """
        if self.clips is None:
            return self
        names = names_of_clip(clip, self.path.parent)
        used = [name for name in names if name in self._rows_by_clip]
        if not used:
            return None
        if len(used) > 1:
            raise ValueError(f"{self.path} names {clip.name} both {used[0]!r} and {used[1]!r}; use one of them")
        if used[0] != names[0]:
            others = [other.name for other in namesakes(clip)]
            if others:
                raise ValueError(
                    f"{used[0]!r} in {self.path} may be {clip.name} or {others[0]}; write the name with its suffix"
                )
        rows = self._rows_by_clip[used[0]]
        frames = None if self.frames is None else self.frames[rows]
        return replace(self, actions=self.actions[rows], clips=None, frames=frames)

    @cached_property
    def _rows_by_clip(self) -> dict[str, np.ndarray]:
        """The rows of each clip, in the order of the file."""
        clips = np.array([] if self.clips is None else self.clips, dtype=object)
        names, numbers = np.unique(clips.astype(str), return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=len(names)))
        return (
            {str(name): rows for name, rows in zip(names, np.split(order, ends[:-1]), strict=True)}
            if len(names)
            else {}
        )

    @property
    def clip_names(self) -> list[str]:
        """The clips that are named, in the order of the file; none without a column "clip"."""
        return list(dict.fromkeys([] if self.clips is None else self.clips))

    def some_clips(self) -> str:
        """The first clips that are named, for messages."""
        return ", ".join(self.clip_names[:NAMES_SHOWN]) + (", ..." if len(self.clip_names) > NAMES_SHOWN else "")

    def in_order(self, num_frames: int, clip: str) -> np.ndarray:
        """The actions (N or N - 1, A) of a clip of N frames, in the order of its frames.

        Raises:
            ValueError: unless there is one row for each frame; the last frame's may be absent.
        """
        if self.frames is None:
            if len(self.actions) not in (num_frames, num_frames - 1):
                raise ValueError(
                    f"{self.path} has {len(self.actions)} rows for the {num_frames} frames of {clip}; a clip has a row "
                    f"for each frame, or for each but the last. A column {FRAME_COLUMN!r} tells which row belongs to "
                    f"which frame"
                )
            return self.actions
        order = self._order_of_frames(clip)
        beyond = self.frames[self.frames >= num_frames]
        if len(beyond):
            raise ValueError(
                f"{self.path} has a row for frame {beyond[0]} of {clip}, whose last frame is {num_frames - 1}; frames "
                f"are counted from 0"
            )
        self._check_present(range(num_frames - 1), clip)
        return self.actions[order]

    def of_frames(self, frames: range, clip: str) -> np.ndarray:
        """The actions of some frames, from a table with a column "frame".

        Raises:
            ValueError: if one has no row, or several.
        """
        order = self._order_of_frames(clip)
        self._check_present(frames, clip)
        return self.actions[order[np.isin(np.asarray(self.frames)[order], frames)]]

    def _order_of_frames(self, clip: str) -> np.ndarray:
        repeated = [frame for frame, number in Counter(np.asarray(self.frames).tolist()).items() if number > 1]
        if repeated:
            raise ValueError(f"{self.path} has several rows for frame {min(repeated)} of {clip}; each frame has one")
        return np.argsort(np.asarray(self.frames))

    def _check_present(self, frames: range, clip: str) -> None:
        present = set(np.asarray(self.frames).tolist())
        # Not all of them: a row of frame 999999999 would make a list of a billion.
        missing = list(islice((frame for frame in frames if frame not in present), NAMES_SHOWN + 1))
        if missing:
            listed = ", ".join(map(str, missing[:NAMES_SHOWN])) + (", ..." if len(missing) > NAMES_SHOWN else "")
            raise ValueError(f"{self.path} has no row for frame {listed} of {clip}; frames are counted from 0")


def names_of_clip(clip: Path, folder: Path) -> tuple[str, ...]:
    """The names by which a table in a folder may call a clip, the full one first.

    They are its path from there, or its file's name where it lies elsewhere, with the suffix and without.
    """
    path, base = Path(os.path.abspath(clip)), Path(os.path.abspath(folder))
    path = path.relative_to(base) if path != base and path.is_relative_to(base) else Path(path.name)
    name = plain_name(path.as_posix())
    return (name,) if clip.is_dir() else tuple(dict.fromkeys((name, plain_name(path.with_suffix("").as_posix()))))


def plain_name(name: str) -> str:
    """A clip's name as all names are compared: with slashes, and letters in one way of writing them."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def namesakes(clip: Path) -> list[Path]:
    """The other videos, and the folder, that have a clip's name but for the suffix."""
    videos = [clip.with_suffix(suffix) for suffix in {clip.suffix, *VIDEO_SUFFIXES}]
    folder = clip.with_suffix("")
    found = [video for video in videos if video.is_file()] + [folder] * folder.is_dir()
    return sorted(other for other in found if other != clip)
