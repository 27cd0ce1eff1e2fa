"""Planners on costs whose minimum is known."""

import pytest
import torch

from ivideogpt_hf.planning.planners import CEM, ICEM, MPPI, RandomShooting, colored_noise

BOUNDS = {"low": [-1.0, -2.0], "high": [1.0, 2.0], "horizon": 5}
TARGET = torch.tensor([[0.5, -1.0], [-0.25, 1.5]])


def distance(candidates):
    """Two problems: each wants all its actions to be its target."""
    return (candidates - TARGET[:, None, None]).square().sum((2, 3))


def seeded():
    return torch.Generator().manual_seed(0)


PLANNERS = [
    RandomShooting(**BOUNDS, num_candidates=500, num_iterations=4),
    CEM(**BOUNDS, num_candidates=100, num_elites=10, num_iterations=8),
    CEM(**BOUNDS, num_candidates=100, num_elites=10, num_iterations=8, bounded_std=True, momentum=0.1, executes="best"),
    ICEM(**BOUNDS, num_candidates=100, num_elites=10, num_iterations=8),
    MPPI(**BOUNDS, num_candidates=200, num_iterations=12, gamma=1.0, adapts_std=True),
]


@pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: type(planner).__name__)
def test_the_minimum_is_found(planner):
    plan = planner.plan(distance, batch_size=2, generator=seeded())
    middle = distance(torch.zeros(2, 1, 5, 2))[:, 0]
    share = 0.6 if isinstance(planner, RandomShooting) else 0.02
    assert (distance(plan.actions[:, None])[:, 0] < share * middle).all()
    assert plan.cost.shape == (2,)


@pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: type(planner).__name__)
def test_candidates_stay_within_the_bounds(planner):
    seen = []

    def cost(candidates):
        seen.append(candidates)
        return (candidates - 100).square().sum((2, 3))  # far outside

    plan = planner.plan(cost, batch_size=2, generator=seeded())
    high, low = torch.tensor(BOUNDS["high"]), torch.tensor(BOUNDS["low"])
    for candidates in [*seen, plan.actions[:, None]]:
        assert (candidates <= high + 1e-6).all()
        assert (candidates >= low - 1e-6).all()
    assert plan.num_evaluations == sum(candidates.shape[1] for candidates in seen)


@pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: type(planner).__name__)
def test_the_same_generator_gives_the_same_plan(planner):
    plans = [planner.plan(distance, batch_size=2, generator=seeded()).actions for _ in range(2)]
    assert plans[0].equal(plans[1])


def test_a_proposal_that_is_perfect_is_kept():
    perfect = TARGET[:, None, None].expand(2, 1, 5, 2)
    for planner in (CEM(**BOUNDS, num_candidates=30, num_elites=5, executes="best"), RandomShooting(**BOUNDS)):
        plan = planner.plan(distance, batch_size=2, proposals=perfect, generator=seeded())
        torch.testing.assert_close(plan.actions, perfect[:, 0])
        assert plan.cost.abs().max() < 1e-6


def test_the_best_candidate_of_any_iteration_is_told():
    costs = []

    def cost(candidates):
        costs.append(distance(candidates))
        return costs[-1]

    plan = CEM(**BOUNDS, num_candidates=20, num_elites=5).plan(cost, batch_size=2, generator=seeded())
    torch.testing.assert_close(plan.cost, torch.stack([c.min(1).values for c in costs]).min(0).values)


def test_a_plan_shifted_by_one_step_starts_the_next():
    planner = CEM(**BOUNDS, num_candidates=50, num_elites=5)
    plan = planner.plan(distance, batch_size=2, generator=seeded())
    shifted = plan.shifted()
    assert shifted[:, :-1].equal(plan.mean[:, 1:])
    assert shifted[:, -1].equal(plan.mean[:, -1])
    few = CEM(**BOUNDS, num_candidates=10, num_elites=5, num_iterations=1, std=0.01)
    again = few.plan(distance, batch_size=2, warm_start=shifted, generator=seeded())
    assert (again.cost < 1.5 * plan.cost + 0.1).all()


# -- MPPI, exactly ----------------------------------------------------------------------------------------------------


