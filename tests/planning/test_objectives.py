"""Objectives on rollouts that are made by hand, and costs on a tiny world."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.planning import objectives
from ivideogpt_hf.planning.costs import RolloutCost
from ivideogpt_hf.planning.objectives import (
    ActionPenalty,
    FeatureError,
    PerceptualError,
    PixelError,
    RewardSum,
    SuccessClassifier,
    TerminalValue,
    TokenError,
    Uncertainty,
    WeightedSum,
)
from tests.conftest import random_actions, random_frames

B, N, H = 2, 3, 4
GUIDE = Path(__file__).parents[2] / "docs/guides/planning.md"


@pytest.fixture(scope="module")
def rollout(world):
    return world.rollout(random_frames(B, 2), random_actions(B, N, H, 3), sampling=Sampling(seed=0))


@pytest.fixture(scope="module")
def actions():
    return random_actions(B, N, H, 3)


def test_pixel_error_is_of_the_last_or_of_all_frames(rollout, actions):
    goal = random_frames(B, seed=3)
    frames, wanted = rollout.frames.float() / 255, goal[:, None].float() / 255
    last = (frames[:, :, -1] - wanted).square().flatten(2)
    torch.testing.assert_close(PixelError(goal)(rollout, actions), last.mean(2))
    everything = PixelError(goal, frames="all", reduction="sum")(rollout, actions)
    torch.testing.assert_close(everything, (frames - wanted[:, None]).square().flatten(2).sum(2))


def test_the_goal_itself_costs_nothing(rollout, actions):
    goal = rollout.frames[:, 1, -1]
    means = lambda frames: frames.float().mean((2, 3))  # noqa: E731
    distance = lambda one, other: (one - other).abs().mean((1, 2, 3))  # noqa: E731
    for objective in (PixelError(goal), FeatureError(goal, means), PerceptualError(goal, distance)):
        costs = objective(rollout, actions)
        assert costs.shape == (B, N)
        assert (costs[:, 1] == 0).all()
        assert (costs[:, 0] > 0).all()
    tokens = TokenError(rollout.tokens[:, 1, -1])(rollout, actions)
    assert (tokens[:, 1] == 0).all()


def test_rewards_are_discounted_and_counted_as_gain(rollout, actions):
    weights = torch.tensor([1, 0.5, 0.25, 0.125])
    torch.testing.assert_close(RewardSum(0.5)(rollout, actions), -(weights * rollout.rewards).sum(2))


def test_classifiers_and_values_are_gains(rollout, actions):
    brightness = lambda frames: frames.float().mean((1, 2, 3))  # noqa: E731
    expected = rollout.frames.float().mean((3, 4, 5))
    torch.testing.assert_close(SuccessClassifier(brightness)(rollout, actions), -expected.sum(2))
    torch.testing.assert_close(TerminalValue(brightness, 0.5)(rollout, actions), -expected[:, :, -1] / 2**H)


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="give at least one pair"):
        WeightedSum([])


def test_penalties_and_sums(rollout, actions):
    penalty, doubt = ActionPenalty()(rollout, actions), Uncertainty()(rollout, actions)
    torch.testing.assert_close(penalty, actions.square().flatten(2).sum(2))
    torch.testing.assert_close(doubt, -rollout.log_probs.sum(2))
    both = WeightedSum([(2.0, ActionPenalty()), (0.5, Uncertainty())])
    torch.testing.assert_close(both(rollout, actions), 2 * penalty + doubt / 2)


def test_only_what_is_read_is_computed(world, actions):
    decoded = []
    hook = world.vq_model.cond_decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    state, goal = world.reset(random_frames(B, 2)), random_frames(B)
    for objective, frames in (
        (RewardSum(), 0),
        (WeightedSum([(1.0, PixelError(goal)), (1.0, RewardSum())]), B * N),
        (WeightedSum([(1.0, PixelError(goal)), (1.0, PixelError(goal, frames="all"))]), B * N * H),
    ):
        decoded.clear()
        RolloutCost(world, state, objective)(actions)
        assert sum(decoded) == frames
    hook.remove()


# -- costs ------------------------------------------------------------------------------------------------------------


def test_chunks_change_nothing(world, actions):
    state = world.reset(random_frames(B, 2))
    costs = [
        RolloutCost(world, state, RewardSum(), sampling=Sampling(seed=1, common_random_numbers=True), chunk_size=size)
        for size in (None, 2)
    ]
    torch.testing.assert_close(costs[0](actions), costs[1](actions), atol=1e-4, rtol=1e-4)


def test_candidates_differ_by_their_actions_only(world):
    state = world.reset(random_frames(B, 2))
    same = random_actions(B, 1, H, 3).expand(-1, N, -1, -1)
    costs = RolloutCost(world, state, RewardSum())(same)
    torch.testing.assert_close(costs, costs[:, :1].expand(-1, N), atol=1e-4, rtol=1e-4)


def test_several_futures_are_averaged(world, actions):
    state = world.reset(random_frames(B, 2))
    one, other, both = (
        RolloutCost(world, state, RewardSum(), num_futures=count, sampling=Sampling(seed=seed))(actions)
        for count, seed in ((1, 5), (1, 6), (2, 5))
    )
    torch.testing.assert_close(both, (one + other) / 2, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused(world, free_world, rollout, actions):
    with pytest.raises(ValueError, match=r"the goal must be uint8 of shape \(2, 3, 16, 16\)"):
        PixelError(random_frames(B, size=8))(rollout, actions)
    with pytest.raises(ValueError, match="no reward head"):
        RewardSum()(dataclasses.replace(rollout, rewards=None), actions)
    with pytest.raises(ValueError, match=r"tokens must have shape \(2, 4\)"):
        TokenError(torch.zeros(2, 5, dtype=torch.int64))(rollout, actions)
    with pytest.raises(ValueError, match="num_futures must be at least 1"):
        RolloutCost(world, rollout.state, RewardSum(), num_futures=0)
    with pytest.raises(ValueError, match="must be one number"):
        RolloutCost(world, rollout.state, RewardSum(), sampling=Sampling(seed=[1, 2]))


def test_the_guide_names_every_objective():
    rows = re.findall(r"^\| (`[A-Z].*?) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    classes = [kind for _, kind in inspect.getmembers(objectives, dataclasses.is_dataclass)]
    own = {kind.__name__ for kind in classes if kind.__module__ == objectives.__name__}
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == own
