"""Distances between two videos, frame by frame.

Definitions are those of the paper's protocol (Wu et al., 2024): PSNR with an epsilon of 1e-8 on the squared error, SSIM
with a Gaussian window of 11 pixels and sigma 1.5, LPIPS on VGG16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..extras import require_packages

PSNR_EPSILON = 1e-8
FRAMES_PER_CHUNK = 64


def squared_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of pixels in [0, 1].

    Args:
        predicted: predicted videos (..., T, 3, H, W) uint8.
        truth: true videos of the same shape, or one video (T, 3, H, W) for all.

    Returns:
        Errors (..., T) float32.

    Raises:
        ValueError: if shapes or dtypes do not match.
    """
    _check(predicted, truth)
    return ((predicted.float() - truth.float()) / 255).square().mean((-3, -2, -1))


def psnr(predicted: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 80 dB. See `squared_error` for arguments and errors."""
    return psnr_of_error(squared_error(predicted, truth))


def psnr_of_error(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 80 dB, from mean squared errors (of any shape) of pixels in [0, 1]."""
    return -10 * (error + PSNR_EPSILON).log10()


def ssim(predicted: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004), by scikit-image. See `squared_error` for arguments and other errors.

    Raises:
        ImportError: without scikit-image; names the extra.
    """
    require_packages("skimage", purpose="SSIM")
    from skimage.metrics import structural_similarity

    _check(predicted, truth)
    videos = (predicted, truth.expand_as(predicted))
    pairs = zip(*(video.flatten(0, -4).cpu().numpy() for video in videos), strict=True)
    values = [
        structural_similarity(
            *pair, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in pairs
    ]
    return torch.tensor(values, dtype=torch.float32).view(predicted.shape[:-3])


def lpips(predicted: Tensor, truth: Tensor, network: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Perceptual distance (Zhang et al., 2018). See `squared_error` for other arguments and errors.

    Args:
        network: function from two batches of images (M, 3, H, W) float in [0, 1] to distances (M,), such as
            `ivideogpt_hf.metrics.lpips.LPIPS`.
    """
    _check(predicted, truth)
    if predicted.ndim == truth.ndim:
        pairs = [(predicted.flatten(0, -4), truth.flatten(0, -4))]
    else:  # the network sees each true frame once for all predictions of it
        steps = zip(predicted.flatten(0, -5).unbind(1), truth, strict=True)
        pairs = [(frames, true_frame[None]) for frames, true_frame in steps]
    values = torch.stack([_distances(network, *pair) for pair in pairs])
    return values.T.reshape(predicted.shape[:-3])


def _distances(network: Callable[[Tensor, Tensor], Tensor], frames: Tensor, truth: Tensor) -> Tensor:
    """Distances (M,) of frames (M, 3, H, W) uint8 from as many true frames, or from one, in chunks."""
    chunks = frames.split(FRAMES_PER_CHUNK)
    true_chunks = truth.split(FRAMES_PER_CHUNK) if len(truth) == len(frames) else [truth] * len(chunks)
    pairs = zip(chunks, true_chunks, strict=True)
    return torch.cat([network(chunk.float() / 255, true.float() / 255).cpu() for chunk, true in pairs])


def _check(predicted: Tensor, truth: Tensor) -> None:
    for video in (predicted, truth):
        if video.dtype != torch.uint8 or video.ndim < 4 or video.shape[-3] != 3:
            raise ValueError(f"videos must be uint8 of shape (..., T, 3, H, W), got {video.dtype} {tuple(video.shape)}")
    if predicted.shape != truth.shape and (truth.ndim != 4 or predicted.shape[-4:] != truth.shape):
        raise ValueError(
            f"videos must have the same shape, or the truth must be one video (T, 3, H, W) for all, got "
            f"{tuple(predicted.shape)} and {tuple(truth.shape)}"
        )
