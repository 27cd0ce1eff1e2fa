"""Pixels: from float to uint8, and to other sizes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..models.resizing import resize_frames

MAX_PIXEL = 255
PIXELS = "frames must be integers in 0 ... 255 or floats in [0, 1]"


def pixels_to_uint8(pixels: Tensor) -> Tensor:
    """Convert pixels of any shape to uint8.

    Integers must be in 0 ... 255. Floats must be in [0, 1], and are rounded to 256 levels.

    Raises:
        ValueError: if dtype or range are others, there are NaN, or there are no pixels.
    """
    if not pixels.numel():
        raise ValueError(f"frames must have pixels, got shape {tuple(pixels.shape)}")
    if pixels.dtype == torch.bool or pixels.is_complex():
        raise ValueError(f"{PIXELS}, got {pixels.dtype}")
    if pixels.is_floating_point():
        _check_range(pixels, 1)
        pixels = (pixels.float() * MAX_PIXEL).round()
    elif pixels.dtype != torch.uint8:
        pixels = pixels.long()  # torch cannot compare other unsigned integers
        _check_range(pixels, MAX_PIXEL)
    return pixels.to(torch.uint8)


def clamp_to_uint8(pixels: Tensor) -> Tensor:
    """Convert what a network decodes, floats of any shape, to uint8. Values a little outside [0, 1] are clamped."""
    return (pixels.float().clamp(0, 1) * MAX_PIXEL).round().to(torch.uint8)


def _check_range(frames: Tensor, highest: int) -> None:
    if frames.is_floating_point() and not torch.isfinite(frames).all():
        raise ValueError("frames contain NaN or infinite pixels")
    low, high = frames.min().item(), frames.max().item()
    if low < 0 or high > highest:
        raise ValueError(f"{PIXELS}, got {frames.dtype} from {low:.4g} to {high:.4g}")


def resize_pixels(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize frames (T, h, w, 3) to (T, H, W, 3) uint8 as `IVideoGPTVideoProcessor` does: bilinear, antialiased."""
    # A copy: torch takes neither negative strides nor, without a warning, read-only memory.
    pixels = torch.from_numpy(frames.copy()).movedim(-1, 1)
    return resize_frames(pixels, size).movedim(1, -1).numpy()
