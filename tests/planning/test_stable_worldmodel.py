"""The contract of stable-worldmodel's solvers: an expanded observation in, one cost per candidate out."""

import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.planning.costs import RolloutCost
from ivideogpt_hf.planning.objectives import PixelError, RewardSum
from ivideogpt_hf.planning.stable_worldmodel import CostableWorldModel
from tests.conftest import random_actions, random_frames

SAMPLING = Sampling(seed=0, common_random_numbers=True)
B, S, H = 2, 5, 3


def info_of(frames, goal):
    """As its solvers expand them: float images, no copies."""
    expand = lambda x: (x.float() / 255)[:, None].expand(-1, S, -1, -1, -1, -1)  # noqa: E731
    return {"pixels": expand(frames), "goal": expand(goal[:, None]), "id": torch.zeros(B, S)}


def test_costs_are_those_of_rollouts(world):
    frames, goal, actions = random_frames(B, 2), random_frames(B, seed=4), random_actions(B, S, H, 3)
    costs = CostableWorldModel(world, sampling=SAMPLING).get_cost(info_of(frames, goal), actions)
    expected = RolloutCost(world, world.reset(frames), PixelError(goal), sampling=SAMPLING)(actions)
    torch.testing.assert_close(costs, expected)


def test_a_single_frame_is_repeated_and_another_objective_taken(world):
    frames, actions = random_frames(B, 1), random_actions(B, S, H, 3)
    costable = CostableWorldModel(world, lambda goal: RewardSum(), sampling=SAMPLING)
    costs = costable.criterion(info_of(frames, random_frames(B)), actions)
    expected = RolloutCost(world, world.reset(frames.repeat(1, 2, 1, 1, 1)), RewardSum(), sampling=SAMPLING)(actions)
    torch.testing.assert_close(costs, expected)


def test_an_observation_is_coded_once_for_all_iterations(world):
    coded = []
    hook = world.vq_model.encoder.register_forward_pre_hook(lambda _, inputs: coded.append(len(inputs[0])))
    costable = CostableWorldModel(world, sampling=SAMPLING)
    for seed in range(3):
        costable.get_cost(info_of(random_frames(B, 2), random_frames(B)), random_actions(B, S, H, 3, seed=seed))
    costable.get_cost(info_of(random_frames(B, 2, seed=1), random_frames(B)), random_actions(B, S, H, 3))
    hook.remove()
    assert coded == [2 * B, 2 * B]


def test_what_does_not_fit_is_refused(world):
    costable, actions = CostableWorldModel(world), random_actions(B, S, H, 3)
    info = info_of(random_frames(B, 2), random_frames(B))
    with pytest.raises(ValueError, match="holds no 'goal'"):
        costable.get_cost({"pixels": info["pixels"]}, actions)
    with pytest.raises(ValueError, match="pixels must be"):
        costable.get_cost(info | {"pixels": info["pixels"][:, 0]}, actions)
