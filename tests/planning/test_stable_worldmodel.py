"""The contract of stable-worldmodel's solvers: an expanded observation in, one cost per candidate out."""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import gymnasium
import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.planning.costs import RolloutCost
from ivideogpt_hf.planning.objectives import ActionPenalty, PixelError, RewardSum, WeightedSum
from ivideogpt_hf.planning.stable_worldmodel import CostableWorldModel
from tests.conftest import build_world, random_actions, random_frames

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


def test_the_context_of_a_goal_conditioned_model_begins_with_the_goal():
    world = build_world(action_dim=3, goal_conditioned=True)
    frames, goal, actions = random_frames(B, 2), random_frames(B, seed=4), random_actions(B, S, H, 3)
    costs = CostableWorldModel(world, sampling=SAMPLING).get_cost(info_of(frames, goal), actions)
    state = world.reset(torch.stack([goal, frames[:, -1]], dim=1))
    torch.testing.assert_close(costs, RolloutCost(world, state, PixelError(goal), sampling=SAMPLING)(actions))


def test_an_observation_is_coded_once_for_all_iterations(world):
    coded = []
    hook = world.vq_model.encoder.register_forward_pre_hook(lambda _, inputs: coded.append(len(inputs[0])))
    costable = CostableWorldModel(world, sampling=SAMPLING)
    for seed in range(3):
        costable.get_cost(info_of(random_frames(B, 2), random_frames(B)), random_actions(B, S, H, 3, seed=seed))
    costable.get_cost(info_of(random_frames(B, 2, seed=1), random_frames(B)), random_actions(B, S, H, 3))
    hook.remove()
    assert coded == [2 * B, 2 * B]


@pytest.fixture
def solvers(monkeypatch):
    """stable_worldmodel.solver alone: all of the package can be imported only with torchvision."""
    spec = importlib.util.find_spec("stable_worldmodel")
    if spec is None:
        pytest.skip("stable-worldmodel is not installed")
    package = ModuleType(spec.name)
    package.__path__ = spec.submodule_search_locations
    monkeypatch.setitem(sys.modules, spec.name, package)
    return importlib.import_module(f"{spec.name}.solver")


@pytest.mark.parametrize("name", ["CEMSolver", "ICEMSolver", "MPPISolver", "PredictiveSamplingSolver"])
def test_its_own_solvers_find_better_actions_than_they_begin_with(solvers, name, world):
    costable = CostableWorldModel(
        world, lambda goal: WeightedSum([(1, PixelError(goal)), (1, ActionPenalty())]), sampling=SAMPLING
    )
    observation = {"pixels": random_frames(B, 2).float() / 255, "goal": random_frames(B, 1, seed=4).float() / 255}
    bounds = gymnasium.spaces.Box(-1.0, 1.0, (B, 3))
    solver = getattr(solvers, name)(costable, num_samples=32)
    solver.configure(action_space=bounds, n_envs=B, config=SimpleNamespace(horizon=H, action_block=1))
    begun = torch.ones(B, H, 3)
    found = solver.solve(dict(observation), init_action=begun.clone())["actions"]
    info = {key: value[:, None] for key, value in observation.items()}
    before, after = (costable.get_cost(info, actions[:, None]) for actions in (begun, found))
    assert (after < before).all()


def test_what_does_not_fit_is_refused(world):
    costable, actions = CostableWorldModel(world), random_actions(B, S, H, 3)
    info = info_of(random_frames(B, 2), random_frames(B))
    with pytest.raises(ValueError, match="must hold 'goal'"):
        costable.get_cost({"pixels": info["pixels"]}, actions)
    with pytest.raises(ValueError, match="pixels must be"):
        costable.get_cost(info | {"pixels": info["pixels"][:, 0]}, actions)
    with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
        costable.get_cost(info | {"pixels": 2 * info["pixels"]}, actions)
