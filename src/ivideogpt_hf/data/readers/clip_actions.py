"""Where the actions of videos and of folders of images are, and which clip they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...cards.text import counted
from ...media.action_files import ACTION_SUFFIXES, read_action_table
from ...media.action_tables import ActionTable, names_of_clip, namesakes
from ...media.alignment import ActionAlignment
from ...media.files import is_hidden, natural_sort, visible_files
from ...media.video import count_frames

ACTIONS_STEM = "actions"
FILES_SHOWN = 3


class ClipRows(NamedTuple):
    """The actions of one clip.

    Attributes:
        rows: (N or N - 1, A) float32 for N frames.
        names: name of each dimension; None where the file has none.
        alignment: place of row t, as `ActionTable.alignment` has it.
        notes: where they were read, and how.
    """

    rows: np.ndarray
    names: Sequence[str] | None
    alignment: ActionAlignment | None
    notes: tuple[str, ...]


class ClipActions:
    """The actions of the clips of a source: of all of them, or of none. A clip has them in one of two places.

    - A file of its own: beside a video, with its name (``a.csv`` for ``a.mp4``); in a folder of images, with the name
      "actions" (``walk/actions.csv``).
    - A table of several clips: a file with the name "actions" and a column "clip", in the clip's folder or in one above
      it. Clips are named by their path from there (``a.mp4``, ``walk``, ``day/a.mp4``).

    `ActionTable` says which row belongs to which frame. If one clip has a row for each of its frames, all must have:
    else it would not be known whether the last row is absent, or another one.

    Args:
        clips: video files and folders of images.
        root: folder of the source.
        alignment: place of row t that the user told, see `read_action_table`.

    Raises:
        OSError, ValueError: if a table of several clips cannot be read.
    """

    def __init__(self, clips: Sequence[Path], root: Path, alignment: ActionAlignment | None = None) -> None:
        self._clips, self._root, self._alignment = clips, root, alignment
        self._num_below = Counter(
            folder for clip in clips for folder in (clip, *clip.parents) if folder.is_relative_to(root)
        )
        folders = natural_sort(folder for folder in self._num_below if folder.is_dir())
        self._files = {folder: _files_by_stem(folder) for folder in folders}
        own = {file for clip in clips for file in self._own_files(clip)}
        self._tables: dict[Path, ActionTable] = {}
        for file in (file for folder in folders for file in self._files[folder].get(ACTIONS_STEM, [])):
            if file in own and self._num_below[file.parent] == 1:
                continue
            table = read_action_table(file, alignment)
            if table.clips is not None:
                self._tables[file] = table
            elif file not in own:
                raise ValueError(
                    f"{file} must have a column 'clip' with file names beside its columns of actions; or put the "
                    f"actions of each clip into a file with its name, such as {clips[0].stem}.csv"
                )

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold actions of the clips; empty where no clip has any."""
        own = (file for clip in self._clips for file in self._own_files(clip))
        return list(dict.fromkeys([*own, *self._tables]))

    def files_of(self, clip: Path) -> list[Path]:
        """The files that a clip's actions depend on."""
        tables = (file for file in self._tables if clip.is_relative_to(file.parent))
        return list(dict.fromkeys([*self._own_files(clip), *tables]))

    @property
    def common(self) -> dict[str, Any]:
        """What the rows of each clip are compared with, as JSON."""
        if not self.files:
            return {}
        return {"names": self._first_names, "rows_for_last_frames": self._clip_with_a_row_per_frame is not None}

    def read(self, clip: Path, num_frames: int) -> ClipRows | None:
        """Read the actions of a clip of N frames; None if no clip has any.

        Raises:
            OSError: if the file is corrupt.
            ValueError: if the rows do not fit the clip, it has none while others have, or they are in two places.
        """
        table = self._table_of(clip)
        if table is None:
            return None
        rows = table.in_order(num_frames, clip.name)
        if table.frames is None and len(rows) < num_frames and self._clip_with_a_row_per_frame is not None:
            raise ValueError(
                f"{table.path} has {len(rows)} rows for the {num_frames} frames of {clip.name}, while "
                f"{self._clip_with_a_row_per_frame.name} has a row for each frame: was a row lost? Give every clip a "
                f"row for its last frame, or none; or add a column 'frame'"
            )
        if table.names is not None and table.names != self._first_names:
            raise ValueError(
                f"{table.path} has the columns {table.names}, while other clips have {self._first_names}: give all "
                f"clips of a source the same columns, in the same order"
            )
        return ClipRows(rows, table.names, table.alignment, (_origin(table.path, clip), *table.notes))

    def left_over(self) -> list[str]:
        """Remarks on rows that match no clip, and on files that look like actions and are not read."""
        notes = []
        for file, table in self._tables.items():
            clips = [clip for clip in self._clips if clip.is_relative_to(file.parent)]
            known = {name for clip in clips for name in names_of_clip(clip, file.parent)}
            unknown = [name for name in table.clip_names if name not in known]
            if unknown:
                listed = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
                name = file.relative_to(self._root).as_posix()
                clips_missing = f"{counted(len(unknown), 'clip')} that {'is' if len(unknown) == 1 else 'are'} not there"
                notes.append(f"{name} has rows of {clips_missing}: {listed}")
        read = {file for clip in self._clips for file in self._own_files(clip)} | self._tables.keys()
        visible = set(visible_files(self._root))
        files = {
            file for file in visible if file.suffix.lower() in ACTION_SUFFIXES or file.stem.lower() == ACTIONS_STEM
        }
        unread = natural_sort(files - read - set(self._clips))
        if unread:
            names = ", ".join(file.relative_to(self._root).as_posix() for file in unread[:FILES_SHOWN])
            more = f" and {len(unread) - FILES_SHOWN} more" if len(unread) > FILES_SHOWN else ""
            notes.append(f"not read as the actions of a clip: {names}{more}")
        return notes

    def _own_files(self, clip: Path) -> list[Path]:
        folder, stem = (clip, ACTIONS_STEM) if clip in self._files else (clip.parent, clip.stem)
        return self._files[folder].get(stem, [])

    def _table_of(self, clip: Path) -> ActionTable | None:
        """The table with a clip's rows, reduced to them."""
        files = [file for file in self._own_files(clip) if file not in self._tables]
        other_videos = [other for other in namesakes(clip) if other not in self._files]
        if clip in self._files and not other_videos and (beside := self._files.get(clip.parent, {}).get(clip.name)):
            raise ValueError(
                f"the actions of a folder of images are read from the folder: move {beside[0].name} to "
                f"{clip.name}/{ACTIONS_STEM}{beside[0].suffix}"
            )
        tables = [table for table in self._tables.values() if clip.is_relative_to(table.path.parent)]
        found = [rows for table in tables if (rows := table.rows_of(clip)) is not None]
        if len(files) + len(found) > 1:
            names = [file.relative_to(self._root).as_posix() for file in [*files, *(table.path for table in found)]]
            raise ValueError(f"there is more than one file of actions for {clip.name}: {', '.join(names)}; leave one")
        if found:
            return found[0]
        if files:
            if other_videos and clip not in self._files:
                raise ValueError(f"{files[0]} may belong to {clip.name} or {other_videos[0].name}; rename one of them")
            table = read_action_table(files[0], self._alignment)
            rows = table.rows_of(clip)
            if rows is None:
                raise ValueError(f"{files[0]} has no rows whose 'clip' is {clip.name}, it names {table.some_clips()}")
            return rows
        if tables:
            table = tables[-1]
            raise ValueError(
                f"{table.path} has no rows whose 'clip' is {names_of_clip(clip, table.path.parent)[0]}, it names "
                f"{table.some_clips()}; add them, or move the clip out of {self._root}"
            )
        if self.files:
            raise ValueError(
                f"{clip.name} has no actions, while other clips have "
                f"({self.files[0].relative_to(self._root).as_posix()}); add them, or move the clip out of {self._root}"
            )
        return None

    @cached_property
    def _first_names(self) -> tuple[str, ...] | None:
        """The names of the columns of the first clip that has any."""
        for clip in self._clips:
            try:
                table = self._table_of(clip)
            except (OSError, ValueError):  # what is wrong is said when this clip is read
                continue
            if table is not None and table.names is not None:
                return table.names
        return None

    @cached_property
    def _clip_with_a_row_per_frame(self) -> Path | None:
        """The first clip with as many rows as frames, and without a column "frame"."""
        for clip in self._clips:
            try:
                table = self._table_of(clip)
                if table is not None and table.frames is None and len(table.actions) == count_frames(clip):
                    return clip
            except (OSError, ValueError):  # what is wrong is said when this clip is read
                continue
        return None


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that may hold actions. The name "actions" is read in upper and lower case."""
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in ACTION_SUFFIXES and file.is_file() and not is_hidden(file, folder):
            stem = ACTIONS_STEM if file.stem.lower() == ACTIONS_STEM else file.stem
            files.setdefault(stem, []).append(file)
    return files


def _origin(file: Path, clip: Path) -> str:
    """Where a clip's actions are read from, in the same words for all clips of a kind."""
    if file.parent == clip:
        return f"actions are read from {file.name} in each folder of images"
    if file.stem == clip.stem:
        return f"actions are read from a {file.suffix} file with the clip's name"
    return f"actions are read from {file.name}, by its column 'clip'"
