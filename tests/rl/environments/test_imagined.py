"""Imagined worlds as stable-baselines3 wants its environments."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from ivideogpt_hf import WorldModelVectorEnv
from ivideogpt_hf.rl.environments.imagined import ImaginedWorlds
from tests.conftest import build_world, random_frames

BOUNDS = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


@pytest.fixture
def environment():
    world = build_world(action_dim=2, predict_reward=True)
    return ImaginedWorlds(WorldModelVectorEnv(world, random_frames(3, 2), 2, horizon=3, frame_stack=3, **BOUNDS))


def test_an_episode_ends_with_its_last_observation_and_is_bootstrapped(environment):
    environment.seed(1)
    observations = environment.reset()
    assert observations.shape == (2, 9, 16, 16)
    actions = np.zeros((2, 2), np.float32)
    for step in range(3):
        before = observations
        observations, rewards, dones, infos = environment.step(actions)
        assert rewards.dtype == np.float32
        assert dones.tolist() == [step == 2] * 2
    for row, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        last = info["terminal_observation"]
        assert np.array_equal(last[:6], before[row, 3:])
        assert not np.array_equal(last, observations[row])


def test_a_seed_counts_for_the_next_reset(environment):
    episodes = []
    for _ in range(2):
        environment.seed(7)
        first = environment.reset()
        after, *_ = environment.step(np.ones((2, 2), np.float32))
        episodes.append((first, after))
    assert np.array_equal(episodes[0][0], episodes[1][0])
    assert np.array_equal(episodes[0][1], episodes[1][1])
    assert environment._seeds == [None, None]


def test_attributes_are_shared(environment):
    assert environment.get_attr("horizon") == [3, 3]
    assert environment.env_is_wrapped(object) == [False, False]
    with pytest.raises(NotImplementedError, match="share their attributes"):
        environment.set_attr("horizon", 4)
    with pytest.raises(NotImplementedError, match="no methods of their own"):
        environment.env_method("reset")


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_other_autoreset_modes_are_refused(mode):
    world = build_world(action_dim=2, predict_reward=True)
    worlds = WorldModelVectorEnv(world, random_frames(3, 2), 2, horizon=3, autoreset_mode=mode, **BOUNDS)
    with pytest.raises(ValueError, match=f"with autoreset_mode 'SameStep', got '{mode}'"):
        ImaginedWorlds(worlds)
