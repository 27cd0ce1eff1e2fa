"""Imagined experience: what the policy sees in it, what lands in the buffer, and when."""

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("accelerate")

from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

from ivideogpt_hf.rl.agents.drqv2 import DrQv2
from ivideogpt_hf.rl.imagination.experience import (
    ImaginationSchedule,
    ImaginedExperience,
    ImaginedPolicy,
    schedule_preset,
)
from ivideogpt_hf.rl.imagination.learner import LearnerSettings, WorldModelLearner
from ivideogpt_hf.world.results import Observation
from tests.conftest import build_world
from tests.rl.imagining import SCHEDULE, imagined_only, learnt, make_agent, make_environment, make_imagined

# -- B1: what the policy sees -----------------------------------------------------------------------------------------


def test_the_policy_sees_uint8_stacks_of_real_then_imagined_frames(monkeypatch):
    """B1 of the original: its policy saw frames in [0, 1], which it divided by 255 again."""
    agent, imagined = learnt()
    seen, sample_actions = [], agent.sample_actions

    def watch(observations, *args, **options):
        seen.append(observations.clone())
        return sample_actions(observations, *args, **options)

    monkeypatch.setattr(agent, "sample_actions", watch)
    result = imagined.imagine()
    frames = torch.cat([result.starts.stack_frames, result.rollout.frames], dim=1)
    assert len(seen) == 3
    for step, observations in enumerate(seen):
        assert observations.dtype == torch.uint8
        assert torch.equal(observations, frames[:, step : step + 3].flatten(1, 2))


@pytest.mark.parametrize("kind", [DrQv2, SAC])
def test_a_policy_does_in_imagination_what_it_does_in_reality(kind):
    """policy(real observation) is policy(imagined copy of it)."""
    agent = make_agent(kind)
    real, _ = make_environment().reset(seed=5)
    real = np.stack([real, 255 - real])
    if kind is DrQv2:
        agent.policy.action_std = agent.action_std
        agent.generators.acting.manual_seed(1)
    torch.manual_seed(1)
    expected, _ = agent.predict(real)
    torch.manual_seed(1)
    policy = ImaginedPolicy(agent, torch.from_numpy(real), torch.Generator().manual_seed(1))
    state = None
    actions = policy(Observation(torch.from_numpy(real[:, -3:]), None, 0, state))
    assert np.allclose(actions.numpy(), expected, atol=1e-6)


def test_the_next_frame_takes_the_place_of_the_oldest():
    agent = make_agent()
    stacks = torch.arange(9, dtype=torch.uint8)[None, :, None, None].expand(2, 9, 16, 16)
    policy = ImaginedPolicy(agent, stacks, torch.Generator())
    frame = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)
    policy(Observation(stacks[:, -3:], None, 0, None))
    policy(Observation(frame, None, 1, None))
    assert policy.observations[0, :, 0, 0].tolist() == [3, 4, 5, 6, 7, 8, 77, 77, 77]
    assert policy.observations.dtype == torch.uint8


def test_imagined_actions_have_the_noise_of_the_policy_now():
    agent, imagined = learnt()
    agent.std_start = agent.std_end = 0.0
    calm = imagined.imagine()
    mean, _ = agent.predict(calm.starts.observations.numpy(), deterministic=True)
    assert np.allclose(calm.rollout.actions[:, 0].numpy(), mean, atol=1e-5)
    agent.std_start = agent.std_end = 1.0
    noisy = imagined.imagine()
    mean, _ = agent.predict(noisy.starts.observations.numpy(), deterministic=True)
    assert not np.allclose(noisy.rollout.actions[:, 0].numpy(), mean, atol=1e-2)


def test_a_deterministic_policy_has_its_action_noise():
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.5))
    agent, imagined = learnt(kind=TD3, action_noise=noise)
    result = imagined.imagine()
    mean, _ = agent.predict(result.starts.observations.numpy())
    different = result.rollout.actions[:, 0].numpy() - mean
    assert np.abs(different).max() > 0.01
    assert len({round(float(value), 5) for value in different[:, 0]}) == len(different)


