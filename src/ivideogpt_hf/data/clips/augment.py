"""Augmentation of whole clips: one crop and one colour draw per clip, in torch.

Ranges are the iVideoGPT paper's. Brightness, contrast, saturation and hue mean what they do in torchvision's
ColorJitter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.resizing import resize_frames

AugmentationName = Literal["none", "weak", "strong"]
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL and torchvision
CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """Ranges to draw from, as (low, high).

    Attributes:
        crop_area: area of the crop, relative to the square of the shorter side.
        crop_aspect: width of the crop by its height, drawn on a logarithmic scale.
        factor: factor of brightness, contrast and saturation; 1 changes nothing.
        hue: shift of the hue, in turns of the colour circle.
    """

    crop_area: tuple[float, float]
    crop_aspect: tuple[float, float]
    factor: tuple[float, float]
    hue: tuple[float, float]


AUGMENTATIONS: dict[AugmentationName, Augmentation | None] = {
    "none": None,
    "weak": Augmentation((0.8, 1.0), (0.9, 1.1), (0.9, 1.1), (-0.05, 0.05)),
    "strong": Augmentation((0.6, 1.0), (3 / 4, 4 / 3), (0.6, 1.4), (-0.5, 0.5)),
}


def transform_clip(
    frames: Tensor,
    size: tuple[int, int] | None,
    augmentation: Augmentation | None,
    generator: np.random.Generator,
    *,
    crop_to_aspect: bool = False,
) -> Tensor:
    """Crop, resize and recolour a clip as the model is to see it.

    Args:
        frames: images, (T, 3, h, w) uint8.
        size: (height, width) to resize to; None keeps the size of the frames, for a crop too.
        augmentation: ranges to draw from; None resizes only, as in evaluation.
        generator: source of the draws.
        crop_to_aspect: without augmentation, whether to cut the largest centred window of the size's aspect first.

    Returns:
        (T, 3, H, W) uint8.
    """
    if augmentation is None:
        return frames if size is None else resize_frames(frames, size, crop_to_aspect=crop_to_aspect)
    top, left, height, width = draw_crop(frames.shape[-2], frames.shape[-1], augmentation, generator)
    size = size or (frames.shape[-2], frames.shape[-1])
    window = frames[..., top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    # On integers: off by one level at most from `resize_frames`, and several times as fast.
    frames = F.interpolate(window, size=size, mode="bilinear", antialias=True, align_corners=False)
    return recolour(frames, augmentation, generator)


def draw_crop(
    height: int, width: int, augmentation: Augmentation, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop; the largest centred square where no draw fits into the frame."""
    side = min(height, width)
    for _ in range(CROP_ATTEMPTS):
        area = side**2 * generator.uniform(*augmentation.crop_area)
        aspect = math.exp(generator.uniform(*map(math.log, augmentation.crop_aspect)))
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = generator.integers(height - crop_height + 1), generator.integers(width - crop_width + 1)
            return int(top), int(left), crop_height, crop_width
    return (height - side) // 2, (width - side) // 2, side, side


def recolour(frames: Tensor, augmentation: Augmentation, generator: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue of a clip (T, 3, H, W) uint8, in random order, by one draw."""
    factors = generator.uniform(*augmentation.factor, size=3)
    hue = generator.uniform(*augmentation.hue)
    changes = (
        lambda pixels: adjust_brightness(pixels, factors[0]),
        lambda pixels: adjust_contrast(pixels, factors[1]),
        lambda pixels: adjust_saturation(pixels, factors[2]),
        lambda pixels: adjust_hue(pixels, hue),
    )
    pixels = frames.contiguous().float().div_(255)  # planes of colour are quicker
    for index in generator.permutation(len(changes)):
        pixels = changes[index](pixels)
    # In place, without the copies of `media.pixels`: this is most of what a clip costs.
    return pixels.mul_(255).round_().to(torch.uint8)


def adjust_brightness(pixels: Tensor, factor: float) -> Tensor:
    """Scale pixels (..., 3, H, W) in [0, 1]."""
    return (pixels * factor).clamp_(0, 1)


def adjust_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Move pixels (..., 3, H, W) away from each frame's mean grey."""
    mean = _grey(pixels).mean(dim=(-2, -1), keepdim=True)
    return torch.lerp(mean, pixels, factor).clamp_(0, 1)


def adjust_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Move pixels (..., 3, H, W) away from their grey."""
    return torch.lerp(_grey(pixels), pixels, factor).clamp_(0, 1)


def adjust_hue(pixels: Tensor, turns: float) -> Tensor:
    """Turn the hue of pixels (..., 3, H, W) in [0, 1], keeping HSV's saturation and value.

    A colour of hue h, in sixths of a turn, has the channels v - c w with w = 2 - |h - 3| for red, |h - 2| - 1 for green
    and |h - 4| - 1 for blue, each cut off at 0 and 1; v is the value, c the chroma.
    """
    red, green, blue = pixels.unbind(-3)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = chroma.clamp(min=1e-8).reciprocal_()
    # Signs and sums take a fraction of the time of comparisons and torch.where.
    is_red = 1 - (value - red).sign_()
    is_green = (1 - (value - green).sign_()) * (1 - is_red)
    hue = (green - blue) * scale * is_red + ((blue - red) * scale + 2) * is_green
    hue = hue.add_(((red - green) * scale + 4) * (1 - is_red - is_green)).add_(6 * turns)
    hue = hue - 6 * torch.floor(hue / 6)
    weights = (2 - (hue - 3).abs_(), (hue - 2).abs_() - 1, (hue - 4).abs_() - 1)
    channels = [torch.addcmul(value, chroma, weight.clamp_(0, 1), value=-1) for weight in weights]
    return torch.stack(channels, dim=-3).clamp_(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.split(1, dim=-3)
    return (red * GREY_WEIGHTS[0]).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])
