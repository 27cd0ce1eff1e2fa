"""An agent's actions as candidates of a planner."""

import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("accelerate")

from ivideogpt_hf import CEM, PlannerPolicy, RandomShooting
from ivideogpt_hf.planning.objectives import RewardSum
from ivideogpt_hf.rl.imagination.proposals import AgentProposals
from tests.conftest import build_world, random_frames
from tests.rl.imagination.test_experience import make_agent

BOUNDS = {"low": [-1.0, -1.0], "high": [1.0, 1.0], "horizon": 3}


@pytest.fixture(scope="module")
def acting_world():
    return build_world(action_dim=2, predict_reward=True)


def make(world, num_candidates=4, **options):
    agent = make_agent()
    agent.policy.action_std = agent.action_std
    return AgentProposals(agent, world, num_candidates=num_candidates, **{"horizon": 3} | options)


def test_candidates_are_what_the_agent_does_in_imagined_futures(acting_world):
    proposals = make(acting_world)
    proposals.agent.std_start = proposals.agent.std_end = 0.0
    frames = random_frames(2, 3)
    candidates = proposals(frames, acting_world.reset(frames[:, -2:]))
    assert candidates.shape == (2, 4, 3, 2)
    mean, _ = proposals.agent.predict(frames.flatten(1, 2).numpy(), deterministic=True)
    for number in range(4):
        assert torch.allclose(candidates[:, number, 0], torch.from_numpy(mean), atol=1e-5)


def test_a_plan_costs_at_most_what_the_best_proposal_costs(acting_world):
    proposals, seen = make(acting_world), []

    class Watched:
        num_frames = 3

        def __call__(self, frames, state):
            seen.append(proposals(frames, state))
            return seen[-1]

    for planner in (CEM(**BOUNDS, num_candidates=6, num_iterations=3, num_elites=2), RandomShooting(**BOUNDS)):
        policy = PlannerPolicy(acting_world, planner, RewardSum(), proposals=Watched())
        policy.select_action(random_frames(2))
        costs = policy._make_cost()
        costs._sampling_of_futures = policy_sampling(policy)
        assert (policy.last_plan.cost <= costs(seen[-1]).min(dim=1).values + 1e-4).all()


def policy_sampling(policy):
    """Of the plan that was made first."""
    from dataclasses import replace

    from ivideogpt_hf.planning.replanning import derived_seed

    return [replace(policy.sampling, seed=derived_seed(policy.seed, 0))]


def test_proposals_beside_the_same_candidates_never_make_a_plan_worse(acting_world):
    """Within an iteration: what comes after follows from what was found."""
    frames = random_frames(3)
    for seed in range(3):
        costs = []
        for count, proposals in ((6, None), (10, make(acting_world, seed=seed))):
            planner = CEM(**BOUNDS, num_candidates=count, num_iterations=1, num_elites=2)
            policy = PlannerPolicy(acting_world, planner, RewardSum(), proposals=proposals, seed=seed)
            policy.select_action(frames)
            costs.append(policy.last_plan.cost)
        assert (costs[1] <= costs[0] + 1e-4).all()


def test_the_agent_sees_the_frames_that_were_seen(acting_world):
    seen = []

    class Watched:
        num_frames = 3

        def __call__(self, frames, state):
            seen.append(frames)
            return torch.zeros(1, 1, 3, 2)

    planner = RandomShooting(**BOUNDS, num_candidates=2)
    policy = PlannerPolicy(acting_world, planner, RewardSum(), proposals=Watched())
    frames = random_frames(4)
    for frame in frames:
        policy.select_action(frame[None])
    assert torch.equal(seen[0][0], frames[:1].expand(3, -1, -1, -1))
    assert torch.equal(seen[1][0], frames[[0, 0, 1]])
    assert torch.equal(seen[3][0], frames[1:])


def test_an_agent_that_does_not_fit_is_refused(acting_world):
    with pytest.raises(ValueError, match="are 2 wide, the world takes 3"):
        make(build_world(action_dim=3))
    with pytest.raises(ValueError, match="the horizon must be 1 to 6 steps"):
        make(acting_world, horizon=7)