def test_noise_with_a_memory_keeps_it_for_reality():
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.5))
    agent, imagined = learnt(kind=TD3, action_noise=noise)
    before = agent.action_noise.noise_prev.copy()
    imagined.imagine()
    assert np.array_equal(agent.action_noise.noise_prev, before)


def test_actions_are_in_the_environment_s_units_and_within_its_bounds():
    agent, imagined = learnt()
    agent.action_space.low[:], agent.action_space.high[:] = [-0.5, -1], [0.5, 0.25]
    actions = imagined.imagine().rollout.actions
    assert (actions[..., 0].abs() <= 0.5).all()
    assert (actions[..., 1] <= 0.25).all()
    assert (actions >= -1).all()


# -- what lands in the buffer -----------------------------------------------------------------------------------------


def test_the_buffer_holds_what_the_world_model_predicted():
    agent, imagined = learnt(n_steps=1)
    agent.replay_buffer.clear_imagined()
    result = imagined.imagine()
    frames = torch.cat([result.starts.stack_frames, result.rollout.frames], dim=1)
    expected = {}
    for row in range(3):
        for step in range(3):
            observation, after = (frames[row, first : first + 3].flatten(0, 1) for first in (step, step + 1))
            key = (observation.numpy().tobytes(), after.numpy().tobytes())
            expected[key] = (result.rollout.actions[row, step], result.rollout.rewards[row, step])
    batch, found = imagined_only(agent, 400), set()
    for number in range(400):
        key = (batch.observations[number].numpy().tobytes(), batch.next_observations[number].numpy().tobytes())
        action, reward = expected[key]
        assert torch.allclose(batch.actions[number], action, atol=1e-5)  # its bounds are -1 and 1
        assert batch.rewards[number].item() == pytest.approx(reward.item(), rel=1e-6)
        found.add(key)
    assert len(found) == len(expected)


def test_nothing_terminates_and_the_end_of_a_rollout_is_bootstrapped():
    agent, imagined = learnt(n_steps=3, gamma=0.5)
    agent.replay_buffer.clear_imagined()
    imagined.imagine()
    batch = imagined_only(agent, 400)
    assert not batch.dones.any()
    assert set(batch.discounts.flatten().tolist()) == {0.5, 0.25, 0.125}


def test_the_state_of_a_rollout_is_that_of_its_own_start():
    """The same seeds, starts and actions in a rollout of the world alone give the same frames and rewards."""
    from ivideogpt_hf import Sampling

    _, imagined = learnt()
    rng_state = imagined._rng.bit_generator.state
    result = imagined.imagine()
    imagined._rng.bit_generator.state = rng_state
    imagined.buffer.sample_starts(3, 2, imagined._rng)
    seeds = [int(seed) for seed in imagined._rng.integers(2**62, size=3)]
    world, sampling = imagined.learner.world, Sampling(seed=seeds)
    again = world.rollout(result.starts.context_frames, result.rollout.actions, sampling=sampling)
    assert torch.equal(again.tokens, result.rollout.tokens) if result.rollout.tokens is not None else True
    assert torch.equal(again.frames, result.rollout.frames)
    assert torch.allclose(again.rewards, result.rollout.rewards, rtol=1e-4, atol=1e-4)


