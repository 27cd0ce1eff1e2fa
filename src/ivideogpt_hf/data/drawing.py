"""Episodes and clips as pictures a person can check: frames with their actions as bars, and their rewards, below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..media.video import write_video
from ..run_folder import make_folder

COLUMNS = 8
TILE_PIXELS = 96  # a tile is at least so wide: small frames are enlarged by a whole number, without blur
BARS_PIXELS = 34
REWARD_PIXELS = 12
TITLE_PIXELS = 16
TEXT_PIXELS = 10
BACKGROUND, INK, AXIS = (255, 255, 255), (20, 20, 20), (170, 170, 170)
BAR_COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))


@dataclass(frozen=True)
class Strip:
    """A clip to draw.

    Attributes:
        title: text above the clip, one line.
        frames: images, (T, H, W, 3) uint8.
        actions: (T - 1, A), drawn as one bar per dimension under the frame that they lead away from; None draws none.
        rewards: (T - 1,), printed below the bars; None prints none.
        action_range: (A,) values at which a bar is full; None takes the largest of the clip.
        captions: text of each frame, which follows the title where the clip moves; empty: none.
    """

    title: str
    frames: np.ndarray
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    action_range: np.ndarray | None = None
    captions: Sequence[str] = ()


def contact_sheet(strips: Sequence[Strip], path: Path) -> Path:
    """Write a picture with a row for each clip: at most `COLUMNS` frames, evenly spread over it."""
    rows = []
    for strip in strips:
        num_frames = len(strip.frames)
        indices = np.unique(np.linspace(0, num_frames - 1, min(COLUMNS, num_frames)).round().astype(int))
        tiles = [_tile(strip, index) for index in indices]
        title = f"{strip.title}, frames {', '.join(map(str, indices))}"
        rows.append(_with_title(np.concatenate(tiles, axis=1), title))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    make_folder(path.parent)
    _image(np.concatenate(rows)).save(path)
    return path


def moving_strips(strips: Sequence[Strip], path: Path, fps: float) -> Path:
    """Write clips of one length as a gif or mp4, side by side, each frame with its actions.

    Raises:
        ValueError: if the clips differ in length.
    """
    lengths = {len(strip.frames) for strip in strips}
    if len(lengths) > 1:
        raise ValueError(f"clips shown side by side must have one length, got {sorted(lengths)}; show one at a time")
    frames = [
        np.concatenate([_with_title(_tile(strip, t), _title(strip, t)) for strip in strips], axis=1)
        for t in range(lengths.pop())
    ]
    return write_video(torch.from_numpy(np.stack(frames)).movedim(-1, 1), path, fps=fps)


def _title(strip: Strip, index: int) -> str:
    return f"{strip.title}: {strip.captions[index]}" if strip.captions else strip.title


def _image(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _tile(strip: Strip, index: int) -> np.ndarray:
    """One frame, enlarged, above the action and the reward of its step."""
    frame = strip.frames[index]
    scale = max(1, -(-TILE_PIXELS // frame.shape[1]))
    frame = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    footer = np.full((BARS_PIXELS + REWARD_PIXELS, frame.shape[1], 3), BACKGROUND, np.uint8)
    image = _image(np.concatenate([frame, footer]))
    if strip.actions is not None and index < len(strip.actions):
        _draw_bars(image, strip.actions[index], _full_scale(strip), frame.shape[0])
    if strip.rewards is not None and index < len(strip.rewards):
        text = f"r {strip.rewards[index]:.3g}"
        _draw_text(image, text, (2, image.height - 2), anchor="lb")
    return np.pad(np.asarray(image), ((0, 0), (0, 2), (0, 0)), constant_values=255)


def _full_scale(strip: Strip) -> np.ndarray:
    reach = np.abs(strip.actions).max(axis=0) if strip.action_range is None else strip.action_range
    return np.where(reach > 0, reach, 1)


def _draw_bars(image: Any, action: np.ndarray, full_scale: np.ndarray, top: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    middle, half = top + BARS_PIXELS // 2, BARS_PIXELS // 2 - 3
    width = image.width / len(action)
    draw.line((0, middle, image.width, middle), fill=AXIS)
    for i, value in enumerate(np.clip(action / full_scale, -1, 1)):
        end = middle - round(float(value) * half)
        box = (round(i * width) + 1, min(middle, end), max(round((i + 1) * width) - 2, round(i * width) + 1))
        draw.rectangle((*box, max(middle, end)), fill=BAR_COLORS[i % len(BAR_COLORS)])


def _with_title(row: np.ndarray, title: str) -> np.ndarray:
    image = _image(np.concatenate([np.full((TITLE_PIXELS, row.shape[1], 3), BACKGROUND, np.uint8), row]))
    _draw_text(image, title, (2, 2), anchor="la")
    return np.asarray(image)


def _draw_text(image: Any, text: str, place: tuple[int, int], anchor: str) -> None:
    from PIL import ImageDraw, ImageFont

    ImageDraw.Draw(image).text(place, text, fill=INK, font=ImageFont.load_default(TEXT_PIXELS), anchor=anchor)
