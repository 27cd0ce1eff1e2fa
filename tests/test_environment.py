"""World models as gymnasium environments: gymnasium's own checks, episodes that end and begin, what is refused."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from ivideogpt_hf import Sampling
from tests.conftest import build_world, random_frames

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402

from ivideogpt_hf import WorldModelEnv, WorldModelVectorEnv  # noqa: E402

MODES = list(AutoresetMode)
# The part before the colon is imported by gymnasium, which has no plugins.
ENVIRONMENT_ID = "ivideogpt_hf:ivideogpt_hf/WorldModel-v0"
BOUNDS = {"action_low": -2.0, "action_high": 2.0}


@pytest.fixture
def make(world):
    """A vector environment with five starts; keyword arguments are its options."""

    def make_environment(num_envs=3, **options):
        return WorldModelVectorEnv(world, random_frames(5, 2), num_envs, **(BOUNDS | {"horizon": 4} | options))

    return make_environment


def act(environment, num_steps, seed=0):
    """Random steps; all that they returned."""
    environment.action_space.seed(seed)
    return [environment.step(environment.action_space.sample()) for _ in range(num_steps)]


def ends_at(*steps):
    """A rule that ends the episodes of the first row after so many steps each, whatever happens in it."""
    calls = iter(range(1, 1000))

    def rule(step):
        over = torch.zeros(len(step.tokens), dtype=torch.bool)
        over[0] = next(calls) in steps
        return over

    return rule


@pytest.fixture
def named_single():
    """The embedded model as gymnasium makes it by name, to be drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # by which gymnasium tells what it does not like
        yield gymnasium.make(ENVIRONMENT_ID, horizon=3, render_mode="rgb_array")


def test_gymnasium_accepts_the_single_environment(named_single):
    """Its check has nothing to remark, rendering and the making by name included."""
    check_env(named_single.unwrapped)


@pytest.mark.parametrize("kind", [WorldModelEnv, WorldModelVectorEnv])
def test_the_class_tells_how_it_renders(kind):
    assert kind.metadata["render_modes"] == ["rgb_array"]
    assert kind.metadata["render_fps"] > 0


@pytest.mark.parametrize("mode", MODES)
def test_resets_and_steps_tell_the_same_things(make, mode):
    environment = make(autoreset_mode=mode, horizon=9)
    _, first = environment.reset(seed=0)
    *_, second = act(environment, 1)[0]
    assert first.keys() == second.keys() == {"start", "_start", "log_prob", "_log_prob"}
    assert first["log_prob"].tolist() == [0.0] * 3
    assert second["start"].tolist() == first["start"].tolist()
    assert {name: value.dtype for name, value in first.items()} == {name: value.dtype for name, value in second.items()}


def test_a_served_world_is_not_named_by_its_address():
    with pytest.raises(FileNotFoundError, match=r"RemoteWorldModel\('http://127.0.0.1:8000'\) plays what is served"):
        gymnasium.make("ivideogpt_hf/WorldModel-v0", world="http://127.0.0.1:8000")


def test_gymnasiums_name_of_the_horizon_is_understood():
    worlds = gymnasium.make_vec(ENVIRONMENT_ID, num_envs=2, max_episode_steps=2)
    worlds.reset(seed=0)
    assert [step[3].all() for step in act(worlds, 2)] == [False, True]


