"""Planners that sample action sequences and look at nothing but their costs.

Lower costs are better. All work on B problems at once, each with N candidates of H actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# From candidates (B, N, H, A) to their costs (B, N).
Cost = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """What a planner decided.

    Attributes:
        actions: (B, H, A), to execute from the first on.
        cost: (B,), of the best candidate that was tried.
        mean, std: (B, H, A), the distribution that was left; the mean can start the next plan.
        costs: (B, N), of the last iteration's candidates.
        num_evaluations: candidates that were evaluated for each problem.
    """

    actions: Tensor
    cost: Tensor
    mean: Tensor
    std: Tensor
    costs: Tensor
    num_evaluations: int

    def shifted(self) -> Tensor:
        """(B, H, A): the mean one step later, its last action repeated; starts the next plan."""
        return torch.cat([self.mean[:, 1:], self.mean[:, -1:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Planner:
    """What all planners have in common.

    Args:
        low, high: bounds of each action dimension (A values).
        horizon: H, actions of a candidate.
        num_candidates: N, per iteration.
        num_iterations: how often candidates are drawn.
        std: of the first iteration's noise, one or A values; None: a quarter of the range between the bounds.
        keep_best: carry the best candidate over to the next iteration.

    Raises:
        ValueError: if a value is out of range, or a lower bound is not below the upper one.
    """

    low: Sequence[float]
    high: Sequence[float]
    horizon: int
    num_candidates: int = 200
    num_iterations: int = 1
    std: float | Sequence[float] | None = None
    keep_best: bool = True

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not len(self.low):
            raise ValueError(f"low and high must have as many values as an action, got {self.low} and {self.high}")
        bad = [i for i, (low, high) in enumerate(zip(self.low, self.high, strict=True)) if not low < high]
        if bad:
            raise ValueError(f"low must be below high in every dimension; not so in {bad}: {self.low} and {self.high}")
        for name in ("horizon", "num_candidates", "num_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.std, Sequence) and len(self.std) != len(self.low):
            raise ValueError(f"std must be one value or {len(self.low)}, got {self.std}")

    @property
    def action_dim(self) -> int:
        """Width A of an action."""
        return len(self.low)

    def plan(
        self,
        cost: Cost,
        *,
        batch_size: int = 1,
        warm_start: Tensor | None = None,
        proposals: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Plan:
        """Look for actions of low cost.

        Args:
            cost: of candidates; called once per iteration.
            batch_size: B.
            warm_start: (B, H, A), mean of the first iteration, such as `Plan.shifted` of the plan before; None: the
                middle between the bounds.
            proposals: (B, K, H, A), candidates of the first iteration that somebody else suggests, such as a policy; in
                place of K random ones.
            generator: of the noise, on the device.
            device: where to plan.

        Raises:
            ValueError: if an argument has another shape, or the cost returns NaN or another shape.
        """
        low, high = (torch.tensor(bound, dtype=torch.float32, device=device) for bound in (self.low, self.high))
        shape = (batch_size, self.horizon, self.action_dim)
        mean = ((low + high) / 2).expand(shape).clone()
        if warm_start is not None:
            _check_shape("warm_start", warm_start, shape)
            mean = warm_start.to(mean)
        std = (high - low) / 4 if self.std is None else torch.tensor(self.std, dtype=torch.float32, device=device)
        std = std.expand(shape).clone()
        if proposals is not None:
            _check_shape("proposals", proposals, (batch_size, proposals.shape[1], self.horizon, self.action_dim))
            if proposals.shape[1] > self.num_candidates:
                raise ValueError(f"{proposals.shape[1]} proposals are more than the {self.num_candidates} candidates")
        state = _Search(mean, std, low, high, generator)
        carried = None if proposals is None else proposals.to(mean)
        for iteration in range(self.num_iterations):
            drawn = self._draw(state, iteration, 0 if carried is None else carried.shape[1])
            candidates = drawn if carried is None else torch.cat([carried, drawn], dim=1)
            candidates = torch.minimum(torch.maximum(candidates, low), high)
            costs = _checked_costs(cost(candidates), candidates)
            state.note(candidates, costs)
            self._update(state, candidates, costs, iteration)
            carried = self._carry(state, candidates, costs)
        return Plan(self._choose(state), state.best_cost, state.mean, state.std, costs, state.num_evaluations)

    # -- what planners differ in --------------------------------------------------------------------------------------

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        """New candidates (B, N - num_carried, H, A), not yet within the bounds."""
        count = max(0, self.num_candidates - num_carried)
        return search.mean[:, None] + search.std[:, None] * search.noise(count)

    def _update(self, search: _Search, candidates: Tensor, costs: Tensor, iteration: int) -> None:
        """Fit the distribution to what was seen."""
        raise NotImplementedError

    def _carry(self, search: _Search, candidates: Tensor, costs: Tensor) -> Tensor | None:
        """Candidates that the next iteration begins with."""
        return search.best[:, None] if self.keep_best else None

    def _choose(self, search: _Search) -> Tensor:
        """The actions to execute."""
        return search.mean


@dataclass
class _Search:
    """Where a search stands."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    generator: torch.Generator | None
    best: Tensor = field(init=False)
    best_cost: Tensor = field(init=False)
    num_evaluations: int = 0

    def noise(self, count: int) -> Tensor:
        """Standard normal (B, count, H, A)."""
        batch_size, *rest = self.mean.shape
        return torch.randn(batch_size, count, *rest, generator=self.generator, device=self.mean.device)

    def note(self, candidates: Tensor, costs: Tensor) -> None:
        """Remember the best candidate."""
        cost, index = costs.min(dim=1)
        chosen = _take(candidates, index[:, None])[:, 0]
        if self.num_evaluations:
            better = cost < self.best_cost
            chosen = torch.where(better[:, None, None], chosen, self.best)
            cost = torch.minimum(cost, self.best_cost)
        self.best, self.best_cost = chosen, cost
        self.num_evaluations += candidates.shape[1]


