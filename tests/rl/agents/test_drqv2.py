"""DrQ-v2: what its losses train, how it acts, and that it is an algorithm of stable-baselines3 like any other."""

import copy
import json

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from ivideogpt_hf.rl.agents.drqv2 import DrQv2
from ivideogpt_hf.rl.agents.presets import preset
from ivideogpt_hf.rl.replay.buffer import MixedReplayBuffer
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.rl.square import SquareEnv
from tests.started import HUB_PORT, Started

SMALL = {
    "learning_starts": 20,
    "buffer_size": 2000,
    "batch_size": 8,
    "std_steps": 100,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"num_channels": 4, "strides": (2, 2), "hidden_dim": 16, "trunk_dim": 8},
}


def make_agent(env=None, **options):
    agent = DrQv2("CnnPolicy", env or SquareEnv(), **SMALL | options)
    agent.set_logger(configure(None, []))
    return agent


def observations(size=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, 9, 24, 24)).astype(np.uint8)


def weights(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def is_same(before, module):
    return all(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))


# -- losses -----------------------------------------------------------------------------------------------------------


def test_the_actor_s_loss_leaves_the_encoder_as_it_is():
    agent = make_agent().learn(20)
    agent.critic.optimizer.step = lambda: None
    encoder, critic, actor = weights(agent.encoder), weights(agent.critic), weights(agent.actor)
    agent.train(1, 8)
    assert is_same(encoder, agent.encoder)
    assert is_same(critic, agent.critic)
    assert not is_same(actor, agent.actor)


def test_the_actor_s_loss_gives_no_gradient_to_encoder_and_critic():
    agent = make_agent().learn(20)
    agent.critic.optimizer.step = lambda: agent.policy.zero_grad()
    agent.train(1, 8)
    trained = [*agent.encoder.parameters(), *agent.critic.parameters()]
    assert all(parameter.grad is None for parameter in trained)
    assert all(parameter.grad is not None for parameter in agent.actor.parameters())


def test_the_critic_s_loss_alone_trains_the_encoder():
    agent = make_agent(learning_rate=1e-3).learn(20)
    agent.actor.optimizer.step = lambda: None
    encoder, actor = weights(agent.encoder), weights(agent.actor)
    agent.train(1, 8)
    assert not is_same(encoder, agent.encoder)
    assert is_same(actor, agent.actor)


def test_the_target_follows_the_critic_by_tau():
    agent = make_agent(tau=0.25).learn(20)
    before = weights(agent.policy.critic_target)
    agent.train(1, 8)
    for old, new, target in zip(
        before, agent.critic.parameters(), agent.policy.critic_target.parameters(), strict=True
    ):
        assert torch.allclose(target, 0.75 * old + 0.25 * new, atol=1e-6)


def test_targets_are_rewards_and_the_smaller_value_of_what_comes_after():
    agent = make_agent(max_shift=0, std_start=0, std_end=0, reward_scale=0.5, n_steps=2, gamma=0.9).learn(20)
    batch = agent.replay_buffer.sample(16)
    batch = batch._replace(dones=(torch.arange(16.0) % 2)[:, None])
    with torch.no_grad():
        features = agent.encoder(batch.next_observations)
        values = agent.policy.critic_target(features, agent.actor(features)).min(dim=0).values
    expected = 0.5 * batch.rewards + torch.where(batch.dones == 1, 0, batch.discounts * values)
    assert torch.allclose(agent._targets(batch), expected, atol=1e-6)
    assert set(batch.discounts.flatten().tolist()) <= {np.float32(0.9), np.float32(0.81)}


# -- acting -----------------------------------------------------------------------------------------------------------


def test_the_first_actions_are_uniform_within_the_bounds():
    agent = make_agent()
    actions, scaled = agent._sample_action(10, n_envs=2000)
    assert (actions.min(), actions.max()) == (pytest.approx(-2, abs=0.05), pytest.approx(6, abs=0.05))
    assert np.allclose(scaled, (actions - 2) / 4, atol=1e-6)


def test_the_deviation_falls_linearly():
    agent = make_agent(std_start=1.0, std_end=0.2, std_steps=40)
    seen = []

    class Watch(BaseCallback):
        def _on_rollout_start(self):
            seen.append(self.model.policy.action_std)

        def _on_step(self):
            return True

    agent.learn(60, callback=Watch())
    assert seen == pytest.approx([max(1 - 0.02 * step, 0.2) for step in range(60)])


def test_deterministic_actions_are_the_actor_s_mean():
    agent = make_agent()
    with torch.no_grad():
        mean = agent.actor(agent.encoder(torch.from_numpy(observations()))).numpy()
    actions, _ = agent.predict(observations(), deterministic=True)
    assert np.allclose(actions, 2 + 4 * mean, atol=1e-5)
    assert np.allclose(agent.sample_actions(observations(), std=0).numpy(), actions, atol=1e-5)


