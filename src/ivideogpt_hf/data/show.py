"""Episodes, and training clips as the model sees them, as pictures: ``ivideogpt show``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .clips.dataset import SegmentDataset
from .drawing import Strip, contact_sheet, moving_strips
from .episodes import decode_frames
from .readers import EpisodeReader

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")
MOVING_SUFFIXES = (".gif", ".mp4")


def episode_strips(reader: EpisodeReader, indices: Sequence[int]) -> list[Strip]:
    """Whole episodes, a strip for each camera.

    Args:
        reader: reader of the episodes.
        indices: numbers of the episodes to show.

    Raises:
        ValueError: if there is no such episode.
    """
    strips = []
    for index in indices:
        if not 0 <= index < len(reader):
            raise ValueError(f"there is no episode {index}; {reader.path} has {len(reader)}, counted from 0")
        episode = reader[index]
        for camera, frames in episode.frames.items():
            title = f"{episode.episode_id} {camera}"
            strips.append(Strip(title, decode_frames(frames), episode.actions, episode.rewards))
    return strips


def clip_strips(dataset: SegmentDataset, num_clips: int, epoch: int = 0) -> list[Strip]:
    """The first clips of an epoch, with actions normalised and padded as the model gets them.

    Args:
        dataset: data set of the clips.
        num_clips: number of clips to show.
        epoch: number of the epoch.

    Raises:
        ValueError: if an epoch has fewer clips.
    """
    available = len(dataset.order(epoch))
    if not 1 <= num_clips <= available:
        raise ValueError(f"an epoch has {available} clips, {num_clips} were asked for")
    strips = []
    for index in range(num_clips):
        clip = dataset[epoch, index]
        source = dataset.sources[clip["source"]].spec.name
        frames = _ranges(clip["frame_indices"].tolist())
        title = f"clip {index}: {source}, episode {clip['episode']}, frames {frames}"
        strips.append(
            Strip(title, clip["frames"].movedim(1, -1).numpy(), _array(clip, "actions"), _array(clip, "rewards"))
        )
    return strips


def _array(clip: dict[str, Any], name: str) -> np.ndarray | None:
    return clip[name].numpy() if name in clip else None


def _ranges(numbers: list[int]) -> str:
    """Evenly spaced numbers as first-last, and their step where it is not 1; others one by one."""
    steps = set(np.diff(numbers).tolist())
    if len(steps) == 1 and len(numbers) > 2:
        step = steps.pop()
        return f"{numbers[0]}-{numbers[-1]}" + ("" if step == 1 else f" in steps of {step}")
    return ",".join(map(str, numbers))


def write_strips(strips: Sequence[Strip], path: Path, fps: float) -> Path:
    """Write a contact sheet (png, jpg) or a moving picture (gif, mp4), by the suffix of the path.

    Args:
        strips: episodes or clips to draw.
        path: file to write.
        fps: frames per second of a moving picture.

    Raises:
        ValueError: if the suffix is another, or if strips of a moving picture differ in length.
    """
    if path.suffix.lower() in SHEET_SUFFIXES:
        return contact_sheet(strips, path)
    if path.suffix.lower() in MOVING_SUFFIXES:
        return moving_strips(strips, path, fps)
    raise ValueError(f"pictures are written as {', '.join((*SHEET_SUFFIXES, *MOVING_SUFFIXES))}, not as {path.name}")
