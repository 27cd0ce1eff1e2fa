"""Demonstrations by scripted experts, and cloning."""

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from ivideogpt_hf.rl.environments.demonstrations import ATTEMPTS, Demonstrations, MeanActionPolicy, clone, demonstrate
from ivideogpt_hf.rl.environments.simulator import RealEpisode, SimulatorEnv
from ivideogpt_hf.simulators.push2d import Push2DSimulator


def make(name="push2d", **options):
    return SimulatorEnv(name, (16, 16), **({"purpose": "demonstration", "action_repeat": 1, "max_steps": 30} | options))


@pytest.fixture(scope="module")
def demonstrations():
    return demonstrate(make(), 3)


class Linear(torch.nn.Module):
    """Mean actions from the pixels of the newest frame."""

    def __init__(self, action_dim=2):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, action_dim))

    def forward(self, observations):
        return self.layers(observations[:, -3:].float() / 125 - 1)


def policy_of(network):
    low = np.full(2, -1, np.float32)
    return MeanActionPolicy(network, low, -low)


# -- demonstrations ---------------------------------------------------------------------------------------------------


def test_episodes_have_one_frame_more_than_actions(demonstrations):
    for episode in demonstrations.episodes:
        assert episode.frames.shape == (31, 3, 16, 16)
        assert (episode.actions.shape, episode.rewards.shape) == ((30, 2), (30,))
        assert (episode.frames.dtype, episode.actions.dtype) == (np.uint8, np.float32)
        assert episode.rewards.dtype == np.float32


def test_every_demonstration_was_solved(demonstrations):
    assert all(episode.success for episode in demonstrations.episodes)
    assert all((episode.rewards > 9).any() for episode in demonstrations.episodes)  # the bonus


def test_actions_are_clipped_to_the_bounds(demonstrations):
    environment = make()
    environment.simulator.reset(demonstrations.episodes[0].episode_seed)
    raw = []
    for action in demonstrations.episodes[0].actions:
        raw.append(environment.simulator.expert_action())
        environment.simulator.step(action)
    assert np.abs(raw).max() > 1  # else the test says nothing
    np.testing.assert_array_equal(demonstrations.episodes[0].actions, np.clip(raw, -1, 1))


def test_demonstrations_belong_to_their_seed(demonstrations):
    again, other = demonstrate(make(), 3), demonstrate(make(), 3, seed=1)
    for episode, same in zip(demonstrations.episodes, again.episodes, strict=True):
        np.testing.assert_array_equal(episode.frames, same.frames)
    seeds = {episode.episode_seed for group in (again, other) for episode in group.episodes}
    assert len(seeds) == 6


def test_an_episode_that_failed_is_replaced_and_told(demonstrations, monkeypatch):
    """The expert does nothing in the first episode."""
    failing, act = demonstrations.episodes[0].episode_seed, Push2DSimulator.expert_action
    current = []
    reset = Push2DSimulator.reset
    monkeypatch.setattr(Push2DSimulator, "reset", lambda self, seed: (current.append(seed), reset(self, seed))[1])
    monkeypatch.setattr(
        Push2DSimulator, "expert_action", lambda self: np.zeros(2) if current[-1] == failing else act(self)
    )
    result = demonstrate(make(), 2)
    assert result.failed_seeds == (failing,)
    expected = [episode.episode_seed for episode in demonstrations.episodes[1:]]
    assert [episode.episode_seed for episode in result.episodes] == expected
    assert str(result) == ("2 demonstrations of 60 steps in all; left out: 1 episode that the expert did not solve")


def test_an_expert_that_fails_too_often_is_refused(monkeypatch):
    monkeypatch.setattr(Push2DSimulator, "expert_action", lambda self: np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=f"expert of push2d solved 0 of {2 * ATTEMPTS} episodes of 2 steps, and 2 are"):
        demonstrate(make(max_steps=2), 2)