def test_torchrl_collects_from_a_batch_of_worlds():
    libs = pytest.importorskip("torchrl.envs")
    worlds = libs.GymWrapper(gymnasium.make_vec(ENVIRONMENT_ID, num_envs=2, horizon=2))
    steps = worlds.rollout(3, break_when_any_done=False)
    assert steps["next", "observation"].shape == (2, 3, 3, 64, 64)
    assert steps["next", "truncated"][..., 0].tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_worlds_is_what_gymnasiums_own_batch_would_be(world, mode):
    """`SyncVectorEnv` of single environments gives the same kinds of things at the same steps."""
    options = BOUNDS | {"horizon": 3}
    ours = WorldModelVectorEnv(world, random_frames(5, 2), 2, autoreset_mode=mode, **options)
    make_one = [lambda: WorldModelEnv(world, random_frames(5, 2), **options)] * 2
    theirs = gymnasium.vector.SyncVectorEnv(make_one, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    ours.reset(seed=0)
    theirs.reset(seed=0)
    num_steps = 3 if mode == AutoresetMode.DISABLED else 8
    for mine, other in zip(act(ours, num_steps), act(theirs, num_steps), strict=True):
        for i in (2, 3):
            np.testing.assert_array_equal(mine[i], other[i])
        for i in (0, 1, 2, 3):
            assert (mine[i].shape, mine[i].dtype) == (other[i].shape, other[i].dtype)
        assert mine[4].keys() == other[4].keys()
        if "final_obs" in mine[4]:
            assert mine[4]["final_info"].keys() == other[4]["final_info"].keys()
            np.testing.assert_array_equal(mine[4]["_final_obs"], other[4]["_final_obs"])


@pytest.mark.parametrize("mode", MODES[:2])
def test_the_same_seed_gives_the_same_episodes(make, mode):
    first, second = make(autoreset_mode=mode), make(autoreset_mode=mode)
    np.testing.assert_array_equal(first.reset(seed=3)[0], second.reset(seed=3)[0])
    for one, other in zip(act(first, 10), act(second, 10), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_worlds_draw_differently(make):
    environment = make(sampling=Sampling(temperature=5.0))
    environment.reset(seed=0, options={"start": [2, 2, 2]})
    observations, *_ = environment.step(np.zeros((3, 3), np.float32))
    assert not np.array_equal(observations[0], observations[1])


def test_an_episode_is_the_rollout_of_the_world_model(world, make):
    environment = make(sampling=Sampling(greedy=True))
    _, infos = environment.reset(seed=0)
    steps = act(environment, 3)
    environment.action_space.seed(0)
    actions = torch.stack([torch.from_numpy(environment.action_space.sample()) for _ in range(3)], dim=1)
    rollout = world.rollout(random_frames(5, 2)[infos["start"]], actions, sampling=Sampling(greedy=True))
    for i, (observations, rewards, *_) in enumerate(steps):
        np.testing.assert_allclose(observations.astype(int), rollout.frames[:, i].numpy(), atol=1)
        np.testing.assert_allclose(rewards, rollout.rewards[:, i].numpy(), rtol=1e-4)


def test_worlds_that_begin_anew_leave_the_others_alone(make):
    """Worlds that end at different steps: each goes on as if it were alone."""
    together = make(2, terminates=ends_at(1, 3), sampling=Sampling(greedy=True), horizon=6)
    alone = make(2, sampling=Sampling(greedy=True), horizon=6)
    for environment in (together, alone):
        environment.reset(seed=0)
    for one, other in zip(act(together, 5), act(alone, 5), strict=True):
        np.testing.assert_allclose(one[0][1].astype(int), other[0][1].astype(int), atol=1)


def test_memory_does_not_grow_with_episodes_that_overlap(make):
    environment = make(2, terminates=ends_at(*range(3, 60, 4)), horizon=5)
    environment.reset(seed=0)
    lengths = []
    for _ in act(environment, 60):
        lengths.append(environment.state.tail.length)
    assert max(lengths) <= 5 * environment.world.layout.block_length


def test_the_last_observation_of_an_episode_is_among_the_infos(make):
    environment = make(horizon=2, sampling=Sampling(greedy=True))
    environment.reset(seed=0, options={"start": [0, 1, 2]})
    longer = make(horizon=3, sampling=Sampling(greedy=True))
    longer.reset(seed=0, options={"start": [0, 1, 2]})
    (*_, infos), (observations, *_) = act(environment, 2)[-1], act(longer, 2)[-1]
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), observations)
    assert set(infos["start"]) <= set(range(5))


def test_truncation_is_at_the_horizon_and_termination_by_the_rule(make):
    environment = make(1, terminates=ends_at(2, 6), horizon=4, autoreset_mode=AutoresetMode.SAME_STEP)
    environment.reset(seed=0)
    results = act(environment, 6)
    assert [step[2].item() for step in results] == [False, True, False, False, False, True]
    assert [step[3].item() for step in results] == [False] * 5 + [False]


def test_starts_stay_as_they_were_given(world):
    frames = random_frames(2, 2)
    environment = WorldModelVectorEnv(world, frames, **BOUNDS)
    frames.zero_()
    observations, _ = environment.reset(seed=0, options={"start": [0, 1]})
    assert (observations == random_frames(2, 2)[:, -1].numpy()).all()


def test_an_observation_stacks_the_last_frames(make):
    environment = make(1, frame_stack=4)
    first, _ = environment.reset(seed=0, options={"start": [3]})
    frames = random_frames(5, 2)[3].numpy()
    np.testing.assert_array_equal(first[0].reshape(4, 3, 16, 16), frames[[0, 0, 0, 1]])
    second, *_ = environment.step(environment.action_space.sample())
    np.testing.assert_array_equal(second[0, :9], first[0, 3:])


