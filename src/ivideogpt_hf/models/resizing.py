"""Resizing of frames, for the processor and for training data. The module is quick to import."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_frames(frames: Tensor, frame_size: tuple[int, int], *, crop_to_aspect: bool = False) -> Tensor:
    """Resize uint8 frames (..., 3, h, w) to uint8 (..., 3, H, W), bilinear with antialiasing.

    With ``crop_to_aspect`` the largest centred window of the target's aspect ratio is cut first.

    Raises:
        ValueError: if the frames are not uint8.
    """
    check_levels(frames)
    if crop_to_aspect:
        frames = _crop_to_aspect(frames, frame_size)
    if frames.shape[-2:] == frame_size:
        return frames
    flat = frames.flatten(0, -4).float() if frames.ndim > 3 else frames[None].float()
    resized = F.interpolate(flat, size=frame_size, mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8).view(*frames.shape[:-2], *frame_size)


def check_levels(frames: Tensor) -> None:
    """Check that frames are uint8. Those in [0, 1] would be rounded to black.

    Raises:
        ValueError: if they are not.
    """
    if frames.dtype != torch.uint8:
        raise ValueError(
            f"frames must be uint8 with values 0 ... 255, got {frames.dtype}; the pipeline of the package ivideogpt_hf "
            f"takes arrays in [0, 1] too"
        )


def _crop_to_aspect(frames: Tensor, frame_size: tuple[int, int]) -> Tensor:
    """The largest centred window of the target's aspect ratio."""
    height, width = frames.shape[-2:]
    scale = min(height / frame_size[0], width / frame_size[1])
    crop_height, crop_width = round(frame_size[0] * scale), round(frame_size[1] * scale)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return frames[..., top : top + crop_height, left : left + crop_width]


__all__ = ["check_levels", "resize_frames"]