@dataclass(frozen=True, kw_only=True)
class RandomShooting(Planner):
    """The best of candidates that are uniform between the bounds; a warm start counts as one of them."""

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        count = max(1, self.num_candidates - num_carried)
        shape = (len(search.mean), count, *search.mean.shape[1:])
        uniform = torch.rand(shape, generator=search.generator, device=search.mean.device)
        drawn = search.low + (search.high - search.low) * uniform
        if iteration == 0:
            drawn[:, 0] = search.mean
        return drawn

    def _update(self, search: _Search, candidates: Tensor, costs: Tensor, iteration: int) -> None:
        search.mean = search.best

    def _choose(self, search: _Search) -> Tensor:
        return search.best


@dataclass(frozen=True, kw_only=True)
class CEM(Planner):
    """The cross-entropy method (Rubinstein, 1999): the distribution is fitted to the best candidates.

    Args:
        num_elites: to how many.
        momentum: share of the old distribution that is kept.
        bounded_std: keep the standard deviation below half of the distance to the nearest bound (Chua et al., 2018).
        executes: "mean" of the last distribution, or the "best" candidate.
    """

    num_iterations: int = 5
    num_elites: int = 20
    momentum: float = 0.0
    bounded_std: bool = False
    executes: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.num_elites <= self.num_candidates:
            raise ValueError(
                f"num_elites must be from 2 to the {self.num_candidates} candidates, got {self.num_elites}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.executes not in ("mean", "best"):
            raise ValueError(f"executes must be 'mean' or 'best', got {self.executes!r}")

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        std = search.std
        if self.bounded_std:
            to_bound = torch.minimum(search.mean - search.low, search.high - search.mean).clamp(min=0)
            std = torch.minimum(std, to_bound / 2)
        count = max(0, self.num_candidates - num_carried)
        return search.mean[:, None] + std[:, None] * self._noise(search, count)

    def _noise(self, search: _Search, count: int) -> Tensor:
        return search.noise(count)

    def _update(self, search: _Search, candidates: Tensor, costs: Tensor, iteration: int) -> None:
        elites = _take(candidates, costs.topk(self.num_elites, dim=1, largest=False).indices)
        keep = self.momentum
        search.mean = keep * search.mean + (1 - keep) * elites.mean(1)
        search.std = keep * search.std + (1 - keep) * elites.std(1, correction=0)

    def _choose(self, search: _Search) -> Tensor:
        return search.mean if self.executes == "mean" else search.best


@dataclass(frozen=True, kw_only=True)
class ICEM(CEM):
    """The improved cross-entropy method (Pinneri et al., 2020): noise that is correlated in time, elites that are kept,
    fewer candidates from iteration to iteration, and the mean among the last ones.

    Args:
        noise_exponent: of the power spectrum 1 / f^exponent; 0 is white, 2 is brown.
        kept_fraction: of the elites that begin the next iteration.
        decay: candidates of an iteration over those of the next; at least twice the elites are drawn.
    """

    num_iterations: int = 4
    momentum: float = 0.1
    executes: str = "best"
    noise_exponent: float = 2.0
    kept_fraction: float = 0.3
    decay: float = 1.25

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        wanted = max(2 * self.num_elites, int(self.num_candidates / self.decay**iteration))
        drawn = search.mean[:, None] + search.std[:, None] * self._noise(search, max(1, wanted - num_carried))
        if iteration == self.num_iterations - 1:
            drawn[:, -1] = search.mean
        return drawn

    def _noise(self, search: _Search, count: int) -> Tensor:
        return colored_noise(search.noise(count), self.noise_exponent)

    def _carry(self, search: _Search, candidates: Tensor, costs: Tensor) -> Tensor | None:
        count = max(1, int(self.kept_fraction * self.num_elites))
        return _take(candidates, costs.topk(count, dim=1, largest=False).indices)


@dataclass(frozen=True, kw_only=True)
class MPPI(Planner):
    """Model predictive path integral control (Williams et al., 2016): the mean of all candidates, weighted by
    exp(-gamma * cost).

    Args:
        gamma: inverse temperature, on costs as they are.
        noise_filter: beta of e_0 = s n_0, e_t = beta e_(t-1) + (1 - beta) s n_t, with n white; 0 is white noise.
        adapts_std: fit the standard deviation too, with the same weights.
    """

    gamma: float = 1.0
    noise_filter: float = 0.0
    adapts_std: bool = False
    keep_best: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")
        if not 0 <= self.noise_filter < 1:
            raise ValueError(f"noise_filter must be in [0, 1), got {self.noise_filter}")

    @classmethod
    def vp2(cls, std: Sequence[float], num_candidates: int = 200, horizon: int = 10) -> MPPI:
        """As the published scores of the VP2 benchmark were made (Tian et al., 2023): one iteration, costs that are
        sums over time and pixels of 64 x 64 frames in [0, 1]. Its standard deviations: (0.5, 0.5, 0.5, 0) in robosuite,
        (0.5, 0.5, 0.5, 0.1, 0.1) in RoboDesk."""
        return cls(
            low=[-1.0] * len(std),
            high=[1.0] * len(std),
            horizon=horizon,
            num_candidates=num_candidates,
            std=list(std),
            gamma=0.05,
            noise_filter=0.5,
        )

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        noise = search.std[:, None] * search.noise(max(0, self.num_candidates - num_carried))
        if self.noise_filter:
            steps = [noise[:, :, 0]]
            for t in range(1, self.horizon):
                steps.append(self.noise_filter * steps[-1] + (1 - self.noise_filter) * noise[:, :, t])
            noise = torch.stack(steps, dim=2)
        return search.mean[:, None] + noise

    def _update(self, search: _Search, candidates: Tensor, costs: Tensor, iteration: int) -> None:
        weights = (self.gamma * (costs.min(dim=1, keepdim=True).values - costs)).softmax(dim=1)[:, :, None, None]
        mean = (weights * candidates).sum(1)
        if self.adapts_std:
            search.std = (weights * (candidates - mean[:, None]).square()).sum(1).sqrt()
        search.mean = mean


def colored_noise(white: Tensor, exponent: float) -> Tensor:
    """Noise (..., H, A) with the power spectrum 1 / f^exponent along H and unit variance, from white noise (Timmer and
    Koenig, 1995)."""
    horizon = white.shape[-2]
    if horizon == 1 or exponent == 0:
        return white
    frequencies = torch.fft.rfftfreq(horizon, device=white.device)
    frequencies[0] = 1 / horizon  # the mean is as strong as the slowest wave
    scale = frequencies ** (-exponent / 2)
    colored = torch.fft.irfft(torch.fft.rfft(white, dim=-2) * scale[:, None], n=horizon, dim=-2)
    # Of the variance of white noise, each frequency but the first and, for even horizons, the last holds two parts.
    parts = torch.full_like(scale, 2.0)
    parts[0] = 1.0
    if horizon % 2 == 0:
        parts[-1] = 1.0
    return colored / ((parts * scale.square()).sum() / horizon).sqrt()


def _take(candidates: Tensor, indices: Tensor) -> Tensor:
    """The chosen (B, K) of candidates (B, N, H, A)."""
    return candidates.gather(1, indices[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")


def _checked_costs(costs: Tensor, candidates: Tensor) -> Tensor:
    if costs.shape != candidates.shape[:2]:
        raise ValueError(
            f"the cost must return one value per candidate, {tuple(candidates.shape[:2])}, got {tuple(costs.shape)}"
        )
    if not torch.isfinite(costs).all():
        raise ValueError(f"the cost returned {(~torch.isfinite(costs)).sum().item()} values that are not finite")
    return costs.to(candidates)
