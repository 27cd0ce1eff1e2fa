"""Rewards as a distribution over bins, in place of one number (Bellemare et al., 2017; Hansen et al., 2024, TD-MPC2).

A target between the centres of two bins is shared between these ("two-hot"), and the prediction is the mean of the
distribution. A cross-entropy does not grow with the size of rewards, so that rare large ones do not drown small ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bin_centres(num_bins: int, reward_range: Sequence[float], device: torch.device) -> Tensor:
    """Centres (num_bins,) float32 of the bins, evenly spaced in the units of the reward head."""
    return torch.linspace(reward_range[0], reward_range[1], num_bins, device=device)


def mean_of_bins(logits: Tensor, reward_range: Sequence[float]) -> Tensor:
    """Means (...) float32, in the units of the reward head, of distributions with logits (..., num_bins)."""
    centres = bin_centres(logits.shape[-1], reward_range, logits.device)
    return (logits.float().softmax(-1) * centres).sum(-1)


def two_hot_loss(logits: Tensor, targets: Tensor, reward_range: Sequence[float]) -> Tensor:
    """Cross-entropy of distributions and two-hot targets; scalar float32.

    Args:
        logits: logits (..., num_bins).
        targets: targets (...) float in the units of the reward head.
        reward_range: centres of the first bin and of the last.

    Raises:
        ValueError: if a target lies outside the range, or is NaN.
    """
    low, high = reward_range
    if targets.numel() and not (targets.min() >= low and targets.max() <= high):  # NaN is in no order
        raise ValueError(
            f"targets of the reward head reach from {targets.min().item():.4g} to {targets.max().item():.4g}, outside "
            f"reward_range {tuple(reward_range)}: make it wider, or use reward_transform 'symlog'"
        )
    place = (targets.float() - low) / (high - low) * (logits.shape[-1] - 1)
    lower = place.floor().clamp(max=logits.shape[-1] - 2)  # the end of the range is shared as well
    share = (place - lower)[..., None]
    log_probs = logits.float().log_softmax(-1)
    index = lower.long()[..., None]
    return -((1 - share) * log_probs.gather(-1, index) + share * log_probs.gather(-1, index + 1)).mean()
