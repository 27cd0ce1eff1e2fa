"""The Frechet distance between two sets of features, from statistics that are collected batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class FeatureStatistics:
    """Count, mean and scatter of features, in float64. The order of batches and processes does not matter.

    Attributes:
        count: number of features.
        mean: mean (D,) of the features.
        scatter: sum (D, D) of the outer products of each feature's difference from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, num_features: int) -> FeatureStatistics:
        """Statistics of no features."""
        zeros = torch.zeros(num_features, dtype=torch.float64)
        return cls(0, zeros, torch.zeros(num_features, num_features, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """Statistics of features (N, D).

        Raises:
            ValueError: if there are no features, or they are not finite.
        """
        if features.ndim != 2 or not len(features) or not torch.isfinite(features).all():
            raise ValueError(f"features must be finite and of shape (N, D), got {tuple(features.shape)}")
        features = features.detach().to("cpu", torch.float64)
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merged(self, other: FeatureStatistics) -> FeatureStatistics:
        """Statistics of the features of both (Chan et al., 1979)."""
        count = self.count + other.count
        if not count:
            return self
        difference = other.mean - self.mean
        between = torch.outer(difference, difference) * (self.count * other.count / count)
        return FeatureStatistics(
            count, self.mean + difference * (other.count / count), self.scatter + other.scatter + between
        )

    def scaled(self, scale: Tensor) -> FeatureStatistics:
        """Statistics of the same features, each dimension multiplied by its value in ``scale`` (D,)."""
        return FeatureStatistics(self.count, self.mean * scale, self.scatter * torch.outer(scale, scale))

    @property
    def covariance(self) -> Tensor:
        """Covariance (D, D): the scatter divided by N, as in the published FVD code."""
        return self.scatter / self.count

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and scatter, from which the statistics can be built again."""
        return {"count": self.count, "mean": self.mean, "scatter": self.scatter}


def frechet_distance(one: FeatureStatistics, other: FeatureStatistics, *, standardised: bool = False) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with these means and covariances (Dowson and Landau, 1982):
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Args:
        one, other: statistics of the real and of the predicted videos.
        standardised: whether to measure each dimension in standard deviations of ``one``. Dimensions that never vary
            there are left out.

    Raises:
        ValueError: if their features have different widths, or there are fewer than two of one of them.
    """
    if len(one.mean) != len(other.mean):
        raise ValueError(f"features are {len(one.mean)} and {len(other.mean)} wide")
    if min(one.count, other.count) < 2:
        raise ValueError(f"a covariance needs at least 2 features, got {one.count} and {other.count}")
    if standardised:
        std = one.covariance.diagonal().sqrt()
        scale = torch.where(std > 1e-8, 1 / std, 0.0)
        one, other = one.scaled(scale), other.scaled(scale)
    root = _square_root(one.covariance)
    # (C1 C2)^(1/2) has the trace of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric.
    mixed = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (one.mean - other.mean).square().sum()
    return (distance + one.covariance.trace() + other.covariance.trace() - 2 * mixed).item()


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
