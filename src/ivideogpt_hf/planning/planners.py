"""Planners that sample action sequences. They see nothing but the costs of these, where lower is better.

Each planner solves B problems at once, each with N candidates of H actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# A function from candidates (B, N, H, A) to their costs (B, N).
Cost = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """Result of a planner.

    Attributes:
        actions: actions (B, H, A) to execute, from the first on.
        cost: cost (B,) of the best candidate that was tried.
        mean, std: mean and standard deviation (B, H, A) of the last distribution; the mean can start the next plan.
        costs: costs (B, N) of the last iteration's candidates.
        num_evaluations: number of candidates that were evaluated for each problem.

    Example:
        >>> from ivideogpt_hf import RandomShooting
        >>> planner = RandomShooting(low=[-1, -1], high=[1, 1], horizon=3, num_candidates=32)
        >>> plan = planner.plan(lambda actions: actions.square().sum((2, 3)))
        >>> bool(plan.cost[0] == plan.costs.min())
        True
        >>> next_plan = planner.plan(lambda actions: actions.square().sum((2, 3)), warm_start=plan.shifted())
    """

    actions: Tensor
    cost: Tensor
    mean: Tensor
    std: Tensor
    costs: Tensor
    num_evaluations: int

    def shifted(self) -> Tensor:
        """The mean (B, H, A) one step later, with its last action repeated: a start for the next plan."""
        return torch.cat([self.mean[:, 1:], self.mean[:, -1:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Base class of planners.

    Args:
        low, high: bounds of each action dimension, A values each.
        horizon: number H of actions in a candidate.
        num_candidates: number N of candidates in an iteration.
        num_iterations: number of iterations.
        std: standard deviation of the first iteration's noise, one or A values; None: a quarter of the range between
            the bounds.
        keep_best: whether the best candidate is carried over to the next iteration.

    Raises:
        ValueError: if a value is out of range, or a lower bound is not below the upper one.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import CEM, MPPI
        >>> options = {"low": [-1, -1], "high": [1, 1], "horizon": 3, "num_candidates": 16}
        >>> for planner in (CEM(num_elites=4, **options), MPPI(**options)):  # planners are exchangeable
        ...     print(planner.plan(lambda actions: actions.square().sum((2, 3))).actions.shape)
        torch.Size([1, 3, 2])
        torch.Size([1, 3, 2])
    """

    low: Sequence[float]
    high: Sequence[float]
    horizon: int
    num_candidates: int = 200
    num_iterations: int = 1
    std: float | Sequence[float] | None = None
    keep_best: bool = True

    def __post_init__(self) -> None:
        if self.low is None or self.high is None:  # the bounds in a spec may be None
            raise ValueError(
                f"low and high are the bounds of an action, a number per dimension, got {self.low} and {self.high}: "
                f"world.spec.action_bounds gives them where the checkpoint tells them, which it does if its data were "
                f"made by convert-data with --action-low and --action-high"
            )
        if len(self.low) != len(self.high) or not len(self.low):
            raise ValueError(f"low and high must have as many values as an action, got {self.low} and {self.high}")
        dimensions = [i for i, (low, high) in enumerate(zip(self.low, self.high, strict=True)) if not low < high]
        if dimensions:
            raise ValueError(
                f"low must be below high in every dimension; it is not in {dimensions}: got {self.low} and {self.high}"
            )
        if not all(math.isfinite(bound) for bound in (*self.low, *self.high)):
            raise ValueError(
                f"low and high must be finite, as candidates are drawn between them, got {self.low} and {self.high}"
            )
        for name in ("horizon", "num_candidates", "num_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.std, Sequence) and len(self.std) != len(self.low):
            raise ValueError(f"std must be one value or {len(self.low)}, got {self.std}")
        stds = self.std if isinstance(self.std, Sequence) else [] if self.std is None else [self.std]
        if not all(0 <= std < math.inf for std in stds) or (stds and not any(stds)):
            raise ValueError(f"std must be finite, 0 or more, and not 0 in every dimension, got {self.std}")

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
            cost: function from candidates to their costs, which is called once per iteration.
            batch_size: number B of problems.
            warm_start: mean (B, H, A) of the first iteration, such as `Plan.shifted` of the plan before; None: the
                middle between the bounds.
            proposals: candidates (B, K, H, A) for the first iteration from elsewhere, such as a policy. They take the
                place of K random ones.
            generator: generator of the noise, on the device.
            device: device to plan on.

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
            candidates = self._draw(state, iteration, 0 if carried is None else carried.shape[1])
            if carried is not None:
                candidates = torch.cat([carried, candidates], dim=1)
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
        """Fit the distribution to the candidates and their costs."""
        raise NotImplementedError

    def _carry(self, search: _Search, candidates: Tensor, costs: Tensor) -> Tensor | None:
        """Candidates (B, K, H, A) that are carried over to the next iteration."""
        return search.best[:, None] if self.keep_best else None

    def _choose(self, search: _Search) -> Tensor:
        """The actions (B, H, A) to execute."""
        return search.mean


@dataclass
class _Search:
    """State of a search."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    generator: torch.Generator | None
    best: Tensor = field(init=False)
    best_cost: Tensor = field(init=False)
    num_evaluations: int = 0

    def noise(self, count: int) -> Tensor:
        """Standard normal noise (B, count, H, A)."""
        batch_size, *rest = self.mean.shape
        return torch.randn(batch_size, count, *rest, generator=self.generator, device=self.mean.device)

    def note(self, candidates: Tensor, costs: Tensor) -> None:
        """Remember the best candidate."""
        cost, index = costs.min(dim=1)
        best = _take(candidates, index[:, None])[:, 0]
        if self.num_evaluations:
            is_better = cost < self.best_cost
            best = torch.where(is_better[:, None, None], best, self.best)
            cost = torch.minimum(cost, self.best_cost)
        self.best, self.best_cost = best, cost
        self.num_evaluations += candidates.shape[1]


@dataclass(frozen=True, kw_only=True)
class RandomShooting(Planner):
    """Draws candidates uniformly between the bounds and takes the best. A warm start counts as one candidate.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import RandomShooting
        >>> planner = RandomShooting(low=[-1, -1], high=[1, 1], horizon=3, num_candidates=32)
        >>> planner.plan(lambda actions: (actions - 0.5).square().sum((2, 3))).num_evaluations
        32
    """

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        count = max(1, self.num_candidates - num_carried)
        shape = (len(search.mean), count, *search.mean.shape[1:])
        uniform = torch.rand(shape, generator=search.generator, device=search.mean.device)
        candidates = search.low + (search.high - search.low) * uniform
        if iteration == 0:
            candidates[:, 0] = search.mean
        return candidates

    def _update(self, search: _Search, candidates: Tensor, costs: Tensor, iteration: int) -> None:
        search.mean = search.best

    def _choose(self, search: _Search) -> Tensor:
        return search.best


@dataclass(frozen=True, kw_only=True)
class CEM(Planner):
    """The cross-entropy method (Rubinstein, 1999). The distribution is fitted to the best candidates, the elites.

    Args:
        num_elites: number of elites.
        momentum: weight of the old distribution in the new one, in [0, 1).
        bounded_std: whether the standard deviation stays below half of the distance to the nearest bound (Chua et al.,
            2018).
        executes: actions of the plan: the "mean" of the last distribution, or the "best" candidate.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import CEM
        >>> planner = CEM(low=[-1.0, -1.0], high=[1.0, 1.0], horizon=3, num_candidates=64, num_elites=8)
        >>> target = torch.tensor([0.5, -0.25])
        >>> def distance_from_target(candidates):
        ...     return (candidates - target).square().sum((2, 3))
        >>> plan = planner.plan(distance_from_target, generator=torch.Generator().manual_seed(0))
        >>> plan.actions.shape, plan.num_evaluations
        (torch.Size([1, 3, 2]), 320)
        >>> bool((plan.actions - target).abs().max() < 0.2)
        True
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
        search.mean = self.momentum * search.mean + (1 - self.momentum) * elites.mean(1)
        search.std = self.momentum * search.std + (1 - self.momentum) * elites.std(1, correction=0)

    def _choose(self, search: _Search) -> Tensor:
        return search.mean if self.executes == "mean" else search.best


@dataclass(frozen=True, kw_only=True)
class ICEM(CEM):
    """The improved cross-entropy method (Pinneri et al., 2020).

    It differs from `CEM` in four points. Its noise is correlated in time. Some elites are carried over to the next
    iteration. Each iteration has fewer candidates than the one before. The mean is one of the last candidates.

    Args:
        noise_exponent: exponent of the noise's power spectrum 1 / f^exponent; 0 is white noise, 2 is brown.
        kept_fraction: share of the elites that the next iteration begins with.
        decay: number of candidates of an iteration, divided by that of the next. There are always twice as many
            candidates as elites, or more.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import ICEM
        >>> planner = ICEM(low=[-1, -1], high=[1, 1], horizon=3, num_candidates=32, num_elites=4)
        >>> plan = planner.plan(lambda actions: (actions - 0.5).square().sum((2, 3)))
        >>> plan.actions.shape
        torch.Size([1, 3, 2])
    """

    num_iterations: int = 4
    momentum: float = 0.1
    executes: str = "best"
    noise_exponent: float = 2.0
    kept_fraction: float = 0.3
    decay: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.keep_best:
            raise ValueError("iCEM carries the best candidates over in any case: take CEM for keep_best=False")
        if not 0 <= self.kept_fraction <= 1:
            raise ValueError(f"kept_fraction must be in [0, 1], got {self.kept_fraction}")
        if not self.decay >= 1:
            raise ValueError(f"decay must be at least 1, with which all iterations are alike, got {self.decay}")

    def _draw(self, search: _Search, iteration: int, num_carried: int) -> Tensor:
        num_candidates = max(2 * self.num_elites, int(self.num_candidates / self.decay**iteration))
        noise = self._noise(search, max(1, num_candidates - num_carried))
        candidates = search.mean[:, None] + search.std[:, None] * noise
        if iteration == self.num_iterations - 1:
            candidates[:, -1] = search.mean
        return candidates

    def _noise(self, search: _Search, count: int) -> Tensor:
        return colored_noise(search.noise(count), self.noise_exponent)

    def _carry(self, search: _Search, candidates: Tensor, costs: Tensor) -> Tensor | None:
        count = max(1, int(self.kept_fraction * self.num_elites))
        return _take(candidates, costs.topk(count, dim=1, largest=False).indices)


@dataclass(frozen=True, kw_only=True)
class MPPI(Planner):
    """Model predictive path integral control (Williams et al., 2016). The new mean is the mean of all candidates,
    weighted by exp(-gamma * cost).

    Args:
        gamma: inverse temperature; costs are not normalised.
        noise_filter: strength beta of the noise's correlation in time: e_0 = s n_0 and
            e_t = beta e_(t-1) + (1 - beta) s n_t, with white noise n of standard deviation s; 0 is white noise.
        adapts_std: whether the standard deviation is fitted too, with the same weights.

    Example:
        >>> import torch
        >>> from ivideogpt_hf import MPPI
        >>> planner = MPPI(low=[-1, -1], high=[1, 1], horizon=3, num_candidates=32, gamma=10.0)
        >>> plan = planner.plan(lambda actions: (actions - 0.5).square().sum((2, 3)))
        >>> plan.actions.shape
        torch.Size([1, 3, 2])
    """

    gamma: float = 1.0
    noise_filter: float = 0.0
    adapts_std: bool = False
    keep_best: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive and finite, got {self.gamma}")
        if not 0 <= self.noise_filter < 1:
            raise ValueError(f"noise_filter must be in [0, 1), got {self.noise_filter}")

    @classmethod
    def vp2(cls, std: Sequence[float], num_candidates: int = 200, horizon: int = 10) -> MPPI:
        """The planner of the published scores of the VP2 benchmark (Tian et al., 2023).

        It has one iteration. It expects costs that are summed over time and over the pixels, in [0, 1], of 64 x 64
        frames.

        Args:
            std: standard deviation of each action dimension; (0.5, 0.5, 0.5, 0) in VP2's robosuite tasks and
                (0.5, 0.5, 0.5, 0.1, 0.1) in its RoboDesk tasks.
            num_candidates: number of candidates.
            horizon: number of actions in a candidate.
        """
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
    # A real signal's spectrum has each frequency twice, but for the first and, with even lengths, the last.
    parts = torch.full_like(scale, 2.0)
    parts[0] = 1.0
    if horizon % 2 == 0:
        parts[-1] = 1.0
    return colored / ((parts * scale.square()).sum() / horizon).sqrt()


def _take(candidates: Tensor, indices: Tensor) -> Tensor:
    """Candidates (B, K, H, A) at indices (B, K), of candidates (B, N, H, A)."""
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