def test_some_worlds_can_be_reset_to_a_start(make):
    environment = make(autoreset_mode=AutoresetMode.DISABLED)
    environment.reset(seed=0)
    (before, *_) = act(environment, 2)[-1]
    observations, infos = environment.reset(options={"start": [4, 4, 4], "reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(observations[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(observations[1], random_frames(5, 2)[4, 1].numpy())
    assert infos["_start"].tolist() == [False, True, False]
    *_, truncations, _ = act(environment, 2)[-1]
    assert truncations.tolist() == [True, False, True]


def test_rewards_can_come_from_a_function(world):
    free = build_world(action_dim=3)
    environment = WorldModelVectorEnv(
        free, random_frames(2, 2), reward=lambda step: step.frame.float().mean((1, 2, 3)), **BOUNDS
    )
    environment.reset(seed=0)
    observations, rewards, *_ = environment.step(environment.action_space.sample())
    np.testing.assert_allclose(rewards, observations.mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("imports", "name"),
    [("gymnasium", ENVIRONMENT_ID), ("gymnasium, ivideogpt_hf", "ivideogpt_hf/WorldModel-v0")],
    ids=["gymnasium alone", "both"],
)
def test_gymnasium_makes_both_by_name(imports, name):
    """In a fresh interpreter, where gymnasium may be imported before the package, or alone."""
    code = f"""
import {imports}
name = {name!r}
many = gymnasium.make_vec(name, num_envs=2, horizon=3)
one = gymnasium.make(name, horizon=3)
many.reset(seed=0), one.reset(seed=0)
print(many.step(many.action_space.sample())[0].shape, one.step(one.action_space.sample())[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(2, 3, 64, 64) (3, 64, 64)", done.stderr


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_frames": torch.zeros(2, 3, 3, 16, 16)}, "start_frames must be uint8 of shape"),
        ({"start_frames": None}, "start_frames are missing"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"horizon": 3, "max_episode_steps": 4}, "are two names of one number"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"frame_stack": 1.5}, "frame_stack must be a whole number"),
        ({"horizon": float("nan")}, "horizon must be a whole number"),
        ({"num_envs": 2.0}, "num_envs must be a whole number"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"sampling": Sampling(seed=1)}, "pass it to reset"),
        ({"render_mode": "human"}, "render_mode must be"),
        ({"action_low": None}, "does not know the bounds"),
        ({"action_low": [-1.0] * 5}, "each one number or "),
        ({"action_low": 3.0}, "action_low must not exceed action_high"),
    ],
)
def test_what_does_not_fit_is_refused(world, options, message):
    arguments = {"start_frames": random_frames(2, 2)} | BOUNDS | options
    with pytest.raises(ValueError, match=message):
        WorldModelVectorEnv(world, **arguments)


def test_models_without_actions_or_rewards_are_refused(free_world):
    with pytest.raises(ValueError, match="no reward head"):
        WorldModelVectorEnv(build_world(action_dim=3), random_frames(2, 2), **BOUNDS)
    with pytest.raises(ValueError, match="action-free"):
        WorldModelVectorEnv(free_world, random_frames(2, 2), reward=lambda step: step.log_prob, **BOUNDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": [0, 1, 2]}, "options must be of start and reset_mask"),
        ({"start": [0, 1, 9]}, "start must be 3 numbers of the 5 starts"),
        ({"start": [0]}, "start must be 3 numbers"),
        ({"reset_mask": np.zeros(3, bool)}, "with a true value"),
        ({"reset_mask": np.array([True, False, True])}, "the first reset must be of all"),
    ],
)
def test_options_of_reset_are_checked(make, options, message):
    with pytest.raises(ValueError, match=message):
        make().reset(options=options)


def test_steps_are_checked(make):
    environment = make(horizon=1, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="call reset before step"):
        environment.step(np.zeros((3, 3)))
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="shape"):
        environment.step(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="between"):
        environment.step(np.full((3, 3), 3.0))
    environment.step(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="are over"):
        environment.step(np.zeros((3, 3)))


def test_a_rule_must_give_one_value_per_world(make):
    environment = make(terminates=lambda step: step.frame.float().mean() > 0)
    environment.reset(seed=0)
    with pytest.raises(ValueError, match="terminates must return one value per world"):
        environment.step(np.zeros((3, 3)))
