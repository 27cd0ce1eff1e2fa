"""Losses of the VQ model, as functions of frames (B, T, 3, H, W) in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.lpips import LPIPS

# A pixel moves if a channel of it changes by more than this within the clip: above what rendering flickers.
MOTION_THRESHOLD = 0.05
MAX_ADAPTIVE_WEIGHT = 1e4


def motion_weights(clips: Tensor, weight: float) -> Tensor:
    """Weights of pixels, (B, 1, 1, H, W): 1 where nothing moves, 1 + weight where a pixel changes within its clip.

    Args:
        clips: (B, T, 3, H, W) in [0, 1].
        weight: extra weight of a pixel that moves.
    """
    change = (clips.amax(1, keepdim=True) - clips.amin(1, keepdim=True)).amax(2, keepdim=True)
    return 1 + weight * (change > MOTION_THRESHOLD).to(clips.dtype)


def weighted_absolute_error(reconstruction: Tensor, frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean absolute error; scalar.

    Args:
        reconstruction: (B, T, 3, H, W) in [0, 1].
        frames: (B, T, 3, H, W) in [0, 1] to reconstruct.
        weights: weights of the pixels, which broadcast to the frames.
    """
    return ((reconstruction - frames).abs() * weights).mean()


def weighted_squared_error(reconstruction: Tensor, frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error; scalar. Its arguments are those of `weighted_absolute_error`.

    While the place of a small thing is uncertain, the absolute error is least where the thing is left out. The squared
    error is least with a blur, which can be sharpened later.
    """
    return ((reconstruction - frames).square() * weights).mean()


def perceptual_loss(
    lpips: LPIPS, reconstruction: Tensor, frames: Tensor, num_context_frames: int, num_frames: int | None
) -> Tensor:
    """LPIPS, the mean over context frames plus the mean over future frames; scalar.

    Args:
        lpips: perceptual distance of two images.
        reconstruction: (B, T, 3, H, W) in [0, 1], context frames first.
        frames: (B, T, 3, H, W) in [0, 1] to reconstruct.
        num_context_frames: number of context frames.
        num_frames: number of frames of each clip to look at. They are drawn at random, which gives an unbiased
            estimate; None: all.
    """
    batch_size, length = frames.shape[:2]
    context_mask = torch.arange(length, device=frames.device) < num_context_frames
    shares = torch.where(context_mask, 1 / num_context_frames, 1 / max(length - num_context_frames, 1))
    if num_frames is None or num_frames >= length:
        distance = lpips(reconstruction.flatten(0, 1), frames.flatten(0, 1)).unflatten(0, (batch_size, length))
        return (distance * shares).sum(1).mean()
    choice = torch.rand(batch_size, length).argsort(1)[:, :num_frames].to(frames.device)
    rows = torch.arange(batch_size, device=frames.device)[:, None]
    distance = lpips(reconstruction[rows, choice].flatten(0, 1), frames[rows, choice].flatten(0, 1))
    weights = shares[choice] * (length / num_frames)
    return (distance.unflatten(0, choice.shape) * weights).sum(1).mean()


class Discriminator(nn.Module):
    """Patch discriminator: strided 3 x 3 convolutions with spectral norm, instance norm after the first.

    Args:
        depth: number of strided convolutions, each of which halves the size.
        hidden: number of channels of each convolution.
    """

    def __init__(self, depth: int = 4, hidden: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level in range(depth):
            channels = hidden if level else 3
            convolution = nn.Conv2d(channels, hidden, 3, stride=2, padding=1)
            layers.append(nn.utils.parametrizations.spectral_norm(convolution))
            if level:
                layers.append(nn.InstanceNorm2d(hidden))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(hidden, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] to logits (N, 1, h, w), high where they look real."""
        return self.layers(2 * images - 1)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss on its logits of real and of reconstructed frames, of any shape; scalar."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def adaptive_weight(perceptual: Tensor, adversarial: Tensor, last_layers: list[Tensor]) -> Tensor:
    """How much stronger the perceptual loss pulls at the last layers than the adversarial loss (Esser et al., 2021).

    Args:
        perceptual: perceptual loss, a scalar.
        adversarial: adversarial loss, a scalar.
        last_layers: weights of the decoders' last layers.

    Returns:
        Ratio of the two gradient norms, at most `MAX_ADAPTIVE_WEIGHT`; scalar, no gradient.
    """
    norms = []
    for loss in (perceptual, adversarial):
        gradients = torch.autograd.grad(loss, last_layers, retain_graph=True)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