def test_mppi_weighs_by_the_exponential_of_the_cost():
    planner = MPPI(**BOUNDS, num_candidates=4, gamma=0.5)
    seen = []

    def cost(candidates):
        seen.append(candidates)
        return torch.tensor([[3.0, 1.0, 2.0, 7.0]])

    plan = planner.plan(cost, generator=seeded())
    weights = torch.exp(-0.5 * torch.tensor([3.0, 1.0, 2.0, 7.0]))
    expected = (weights[:, None, None] * seen[0][0]).sum(0) / weights.sum()
    torch.testing.assert_close(plan.actions[0], expected)


def test_vp2s_noise_falls_to_its_stationary_strength():
    """beta = 0.5: std s at the first step, then (1 - b) / sqrt(1 - b^2) s = 0.577 s."""
    planner = MPPI.vp2([0.5, 0.1], num_candidates=20000)
    seen = []

    def cost(candidates):
        seen.append(candidates)
        return candidates.sum((2, 3))

    planner.plan(cost, generator=seeded())
    std = seen[0][0].std(0)
    torch.testing.assert_close(std[-1], torch.tensor([0.5, 0.1]) * 3**-0.5, rtol=0.03, atol=0)
    assert std[0, 1] == pytest.approx(0.1, rel=0.03)
    assert (planner.num_iterations, planner.horizon, planner.gamma) == (1, 10, 0.05)


# -- colored noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [7, 16])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_colored_noise_has_unit_variance_and_its_spectrum(horizon, exponent):
    noise = colored_noise(torch.randn(20000, horizon, 1, generator=seeded()), exponent)
    assert noise.square().mean().item() == pytest.approx(1, rel=0.05)
    power = torch.fft.rfft(noise, dim=1).abs().square().mean(0)[:, 0]
    assert (power[1] / power[2]).item() == pytest.approx(2**exponent, rel=0.1)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planner", "options", "message"),
    [
        (CEM, {"low": [1.0, -2.0]}, r"low must be below high in every dimension; it is not in \[0\]"),
        (CEM, {"low": [0.0]}, "as many values as an action"),
        (CEM, {"high": [1.0, float("inf")]}, "low and high must be finite"),
        (CEM, {"horizon": 0}, "horizon must be at least 1"),
        (CEM, {"num_elites": 1}, "num_elites must be from 2"),
        (CEM, {"momentum": 1.0}, "momentum must be"),
        (CEM, {"executes": "worst"}, "executes must be"),
        (CEM, {"std": [0.1]}, "std must be one value or 2"),
        (CEM, {"std": -1.0}, "std must be finite, 0 or more, and not 0 in every dimension, got -1.0"),
        (CEM, {"std": [0.1, float("inf")]}, "std must be finite"),
        (CEM, {"std": [0.1, float("nan")]}, "std must be finite"),
        (CEM, {"std": 0.0}, "not 0 in every dimension"),
        (ICEM, {"keep_best": False}, "iCEM carries the best candidates over in any case"),
        (ICEM, {"kept_fraction": 5.0}, r"kept_fraction must be in \[0, 1\]"),
        (ICEM, {"decay": 0.0}, "decay must be at least 1"),
        (MPPI, {"gamma": 0.0}, "gamma must be positive"),
        (MPPI, {"gamma": float("inf")}, "gamma must be positive and finite"),
        (MPPI, {"noise_filter": 1.0}, "noise_filter must be"),
    ],
)
def test_settings_are_checked(planner, options, message):
    with pytest.raises(ValueError, match=message):
        planner(**(BOUNDS | options))


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda candidates: candidates.sum((2, 3))[:, 0], "one value per candidate"),
        (lambda candidates: candidates.sum((2, 3)) * float("nan"), "not finite"),
    ],
)
def test_costs_are_checked(cost, message):
    with pytest.raises(ValueError, match=message):
        CEM(**BOUNDS).plan(cost)


def test_warm_starts_and_proposals_are_checked():
    with pytest.raises(ValueError, match="warm_start must have shape"):
        CEM(**BOUNDS).plan(distance, batch_size=2, warm_start=torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="more than the 20 candidates"):
        CEM(**BOUNDS, num_candidates=20).plan(distance, batch_size=2, proposals=torch.zeros(2, 21, 5, 2))


def test_bounds_that_a_checkpoint_does_not_tell_are_refused():
    with pytest.raises(ValueError, match=r"spec\.action_bounds .* convert-data with --action-low and --action-high"):
        CEM(low=None, high=None, horizon=5)
