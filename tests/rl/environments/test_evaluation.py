"""Success of policies over fixed episodes."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from ivideogpt_hf.media.video import read_video
from ivideogpt_hf.planning.trials import wilson_interval
from ivideogpt_hf.rl.environments.evaluation import PolicyEvaluation, evaluate_policy
from ivideogpt_hf.rl.environments.simulator import SimulatorEnv


def make(**options):
    return SimulatorEnv(
        "push2d", (16, 16), **({"purpose": "evaluation", "action_repeat": 1, "max_steps": 20} | options)
    )


class Expert:
    """Acts as the expert, which sees more than frames."""

    def __init__(self, environment):
        self.environment = environment

    def predict(self, observation, deterministic=False):
        assert deterministic
        return np.clip(self.environment.simulator.expert_action(), -1, 1), None


class Still:
    """Does nothing, and notes what it saw."""

    def __init__(self):
        self.seen = []

    def predict(self, observation, deterministic=False):
        self.seen.append(observation)
        return np.zeros(2, np.float32), None


def test_success_is_counted_over_the_episodes():
    environment = make()
    expert, still = (evaluate_policy(p, environment, range(4)).record() for p in (Expert(environment), Still()))
    assert (expert["success"], still["success"]) == (1.0, 0.0)
    assert expert["return"] > 0 > still["return"]
    assert expert["num_episodes"] == 4
    assert expert["length"] == 20


def test_the_interval_is_wilsons():
    record = PolicyEvaluation((True,) * 3 + (False,) * 7, (1.0,) * 10, (5,) * 10).record()
    assert record["success"] == 0.3
    assert (record["low"], record["high"]) == (0.1078, 0.6032)
    assert wilson_interval(3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-4)


def test_returns_and_lengths_are_means():
    record = PolicyEvaluation((True, False), (1.0, 2.0), (4, 7)).record()
    assert (record["return"], record["length"]) == (1.5, 5.5)


def test_without_a_test_of_success_there_is_none():
    record = PolicyEvaluation(None, (1.0,), (4,)).record()
    assert record["success"] is record["low"] is record["high"] is None


def test_every_evaluation_has_the_same_episodes():
    environment, policies = make(max_steps=2), [Still(), Still()]
    for policy in policies:
        evaluate_policy(policy, environment, (5, 3))
        environment.reset()
    np.testing.assert_array_equal(policies[0].seen, policies[1].seen)


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_seeds_must_be_there_and_differ(seeds):
    with pytest.raises(ValueError, match="needs seeds that all differ"):
        evaluate_policy(Still(), make(), seeds)


def test_episodes_of_the_training_are_refused():
    with pytest.raises(ValueError, match="purpose 'evaluation', got 'training'"):
        evaluate_policy(Still(), make(purpose="training"))


def test_the_first_episode_can_be_seen(tmp_path):
    evaluate_policy(Still(), make(max_steps=4), (7, 8), video=tmp_path / "videos" / "episode.gif")
    frames = read_video(tmp_path / "videos" / "episode.gif")
    assert frames.shape == (5, 3, 192, 192)


def test_an_algorithm_of_stable_baselines_is_a_policy():
    algorithms = pytest.importorskip("stable_baselines3")
    agent = algorithms.SAC("MlpPolicy", make(purpose="training"), buffer_size=10)
    assert evaluate_policy(agent, make(max_steps=2), range(2)).record()["num_episodes"] == 2