def test_rollouts_are_cut_before_the_first_unlikely_frame():
    imagined = make_imagined(truncate_quantile=0.5)
    log_probs = torch.tensor([[-1.0, -9.0, -1.0], [-9.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    assert imagined._lengths(log_probs).tolist() == [1, 0, 3]
    assert make_imagined()._lengths(log_probs).tolist() == [3, 3, 3]


def test_the_quantile_is_that_of_what_was_imagined_lately():
    imagined = make_imagined(truncate_quantile=0.5)
    imagined._lengths(torch.full((10, 3), -20.0))
    assert imagined._lengths(torch.full((1, 3), -10.0)).tolist() == [3]
    assert imagined._lengths(torch.full((1, 3), -30.0)).tolist() == [0]


def test_cut_rollouts_are_counted_by_what_is_kept():
    agent, imagined = learnt(imagined=make_imagined(truncate_quantile=0.3))
    assert 0 < imagined.num_imagined < 2 * 3 * 3
    assert agent.replay_buffer.num_imagined == imagined.num_imagined


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rollouts_use_the_weights_of_the_last_update(dtype):
    _, imagined = learnt(imagined=make_imagined(dtype=dtype))
    imagined.learner.update_transformer(imagined.buffer)
    used, trained = imagined._world().transformer, imagined.learner.world.transformer
    assert used.dtype == getattr(torch, dtype)
    assert trained.dtype == torch.float32
    for one, other in zip(used.parameters(), trained.parameters(), strict=True):
        assert torch.equal(one, other.to(one.dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_imagined_rewards_are_read_in_float32(dtype):
    """B13 of the original: in bfloat16, a reward of 20 is off by a hundredth."""
    _, imagined = learnt(imagined=make_imagined(dtype=dtype))
    head, trained = (world.transformer.reward_linear for world in (imagined._world(), imagined.learner.world))
    assert torch.equal(head.weight, trained.weight)
    seen = []
    head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    imagined.imagine()
    assert set(seen) == {torch.float32}


# -- when -------------------------------------------------------------------------------------------------------------


def test_the_schedule():
    """Warm-up at step 10; updates after steps 12, 16, 20; rounds after 15 and 20."""
    agent, imagined = make_agent(), make_imagined()
    calls, learner = [], imagined.learner
    for name, owner in (("update_transformer", learner), ("update_vq_model", learner), ("imagine", imagined)):
        function = getattr(owner, name)

        def watch(*args, name=name, function=function, **options):
            calls.append((imagined.num_timesteps, name))
            return function(*args, **options)

        setattr(owner, name, watch)
    agent.learn(21, callback=imagined)
    update, imagine = "update_transformer", "imagine"
    assert calls == [
        *[(10, update)] * 2,
        *[(10, imagine)] * 2,
        (12, update),
        (15, imagine),
        (16, update),
        (20, update),
        (20, imagine),
    ]
    assert imagined.num_imagined == agent.replay_buffer.num_imagined == 4 * 3 * 3


def test_the_newest_step_is_in_the_buffer_when_the_world_model_learns():
    agent, imagined, sizes = make_agent(), make_imagined(), []
    imagined.learner.update_transformer = lambda buffer: sizes.append(buffer.num_real) or {}
    agent.learn(10, callback=imagined)
    assert sizes == [10, 10]


def test_the_vq_model_comes_first_and_then_its_codebooks_stay():
    world = build_world(action_dim=2, predict_reward=True)
    learner = WorldModelLearner(world, LearnerSettings(num_future_frames=3, batch_size=2), trains_codebooks=True)
    schedule = ImaginationSchedule(**SCHEDULE | {"warmup_vq_updates": 2, "vq_every": 6})
    agent, imagined = make_agent(), ImaginedExperience(learner, schedule)
    agent.learn(12, callback=imagined)
    assert not learner.trains_codebooks
    assert (learner.num_vq_updates, learner.num_transformer_updates) == (3, 3)


def test_rollouts_expire_by_updates_of_the_world_model():
    agent, _ = learnt(13, replay_buffer_kwargs={"max_imagined_age": 1})
    assert agent.replay_buffer.num_imagined == 0  # the rounds of step 10 expired with the update of step 12


def test_the_first_actions_may_be_uniform():
    _, imagined = learnt(imagined=make_imagined({"num_starts": 200, "horizon": 1}))
    actions = imagined.imagine(is_random=True).rollout.actions.flatten()
    assert actions.abs().max() <= 1
    assert actions.mean().abs() < 0.15
    assert actions.std() == pytest.approx(1 / 3**0.5, abs=0.08)


@pytest.mark.parametrize("kind", [SAC, TD3, "TQC", "CrossQ"])
def test_any_off_policy_agent_learns_from_it(kind):
    if isinstance(kind, str):
        kind = getattr(pytest.importorskip("sb3_contrib"), kind)
    agent, imagined = learnt(16, kind)
    assert imagined.num_imagined == agent.replay_buffer.num_imagined == 3 * 9
    batch = agent.replay_buffer.sample(4)
    assert batch.observations.dtype == torch.uint8
    assert batch.observations.shape == (4, 9, 16, 16)


@pytest.mark.parametrize("name", ["paper", "cpu"])
def test_presets(name):
    schedule = schedule_preset(name)
    assert schedule.horizon == 10
    assert schedule.trains


# -- what does not fit ------------------------------------------------------------------------------------------------


def test_a_horizon_beyond_the_trained_one_is_refused():
    with pytest.raises(ValueError, match="horizon is 7, and the world model is good for 6 frames"):
        make_imagined({"horizon": 7})


def test_a_horizon_beyond_the_clips_of_updates_is_refused():
    with pytest.raises(ValueError, match="horizon is 4, and the world model is updated on clips with 3 frames"):
        make_imagined({"horizon": 4})


def test_agents_with_another_buffer_are_refused():
    agent = make_agent(replay_buffer_class=ReplayBuffer, n_steps=1, buffer_size=50)
    with pytest.raises(ValueError, match="needs an off-policy agent with replay_buffer_class=MixedReplayBuffer"):
        agent.learn(1, callback=make_imagined())


@pytest.mark.parametrize(("action_dim", "rewards", "message"), [(3, True, "are 2 wide, the world takes 3")])
def test_worlds_that_do_not_fit_the_agent_are_refused(action_dim, rewards, message):
    world = build_world(action_dim=action_dim, predict_reward=rewards)
    with pytest.raises(ValueError, match=message):
        make_agent().learn(1, callback=make_imagined(world=world))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": {"num_starts": 0}}, "num_starts must be at least 1"),
        ({"schedule": {"first_actions": "none"}}, "first_actions must be one of"),
        ({"truncate_quantile": 1.0}, "truncate_quantile is a share"),
        ({"dtype": "float16"}, "dtype must be one of"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_imagined(**options)


# -- resume -----------------------------------------------------------------------------------------------------------


def test_a_callback_that_loads_the_state_of_another_imagines_the_same(tmp_path):
    agent, imagined = learnt(imagined=make_imagined(truncate_quantile=0.3))
    torch.save(imagined.state_dict(), tmp_path / "state.pt")
    other = ImaginedExperience(imagined.learner, imagined.schedule, truncate_quantile=0.3, seed=5)
    other.init_callback(agent)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    one, two = imagined.imagine(), other.imagine()
    assert torch.equal(one.rollout.actions, two.rollout.actions)
    assert torch.equal(one.rollout.frames, two.rollout.frames)
    assert torch.equal(one.lengths, two.lengths)
    assert imagined.num_imagined == other.num_imagined


def test_what_a_gpu_began_goes_on_without_one():
    """A CUDA generator's state has 16 bytes, a CPU's 5,056. The draws are then those of the seed."""
    agent, imagined = learnt(imagined=make_imagined())
    state = imagined.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}
    rounds = []
    for _ in range(2):
        other = ImaginedExperience(imagined.learner, imagined.schedule)
        other.init_callback(agent)
        other.load_state_dict(state)
        rounds.append(other.imagine())
    assert torch.equal(rounds[0].rollout.actions, rounds[1].rollout.actions)
