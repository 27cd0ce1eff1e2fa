"""Agents by name: what they have in common, and what is refused."""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import DummyVecEnv

from ivideogpt_hf.rl.agents.by_name import OFF_POLICY, FrameFeatures, make_agent
from ivideogpt_hf.rl.agents.presets import preset
from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
from tests.rl.square import SquareEnv

STACKS = Box(0, 255, (9, 24, 24), np.uint8)
SMALL = {"buffer_size": 200, "learning_starts": 10, "batch_size": 4}


def make(name, **options):
    if name in ("tqc", "crossq"):
        pytest.importorskip("sb3_contrib")
    return make_agent(name, DummyVecEnv([SquareEnv]), "cpu", **SMALL | options)


@pytest.mark.parametrize("name", OFF_POLICY)
def test_all_agents_have_the_buffer_the_returns_and_the_rates_of_the_preset(name):
    agent = make(name, buffer={"real_ratio": 0.25, "max_imagined": 50})
    buffer = agent.replay_buffer
    assert isinstance(buffer, MixedReplayBuffer)
    assert (buffer.real_ratio, buffer.max_imagined, buffer.n_steps, buffer.gamma) == (0.25, 50, 3, agent.gamma)
    assert (agent.learning_rate, agent.batch_size) == (preset("cpu")["learning_rate"], 4)


@pytest.mark.parametrize("name", OFF_POLICY)
def test_all_agents_learn(name):
    agent = make(name).learn(14)
    assert agent._n_updates == 4 if name != "td3" else agent._n_updates >= 4
    action, _ = agent.predict(np.zeros((9, 24, 24), np.uint8), deterministic=True)
    assert -2 <= action[0] <= 6


def test_the_features_are_those_of_drqv2_s_encoder_and_leave_the_frames_alone():
    torch.manual_seed(0)
    features = FrameFeatures(STACKS, num_channels=4, strides=(2, 2), trunk_dim=6)
    frames = torch.randint(0, 256, (3, 9, 24, 24), dtype=torch.uint8)
    floats = frames.float()  # as policies of stable-baselines3 pass them on
    assert torch.equal(features(floats), features.trunk(features.encoder(frames)))
    assert torch.equal(floats, frames.float())


def test_an_unknown_agent_is_refused():
    with pytest.raises(ValueError, match="agent must be one of 'drqv2', 'sac'"):
        make("dqn")


def test_what_the_preset_says_may_be_overridden():
    assert make("sac", learning_rate=0.5).learning_rate == 0.5
