"""Starts of games, from the gallery and from uploads, and files for visitors to download."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ivideogpt_hf import EXAMPLE_EPISODE, World, read_video, write_video

SCENES = Path(__file__).parent / "scenes.npz"  # real held-out starts; without this file, starts of the embedded episode
MAX_UPLOAD_BYTES, MAX_UPLOAD_FRAMES = 20 * 2**20, 300


def scenes() -> list[Tensor]:
    """The starts of the gallery, each (T, 3, H, W) uint8."""
    if SCENES.is_file():
        with np.load(SCENES) as file:
            return list(torch.from_numpy(file["frames"]))
    episode = read_video(EXAMPLE_EPISODE)
    return [episode[first : first + 4] for first in range(0, len(episode) - 4, 6)]


def context_of(world: World[Any], frames: Tensor, goal: Tensor | None = None) -> Tensor:
    """The context frames (C, 3, H, W) that a model takes from a video. An image is repeated."""
    spec = world.spec
    num_frames = spec.num_real_context_frames
    resized = spec.resize_frames(frames)
    resized = torch.cat([resized[:1].expand(max(0, num_frames - len(resized)), -1, -1, -1), resized])[:num_frames]
    if not spec.goal_conditioned:
        return resized
    goal = frames[-1:] if goal is None else goal
    return torch.cat([spec.resize_frames(goal), resized])


def read_upload(world: World[Any], file: str) -> Tensor:
    """Read an uploaded image or video, in the size of a model: frames (T, 3, H, W) uint8.

    Raises:
        ValueError: if the file is too large, neither an image nor a video, or cannot be shown as it asks.
    """
    if os.path.getsize(file) > MAX_UPLOAD_BYTES:
        raise ValueError(f"That file is larger than {MAX_UPLOAD_BYTES >> 20} MB.")
    try:
        return read_video(file, max_frames=MAX_UPLOAD_FRAMES, resize=world.spec.resize_frames)
    except OSError as error:
        raise ValueError(f"That is neither an image nor a video: {error}") from error


def write_actions(actions: Tensor, first_frame: int) -> str:
    """Write actions (T, A) as JSON, in a new folder. `ivideogpt predict --actions` reads the file.

    Args:
        actions: actions in the checkpoint's units.
        first_frame: frame of the video from which the first action leads to the next, counted from 0. The video that
            is saved begins with the context.
    """
    rows = [
        {"frame": first_frame + t} | {f"a{i}": number for i, number in enumerate(action)}
        for t, action in enumerate(actions.tolist())
    ]
    path = Path(tempfile.mkdtemp()) / "actions.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return str(path)


def write(frames: Tensor, name: str) -> str:
    """Write frames (T, 3, H, W) as a video file, in a new folder."""
    scale = max(1, 256 // frames.shape[-1])
    return str(write_video(frames, Path(tempfile.mkdtemp()) / name, fps=5, scale=scale))


def picture(frame: Tensor) -> Image.Image:
    """A frame (3, H, W) uint8 as an image."""
    return Image.fromarray(frame.movedim(0, -1).numpy())
