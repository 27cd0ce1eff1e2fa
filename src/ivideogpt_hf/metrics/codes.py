"""Metrics of the use of a codebook."""

from __future__ import annotations

import torch
from torch import Tensor


def perplexity(counts: Tensor) -> float:
    """Number of equally frequent codes that would have the entropy of these counts (K,); 1 if all counts are 0."""
    share = counts.double() / counts.sum().clamp(min=1)
    return torch.exp(torch.special.entr(share).sum()).item()
