"""How frames of any shape come to one size: cut, with bars, or stretched."""

from __future__ import annotations

import numpy as np

from ..media.pixels import resize_pixels
from .read_options import Fit

Size = tuple[int, int]  # height, width


def aspects_differ(first: Size, second: Size) -> bool:
    """Whether two sizes have different aspects: scaled to each other, they differ by a pixel or more."""
    return abs(first[0] * second[1] - second[0] * first[1]) >= max(*first, *second)


def fit_frames(frames: np.ndarray, size: Size, fit: Fit) -> np.ndarray:
    """Bring frames to a size.

    Args:
        frames: frames (T, h, w, 3) uint8.
        size: size (H, W) of the result.
        fit: way for frames of another aspect: "crop" cuts what protrudes, as much on either side; "pad" adds black
            bars, as wide on either side; "squash" stretches.

    Returns:
        (T, H, W, 3) uint8; the frames themselves, if they have this size.
    """
    if frames.shape[1:3] == size:
        return frames
    if fit == "squash" or not aspects_differ(frames.shape[1:3], size):
        return resize_pixels(frames, size)
    height, width = frames.shape[1:3]
    if fit == "crop":
        scale = min(height / size[0], width / size[1])
        kept = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
        return resize_pixels(frames[:, top : top + kept[0], left : left + kept[1]], size)
    scale = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded = np.zeros((len(frames), *size, frames.shape[-1]), dtype=np.uint8)
    padded[:, top : top + inner[0], left : left + inner[1]] = resize_pixels(frames, inner)
    return padded