def test_without_an_expert_there_is_an_error():
    pytest.importorskip("pygame", reason="it draws with pygame")
    with pytest.raises(ValueError, match="no scripted expert"):
        demonstrate(make("Pendulum-v1"), 1)


def test_other_purposes_are_refused():
    with pytest.raises(ValueError, match="purpose 'demonstration', got 'training'"):
        demonstrate(make(purpose="training"), 1)


def test_the_number_must_be_positive():
    with pytest.raises(ValueError, match="num_episodes must be at least 1, got 0"):
        demonstrate(make(), 0)


# -- cloning ----------------------------------------------------------------------------------------------------------


def test_a_clone_acts_as_it_was_shown():
    """In frames of one colour the action is a function of the colour."""
    colours = np.arange(0, 250, 10)
    actions = np.stack([colours / 125 - 1, 1 - colours / 125], 1).astype(np.float32)[:-1]
    frames = np.broadcast_to(colours[:, None, None, None], (len(colours), 3, 16, 16)).astype(np.uint8)
    rewards = np.zeros(len(actions), np.float32)
    shown = Demonstrations((RealEpisode(frames, actions, rewards, success=True, episode_seed=0),), ())
    network = Linear()
    policy = policy_of(network)
    losses = clone(policy, torch.optim.Adam(network.parameters(), 1e-4), shown, num_updates=400, batch_size=32)
    assert losses[-1] < 1e-2 < losses[0]
    observation = np.full((9, 16, 16), 100, np.uint8)
    np.testing.assert_allclose(policy.predict(observation)[0], [-0.2, 0.2], atol=0.1)


def test_a_clone_belongs_to_its_seed(demonstrations):
    losses = []
    for seed in (0, 0, 1):
        network = Linear()
        optimizer = torch.optim.SGD(network.parameters(), 1e-4)
        losses.append(clone(policy_of(network), optimizer, demonstrations, num_updates=3, batch_size=8, seed=seed))
    assert losses[0] == losses[1] != losses[2]


def test_targets_are_scaled_to_the_networks_range():
    frames = np.zeros((2, 3, 16, 16), np.uint8)
    episode = RealEpisode(
        frames, np.array([[512, 0]], np.float32), np.zeros(1, np.float32), success=True, episode_seed=0
    )
    network = Linear()
    torch.nn.init.zeros_(network.layers[1].weight)
    network.layers[1].bias.data = torch.tensor([1.0, -1.0])
    policy = MeanActionPolicy(network, np.zeros(2, np.float32), np.full(2, 512, np.float32))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    assert clone(policy, optimizer, Demonstrations((episode,), ()), num_updates=1) == [0]
    assert policy.predict(np.zeros((9, 16, 16), np.uint8))[0].tolist() == [512, 0]


def test_observations_are_augmented_before_the_network_sees_them(demonstrations):
    seen = []

    def grey(observations):
        seen.append(observations.shape)
        return torch.full_like(observations, 125)

    network = Linear()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    clone(policy_of(network), optimizer, demonstrations, num_updates=2, batch_size=4, augment=grey)
    weight, bias = network.layers[1].weight, network.layers[1].bias
    assert seen == [(4, 9, 16, 16)] * 2
    assert torch.equal(weight, Linear().layers[1].weight)  # grey pixels are zeros to it, and have no gradient
    assert not torch.equal(bias, Linear().layers[1].bias)


@pytest.mark.parametrize("name", ["num_updates", "batch_size", "num_stack"])
def test_numbers_must_be_positive(demonstrations, name):
    network = Linear()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        clone(policy_of(network), optimizer, demonstrations, **({"num_updates": 1} | {name: 0}))


def test_a_network_with_another_action_width_is_refused(demonstrations):
    network = Linear(3)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"gives actions \(64, 3\), the batch has \(64, 2\)"):
        clone(policy_of(network), optimizer, demonstrations, num_updates=1)


def test_a_mean_has_no_noise():
    with pytest.raises(ValueError, match="pass deterministic=True"):
        policy_of(Linear()).predict(np.zeros((9, 16, 16), np.uint8), deterministic=False)
