"""Planning in the loop: in a tiny world that is its own environment."""

from dataclasses import replace

import pytest
import torch

from ivideogpt_hf import Sampling
from ivideogpt_hf.planning.objectives import RewardSum
from ivideogpt_hf.planning.planners import CEM, MPPI
from ivideogpt_hf.planning.policy import PlannerPolicy
from tests.conftest import build_world, random_frames

PLANNER = CEM(low=[-2.0] * 3, high=[2.0] * 3, horizon=3, num_candidates=24, num_elites=4, num_iterations=2)


@pytest.fixture
def policy(world):
    return PlannerPolicy(world, PLANNER, RewardSum(), seed=0)


def total_reward(world, choose, num_steps=4):
    """What a way to choose actions earns in the world itself, where nothing is left to chance."""
    frames = random_frames(2, 2)
    state, frame, total = world.reset(frames), frames[:, -1], 0
    for _ in range(num_steps):
        step, state = world.step(state, choose(frame), sampling=Sampling(greedy=True))
        frame, total = step.frame, total + step.reward
    return total


def test_planning_earns_more_than_doing_nothing():
    """In a world in which actions mean more than luck."""
    world = build_world(action_dim=3, predict_reward=True, initializer_range=0.05)
    policy = PlannerPolicy(world, PLANNER, RewardSum())
    planned = total_reward(world, policy.select_action)
    assert (planned > total_reward(world, lambda frame: torch.zeros(2, 3))).all()


def test_an_episode_can_be_repeated(world, policy):
    first = total_reward(world, policy.select_action)
    policy.reset()
    assert total_reward(world, policy.select_action).equal(first)


def test_several_actions_of_a_plan_are_executed(world):
    policy = PlannerPolicy(world, PLANNER, RewardSum(), replan_every=2)
    first = policy.select_action(random_frames(1))
    plan = policy.last_plan
    second = policy.select_action(random_frames(1, seed=1))
    assert policy.last_plan is plan
    assert torch.stack([first, second], dim=1).equal(plan.actions[:, :2])
    policy.select_action(random_frames(1, seed=2))
    assert policy.last_plan is not plan


def test_the_plan_before_starts_the_next(world):
    still = MPPI(low=[-2.0] * 3, high=[2.0] * 3, horizon=3, num_candidates=8, std=1e-6)
    policy = PlannerPolicy(world, still, RewardSum())
    policy.select_action(random_frames(1))
    policy.last_plan.mean[:] = torch.tensor([[1.0], [0.5], [-0.5]])
    action = policy.select_action(random_frames(1, seed=1))
    torch.testing.assert_close(action, torch.full((1, 3), 0.5), atol=1e-4, rtol=0)


def test_the_context_is_the_last_real_frames(world, policy, monkeypatch):
    seen = []
    reset = world.reset
    monkeypatch.setattr(world, "reset", lambda frames: (seen.append(frames), reset(frames))[1])
    frames = [random_frames(1, seed=seed) for seed in range(3)]
    for frame in frames:
        policy.select_action(frame)
    assert seen[0].equal(torch.stack([frames[0], frames[0]], dim=1))
    assert seen[2].equal(torch.stack(frames[1:], dim=1))


def test_predictions_are_drawn_at_the_temperature_that_is_asked_for(world):
    """So cold that luck has no say, plans follow the most likely future."""
    cold = [PlannerPolicy(world, PLANNER, RewardSum(), temperature=1e-4) for _ in range(2)]
    cold[1].sampling = replace(cold[1].sampling, greedy=True)
    first, second = (policy.predict_action_chunk(random_frames(1)) for policy in cold)
    assert first.equal(second)
    warm = PlannerPolicy(world, PLANNER, RewardSum(), temperature=5.0)
    assert not warm.predict_action_chunk(random_frames(1)).equal(first)


def test_vp2_begins_with_zeros(world):
    policy = PlannerPolicy(world, PLANNER, RewardSum(), first_action_zero=True)
    assert policy.select_action(random_frames(2)).equal(torch.zeros(2, 3))
    assert policy.last_plan is None
    assert policy.select_action(random_frames(2)).abs().sum() > 0


def test_lerobots_batches_are_read(policy):
    frame = random_frames(1)
    expected = policy.predict_action_chunk(frame)
    policy.reset()
    batch = {"observation.images.top": frame.float() / 255, "observation.state": torch.zeros(1, 4)}
    assert policy.predict_action_chunk(batch).equal(expected)
    assert expected.shape == (1, 3, 3)


def test_a_goal_conditioned_model_sees_its_goal():
    world = build_world(action_dim=3, predict_reward=True, goal_conditioned=True)
    goal = random_frames(1, seed=7)
    policy = PlannerPolicy(world, PLANNER, RewardSum(), goal=goal)
    assert policy.select_action(random_frames(1)).shape == (1, 3)
    with pytest.raises(ValueError, match="needs a goal"):
        PlannerPolicy(world, PLANNER, RewardSum())


def test_a_goal_is_given_as_observations_are():
    world = build_world(action_dim=3, predict_reward=True, goal_conditioned=True)
    goal, frame = random_frames(1, seed=7, size=32), random_frames(1)
    expected = PlannerPolicy(world, PLANNER, RewardSum(), goal=world.spec.resize_frames(goal)).select_action(frame)
    for given in (goal, goal.float() / 255):
        assert PlannerPolicy(world, PLANNER, RewardSum(), goal=given).select_action(frame).equal(expected)
    with pytest.raises(ValueError, match="2 frames, but 1 goal images"):
        PlannerPolicy(world, PLANNER, RewardSum(), goal=goal).select_action(random_frames(2))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"observation.state": 0}, "must hold one observation.image"),
        ({"observation.images.a": 0, "observation.images.b": 0}, "must hold one observation.image"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"frames must be \(B, 3, H, W\)"),
        (torch.full((1, 3, 16, 16), 1.5), r"floats in \[0, 1\]"),  # normalised by mean and deviation, perhaps
    ],
)
def test_observations_are_checked(policy, observation, message):
    with pytest.raises(ValueError, match=message):
        policy.select_action(observation)


def test_settings_are_checked(world, policy):
    wide = CEM(low=[-1.0] * 4, high=[1.0] * 4, horizon=3)
    with pytest.raises(ValueError, match="4 wide, the model's 3"):
        PlannerPolicy(world, wide, RewardSum())
    with pytest.raises(ValueError, match="replan_every must be from 1 to the horizon 3"):
        PlannerPolicy(world, PLANNER, RewardSum(), replan_every=4)
    with pytest.raises(ValueError, match="takes no goal"):
        PlannerPolicy(world, PLANNER, RewardSum(), goal=random_frames(1))
    policy.select_action(random_frames(1))
    with pytest.raises(ValueError, match="call reset before another batch"):
        policy.select_action(random_frames(2))
