"""Starts of games, from the gallery and from uploads, and files for visitors to download."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ivideogpt_hf import EXAMPLE_EPISODE, World, read_video, side_by_side, write_video
from ivideogpt_hf.checkpoints.layout import EPISODE_FILE
from ivideogpt_hf.media import numpy_files
from ivideogpt_hf.media.pixels import MAX_PIXEL
from ivideogpt_hf.media.video import SEPARATOR_PIXELS

SCENES = Path(__file__).parent / "scenes.npz"  # real held-out starts; without this file, starts of the embedded episode
SCENE_FRAMES, SCENE_INTERVAL, MAX_SCENES = 4, 6, 9
MAX_UPLOAD_BYTES, MAX_UPLOAD_FRAMES = 20 * 2**20, 300
SIGNATURE_BYTES = 16
SHOWN_PIXELS = 256  # width that files for visitors have at least
# What a file that anybody may have written may take in memory; one picture a share, see `media/decoded_bytes.py`.
MAX_DECODED_BYTES = 2**30


def _gallery() -> list[Tensor]:
    if SCENES.is_file():
        with np.load(SCENES) as file:
            return list(torch.from_numpy(file["frames"]))
    return _starts(read_video(EXAMPLE_EPISODE))


def _starts(episode: Tensor) -> list[Tensor]:
    last = max(1, len(episode) - SCENE_FRAMES)
    return [episode[first : first + SCENE_FRAMES] for first in range(0, last, SCENE_INTERVAL)][:MAX_SCENES]


GALLERY = _gallery()  # starts of the embedded checkpoint's games, in Meta-world; each (T, 3, H, W) uint8


def own_scenes(folder: Path) -> list[Tensor]:
    """The starts that a checkpoint brings: those of its held-out episode; none if it has no episode.

    Raises:
        OSError: if the episode cannot be read.
        ValueError: if it holds no RGB video.
    """
    file = folder / EPISODE_FILE
    if not file.is_file():
        return []
    num_frames = SCENE_INTERVAL * (MAX_SCENES - 1) + SCENE_FRAMES + 1
    return _starts(read_video(file, max_frames=num_frames, max_bytes=MAX_DECODED_BYTES))


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
        ValueError: if the file is too large, or would be when it is decoded; if it is neither an image nor a video, or
            cannot be shown as it asks.
    """
    path = Path(file)
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        raise ValueError(f"That file is larger than {MAX_UPLOAD_BYTES >> 20} MB.")
    with path.open("rb") as content:
        is_array = content.read(SIGNATURE_BYTES).startswith(numpy_files.SIGNATURES)
    if is_array or path.suffix.lower() in numpy_files.SUFFIXES:
        raise ValueError("That is neither an image nor a video, but an array.")
    try:
        return read_video(
            file, max_frames=MAX_UPLOAD_FRAMES, resize=world.spec.resize_frames, max_bytes=MAX_DECODED_BYTES
        )
    except OSError as error:
        raise ValueError(f"That is neither an image nor a video: {_unnamed(error, file)}") from error
    except ValueError as error:
        raise ValueError(_unnamed(error, file)) from error


def _unnamed(error: Exception, file: str) -> str:
    """What an error says, without the place of the file on this machine."""
    return str(error).replace(file, "the file")


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
    """Write frames (T, 3, H, W) as a video file, in a new folder. Small ones are enlarged."""
    return str(write_video(frames, Path(tempfile.mkdtemp()) / name, fps=5, scale=_scale(frames)))


def write_picture(frames: Tensor, columns: int = 1) -> str:
    """Write frames (T, 3, H, W) uint8 as a PNG file, row by row, in a new folder. Small ones are enlarged."""
    path = Path(tempfile.mkdtemp()) / "picture.png"
    picture(sheet(frames, columns), _scale(frames)).save(path)
    return str(path)


def _scale(frames: Tensor) -> int:
    return max(1, SHOWN_PIXELS // frames.shape[-1])


def picture(frame: Tensor, scale: int = 1) -> Image.Image:
    """A frame (3, H, W) uint8 as an image, with pixels of ``scale`` times their size."""
    image = Image.fromarray(frame.movedim(0, -1).numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def sheet(frames: Tensor, columns: int) -> Tensor:
    """Frames (T, 3, H, W) uint8 in rows of ``columns``, with white lines between: (3, H', W') uint8."""
    return clips_in_rows(frames[:, None], columns)[0]


def clips_in_rows(clips: Tensor, columns: int) -> Tensor:
    """Clips (N, T, 3, H, W) uint8 in rows of at most ``columns``, with white lines between: one clip."""
    columns = min(columns, len(clips))
    missing = -len(clips) % columns
    clips = torch.cat([clips, clips.new_full((missing, *clips.shape[1:]), MAX_PIXEL)])
    rows = [side_by_side(*clips[i : i + columns]) for i in range(0, len(clips), columns)]
    line = rows[0].new_full((*rows[0].shape[:2], SEPARATOR_PIXELS, rows[0].shape[-1]), MAX_PIXEL)
    return torch.cat([part for row in rows for part in (line, row)][1:], dim=2)
