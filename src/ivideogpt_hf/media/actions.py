"""Actions from arrays and from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .action_files import check_actions, read_action_table
from .action_tables import ActionTable
from .alignment import ActionAlignment
from .video import VideoSource, count_frames


class FutureActions(NamedTuple):
    """The actions that lead to predicted frames.

    Attributes:
        actions: (T, A) float32.
        first_row: row of the first of them, counted from 0 in the order of the clip's frames.
    """

    actions: Tensor
    first_row: int


def read_actions(source: Any) -> Tensor:
    """Read actions.

    Args:
        source: array, tensor or nested list (T, A), or a file of one clip's actions, see `read_action_table`: csv, tsv,
            json, jsonl, npy or npz. A column "frame" puts its rows into the order of their frames. Of a Dreamer file
            (npz with "is_first"), the first row, which led to no frame, is left out.

    Returns:
        Actions (T, A) float32.

    Raises:
        OSError: if a file is missing or corrupt.
        ValueError: if the content is no table of finite numbers, holds the actions of several clips, or lacks a frame
            between others.

    Example:
        >>> from pathlib import Path
        >>> from ivideogpt_hf import read_actions
        >>> _ = Path("actions.csv").write_text("dx,dy\\n0.5,0\\n0,1\\n")
        >>> read_actions("actions.csv")
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    if isinstance(source, (str, os.PathLike)):
        table = _of_only_clip(read_action_table(Path(source)))
        if table.frames is None:
            return torch.from_numpy(table.actions[1:] if table.alignment == "before" else table.actions)
        return torch.from_numpy(table.of_frames(range(table.frames.min(), table.frames.max() + 1), "the clip"))
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()  # numpy has no bfloat16
    try:
        actions = np.array(source)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"actions must hold a table of numbers with rows of one width: {error}") from error
    return torch.from_numpy(check_actions(actions, "actions"))


def read_future_actions(
    file: str | os.PathLike[str],
    video: VideoSource,
    *,
    first_row: int,
    num_frames: int | None = None,
    alignment: ActionAlignment | None = None,
) -> FutureActions:
    """Read the actions that lead to a video's future frames from a file.

    The file is read as `convert-data` reads it, see `ActionTable`: its rows begin at the video's first frame, and there
    are as many as frames, or one fewer. Rows of another number are refused, but for one case: if the frames to predict
    are counted, and there are as many rows, then each row leads to a predicted frame. A column "frame" always decides.

    Args:
        file: file of actions.
        video: clip, in any form that `read_video` takes. It is not decoded, its frames are counted.
        first_row: row of the first action that leads to a future frame, see `spec.first_action`.
        num_frames: number of frames to predict; None: as many as the video has after the context.
        alignment: place of row t in the file, see `read_action_table`.

    Returns:
        The actions, and the row of the first.

    Raises:
        OSError: if a file is missing or corrupt.
        ValueError: if the rows do not fit the video, or there are too few.
    """
    table, num_video_frames = read_action_table(Path(file), alignment), count_frames(video)
    name = "the clip"
    if isinstance(video, (str, os.PathLike)):
        name = Path(video).name
        rows = table.rows_of(Path(video))
        if rows is None:
            raise ValueError(f"{file} has no rows whose 'clip' is {name}, it names {table.some_clips()}")
        table = rows
    table = _of_only_clip(table)
    length = num_video_frames - 1 - first_row if num_frames is None else num_frames
    if length < 1:
        raise ValueError(f"{name} holds no frame after frame {first_row}, the last of the context: give num_frames")
    wanted = range(first_row, first_row + length)
    # Of rows that led to their frames, the first one led to none: without it, row t leads to frame t + 1.
    skipped = int(table.alignment == "before" and len(table.actions) == num_video_frames)
    actions = table.actions[skipped:]
    num_rows = len(actions)
    if table.frames is not None:
        return FutureActions(torch.from_numpy(table.of_frames(wanted, name)), first_row)
    if num_rows not in (num_video_frames, num_video_frames - 1):
        if num_rows == num_frames:
            return FutureActions(torch.from_numpy(actions), 0)
        raise ValueError(
            f"{file} has {num_rows} rows for the {num_video_frames} frames of {name}. A clip's file has a row for each "
            f"frame, or for each but the last. If each row leads to a frame to predict, set num_frames to {num_rows}. "
            f"A column 'frame' tells which row belongs to which frame"
        )
    if num_rows < wanted.stop:
        raise ValueError(
            f"{file} has a row for each of the first {num_rows} frames of {name}, of which "
            f"{max(0, num_rows - first_row)} lead to frames after the context, not {length}. Predict fewer frames, or "
            f"bind the rows to frames by a column 'frame', where {first_row} is the last frame of the context"
        )
    return FutureActions(torch.from_numpy(actions[wanted.start : wanted.stop]), first_row + skipped)


def _of_only_clip(table: ActionTable) -> ActionTable:
    """The rows of a table that may name a single clip."""
    if len(table.clip_names) > 1:
        raise ValueError(
            f"{table.path} holds the actions of several clips, {table.some_clips()}: give the video's file"
        )
    return table
