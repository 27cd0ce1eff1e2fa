"""Clips of a sample video: the truth beside what the model makes of it, each frame with a caption."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..data.drawing import Strip
from ..media.pixels import clamp_to_uint8


def sample_strips(
    truth: Tensor,
    made: Tensor,
    *,
    name: str,
    num_context_frames: int,
    truth_name: str = "truth",
    actions: Tensor | None = None,
) -> list[Strip]:
    """A clip and what a model makes of it, to be drawn side by side.

    Args:
        truth: frames of the clip, (T, 3, H, W) uint8, or float in [0, 1].
        made: frames that the model made, of the same shape.
        name: title of what the model made.
        num_context_frames: number of context frames, which come first.
        truth_name: title of the clip.
        actions: actions (T - 1, A), drawn as bars; None: none are drawn.
    """
    num_future_frames = len(truth) - num_context_frames
    captions = ["context"] * num_context_frames + [f"frame {t + 1}" for t in range(num_future_frames)]
    bars = None if actions is None else actions.cpu().numpy()
    return [
        Strip(title, _images(frames), bars, captions=captions) for title, frames in ((truth_name, truth), (name, made))
    ]


def _images(frames: Tensor) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    pixels = clamp_to_uint8(frames) if frames.is_floating_point() else frames
    return pixels.movedim(1, -1).cpu().numpy()
