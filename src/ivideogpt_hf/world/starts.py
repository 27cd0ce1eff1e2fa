"""Where a checkpoint's own worlds may begin: the windows of the episode that came with it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..checkpoints.layout import EPISODE_FILE
from ..media.video import read_video


def read_starts(folder: Path, num_context_frames: int) -> Tensor | None:
    """Read the starts that a checkpoint's episode offers.

    Args:
        folder: folder of the checkpoint.
        num_context_frames: number of frames C of a start.

    Returns:
        Frames (S, C, 3, H, W) uint8 of all S runs of C frames that leave something to come; None without an episode.

    Raises:
        OSError: if the episode cannot be read.
        ValueError: if it has no more than C frames.
    """
    episode = folder / EPISODE_FILE
    if not episode.is_file():
        return None
    frames = read_video(episode)
    if len(frames) <= num_context_frames:
        raise ValueError(f"{episode} has {len(frames)} frames, and a start needs {num_context_frames} and one to come")
    return frames.unfold(0, num_context_frames, 1)[:-1].movedim(-1, 1)