def test_one_observation_gives_one_action():
    agent = make_agent()
    action, _ = agent.predict(observations(1)[0])
    assert action.shape == (1,)


def test_real_and_imagined_copies_of_an_observation_give_the_same_action():
    """B1 of the original: imagined frames were in [0, 1], and divided by 255 once more."""
    agent = make_agent()
    real = observations()
    imagined = torch.from_numpy(real.copy())
    one, two = (agent.sample_actions(seen, 0.3, torch.Generator().manual_seed(1)) for seen in (real, imagined))
    assert torch.equal(one, two)
    agent.generators.acting.manual_seed(1)
    assert np.allclose(agent.predict(real)[0], agent.sample_actions(real, 1.0, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("frames", [torch.zeros(2, 9, 24, 24), np.zeros((2, 9, 24, 24))])
def test_observations_in_floats_are_refused(frames):
    agent = make_agent()
    for act in (agent.sample_actions, agent.predict):
        with pytest.raises(ValueError, match="must be uint8"):
            act(frames)


def test_observations_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"must have shape \(B, \*\(9, 24, 24\)\)"):
        make_agent().sample_actions(observations()[:, :3])


# -- an algorithm of stable-baselines3 --------------------------------------------------------------------------------


def test_it_learns_to_move_a_square_to_the_middle():
    agent = make_agent(
        learning_rate=1e-3,
        batch_size=32,
        gamma=0.8,
        learning_starts=100,
        std_steps=400,
        max_shift=1,
        policy_kwargs={"num_channels": 8, "strides": (2, 2), "hidden_dim": 64, "trunk_dim": 20},
    )
    before, _ = evaluate_policy(agent, SquareEnv(), n_eval_episodes=10, warn=False)
    agent.learn(1000)
    after, _ = evaluate_policy(agent, SquareEnv(), n_eval_episodes=10, warn=False)
    assert after > 8 > 6 > before  # of 10


@pytest.mark.parametrize("name", ["paper", "cpu"])
def test_presets_train(name):
    agent = DrQv2("CnnPolicy", SquareEnv(), **preset(name) | {"learning_starts": 5, "batch_size": 4, "device": "cpu"})
    agent.learn(7)
    assert agent._n_updates == 2 * preset(name)["gradient_steps"]


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of 'paper', 'cpu'"):
        preset("gpu")


def test_several_environments_are_stepped_together():
    agent = make_agent(DummyVecEnv([SquareEnv, SquareEnv])).learn(60)
    assert (agent.num_timesteps, agent.replay_buffer.size()) == (60, 60)


def test_the_logger_gets_the_losses():
    agent = make_agent().learn(25)
    assert {"train/critic_loss", "train/actor_loss", "train/action_std"} <= agent.logger.name_to_value.keys()


def test_the_buffer_is_told_returns_discount_and_seed():
    agent = make_agent(n_steps=5, gamma=0.9)
    assert isinstance(agent.replay_buffer, MixedReplayBuffer)
    assert (agent.replay_buffer.n_steps, agent.replay_buffer.gamma) == (5, 0.9)


def test_what_the_buffer_is_told_is_not_given_to_it_as_well():
    with pytest.raises(ValueError, match="gamma is an argument of the agent"):
        make_agent(replay_buffer_kwargs={"gamma": 0.5})


def test_the_buffers_of_stable_baselines3_do_too():
    agent = make_agent(replay_buffer_class=NStepReplayBuffer).learn(25)
    assert agent.replay_buffer.n_steps == 3
    with pytest.raises(ValueError, match="ReplayBuffer has no returns of n_steps=3"):
        make_agent(replay_buffer_class=ReplayBuffer)
    make_agent(replay_buffer_class=ReplayBuffer, n_steps=1).learn(25)


def test_the_same_seed_gives_the_same_agent():
    one, two = (make_agent().learn(40) for _ in range(2))
    assert is_same(weights(one.policy), two.policy)


def test_a_seed_that_is_set_later_is_that_of_everything(tmp_path):
    """Of the draws from the buffer, too, which has no seed of its own here."""
    make_agent(seed=None).save(tmp_path / "agent.zip")
    agents = [DrQv2.load(tmp_path / "agent.zip", env=SquareEnv(), device="cpu") for _ in range(2)]
    for agent in agents:
        agent.set_random_seed(5)
        agent.learn(40)
    assert is_same(weights(agents[0].policy), agents[1].policy)


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_a_loaded_agent_goes_on_as_the_other_would(mixed_precision, tmp_path):
    """The same actions, and after the next updates the same weights."""
    agent = make_agent(mixed_precision=mixed_precision).learn(40)
    agent.save(tmp_path / "agent.zip")
    state = copy.deepcopy(agent.replay_buffer.state_dict())
    expected = [agent.predict(observations())[0], agent.predict(observations(), deterministic=True)[0]]
    agent.train(3, 8)

    loaded = DrQv2.load(tmp_path / "agent.zip", env=SquareEnv(), device="cpu")
    loaded.set_logger(configure(None, []))
    loaded.replay_buffer.load_state_dict(state)
    found = [loaded.predict(observations())[0], loaded.predict(observations(), deterministic=True)[0]]
    assert all(np.array_equal(*pair) for pair in zip(expected, found, strict=True))
    loaded.train(3, 8)
    assert is_same(weights(agent.policy), loaded.policy)
    names = ("train/critic_loss", "train/actor_loss")
    assert all(agent.logger.name_to_value[name] == loaded.logger.name_to_value[name] for name in names)


def test_a_seed_at_loading_is_that_of_the_actions_from_then_on(tmp_path):
    make_agent().learn(40).save(tmp_path / "agent.zip")
    agents = [DrQv2.load(tmp_path / "agent.zip", device="cpu", seed=seed) for seed in (5, 5, 6)]
    first, same, other = (agent.predict(observations())[0] for agent in agents)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_loaded_agent_acts_without_an_environment(tmp_path):
    agent = make_agent().learn(40)
    agent.save(tmp_path / "agent.zip")
    loaded = DrQv2.load(tmp_path / "agent.zip", device="cpu")
    assert loaded.action_std == agent.action_std
    assert np.array_equal(loaded.predict(observations())[0], agent.predict(observations())[0])


def test_an_agent_of_a_gpu_is_loaded_without_one(tmp_path):
    """A CUDA generator's state has 16 bytes, a CPU's 5,056."""
    agent = make_agent().learn(25)
    agent.generators.state_dict = lambda: dict.fromkeys(("acting", "training"), torch.zeros(16, dtype=torch.uint8))
    agent.save(tmp_path / "agent.zip")
    loaded = DrQv2.load(tmp_path / "agent.zip", env=SquareEnv(), device="cpu")
    expected, found = (one.predict(observations(), deterministic=True)[0] for one in (agent, loaded))
    assert np.array_equal(expected, found)
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 30


def test_a_loaded_agent_may_have_other_settings(tmp_path):
    make_agent(mixed_precision="bf16").save(tmp_path / "agent.zip")
    loaded = DrQv2.load(tmp_path / "agent.zip", env=SquareEnv(), device="cpu", mixed_precision="no", gamma=0.5)
    assert loaded.encoder.mixed_precision == "no"
    assert loaded.replay_buffer.gamma == 0.5


def test_parameters_are_set_as_they_were_got():
    agent, other = make_agent(), make_agent(seed=1)
    other.set_parameters(agent.get_parameters())
    assert is_same(weights(agent.policy), other.policy)


@pytest.mark.parametrize(("name", "value"), [("std_clip", -1), ("max_shift", -1), ("std_steps", 0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        make_agent(**{name: value})


# -- the Hub ----------------------------------------------------------------------------------------------------------

SCENES = f"""
import json
import numpy as np
from huggingface_hub import ModelCard, hf_hub_download
from ivideogpt_hf.rl.agents.drqv2 import DrQv2
from tests.rl.agents.test_drqv2 import make_agent, observations

agent = make_agent().learn(22)
agent.push_to_hub("tester/agent", private=True, token="{TOKEN}")
card = ModelCard.load("tester/agent", token="{TOKEN}")
loaded = DrQv2.load(hf_hub_download("tester/agent", "agent.zip", token="{TOKEN}"), device="cpu")
is_same = np.array_equal(*(one.predict(observations(), deterministic=True)[0] for one in (agent, loaded)))
card.content = card.content.replace("An agent", "My agent")
card.push_to_hub("tester/agent", token="{TOKEN}")
agent.push_to_hub("tester/agent", token="{TOKEN}")
again = ModelCard.load("tester/agent", token="{TOKEN}", ignore_metadata_errors=True).content
try:
    agent.push_to_hub("somebody/agent", token="{TOKEN}")
except OSError as error:
    refusal = str(error)
print(json.dumps([card.data.library_name, "22 steps" in card.content, is_same, "My agent" in again, refusal]))
"""


def test_an_agent_is_pushed_with_a_card_and_loaded_again(tmp_path):
    """A card that somebody wrote stays. An upload that is not allowed is an OSError."""
    hub = FakeHub(port=HUB_PORT)
    process = Started(code=SCENES, log=tmp_path / "log")
    code = process.wait()
    hub.close()
    assert code == 0, process.output
    library, *found, refusal = json.loads(process.output.splitlines()[-1])
    assert library == "stable-baselines3"
    assert found == [True, True, True]
    assert "the Hub refused the checkpoint somebody/agent" in refusal
