"""Simulators as agents see them: stacks, rewards, ends, and episodes that belong to seeds."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from ivideogpt_hf.data.convert.collect import Behaviour, SimulatedEpisodes
from ivideogpt_hf.rl.environments.simulator import PURPOSES, SimulatorEnv, episode_seed, play_episode, stack_frames
from ivideogpt_hf.simulators import Simulator, Transition

SIZE = (16, 16)


def make(environment="push2d", **options):
    return SimulatorEnv(environment, SIZE, **({"max_steps": 5} | options))


def straight_on(environment):
    """Acts along the line from the disc through the puck."""

    def act(observation):
        agent, puck = np.split(environment.simulator.observation, 2)
        return ((puck - agent) / np.abs(puck - agent).max()).astype(np.float32)

    return act


class Scripted(Simulator):
    """Rewards 1, 2, 3, ...; solved in some steps; over after some step."""

    task = "count"

    def __init__(self, solved=(), last=None, tells=True):
        self.action_low, self.action_high = np.array([-2.0], np.float32), np.array([6.0], np.float32)
        self.solved, self.last, self.tells = solved, last, tells

    def reset(self, seed):
        self.step_number = 0

    def step(self, action):
        self.step_number += 1
        success = self.step_number in self.solved if self.tells else None
        return Transition(float(self.step_number), success, self.step_number == self.last)

    def render(self):
        return np.full((16, 16, 3), self.step_number, np.uint8)

    def close(self):
        pass


@pytest.fixture
def scripted(monkeypatch):
    def make_scripted(*, solved=(), last=None, tells=True, **options):
        simulator = Scripted(solved, last, tells)
        monkeypatch.setattr("ivideogpt_hf.rl.environments.simulator.make_simulator", lambda name, size: simulator)
        return make("count", **options)

    return make_scripted


def run(environment, action=(0.0,)):
    environment.reset()
    steps = [environment.step(np.array(action, np.float32))]
    while not steps[-1][3]:
        steps.append(environment.step(np.array(action, np.float32)))
    return steps


# -- observations -----------------------------------------------------------------------------------------------------


def test_a_stack_is_the_first_frame_repeated_then_the_last_frames_oldest_first(scripted):
    environment = scripted(num_stack=3, action_repeat=1)
    observation, _ = environment.reset()
    assert observation.dtype == np.uint8
    assert observation[::3, 0, 0].tolist() == [0, 0, 0]
    newest = [observation[::3, 0, 0].tolist() for observation, *_ in run(environment)]
    assert newest == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


def test_a_stack_of_kept_frames_is_what_the_agent_saw():
    environment = make()
    observations = []

    def act(observation):
        observations.append(observation)
        return environment.action_space.sample()

    episode = play_episode(environment, act, seed=3)
    for step, observation in enumerate(observations):
        np.testing.assert_array_equal(stack_frames(episode.frames, step, 3), observation)


def test_frames_are_those_of_a_collection():
    environment = make(action_repeat=2)
    _, info = environment.reset(seed=4)
    behaviour = Behaviour("scripted")
    collected = SimulatedEpisodes("push2d", 1, 6, behaviour, size=16, action_repeat=2, seed=info["episode_seed"])[0]
    frames = [environment.render()]
    for action in collected.actions:
        environment.step(action)
        frames.append(environment.render())
    np.testing.assert_array_equal(np.stack(frames), collected.frames["image"])


# -- rewards and ends -------------------------------------------------------------------------------------------------


def test_rewards_are_summed_over_the_repeat_and_a_success_adds_a_bonus(scripted):
    environment = scripted(solved=(3,), action_repeat=2, success_bonus=10, max_steps=3)
    assert [reward for _, reward, *_ in run(environment)] == [1 + 2, 3 + 4 + 10, 5 + 6]


def test_an_episode_once_solved_stays_solved(scripted):
    environment = scripted(solved=(3,), action_repeat=1)
    infos = [info for *_, info in run(environment)]
    assert [info["is_success"] for info in infos] == [False, False, True, True, True]


def test_success_is_not_invented(scripted):
    assert all(info == {} for *_, info in run(scripted(tells=False)))


def test_the_limit_truncates_and_nothing_terminates(scripted):
    ends = [(terminated, truncated) for _, _, terminated, truncated, _ in run(scripted(max_steps=3))]
    assert ends == [(False, False), (False, False), (False, True)]


def test_where_the_simulator_ends_an_episode_it_is_truncated(scripted):
    steps = run(scripted(last=3, action_repeat=2))
    assert len(steps) == 2
    assert steps[-1][1:4] == (3.0, False, True)


# -- seeds ------------------------------------------------------------------------------------------------------------


def test_an_episode_belongs_to_its_sequence_and_number():
    """Whatever was played before, and whether an environment is new."""
    expected = [make(seed=3).reset()[0], make().reset(seed=3)[0]]
    environment = make()
    environment.reset(seed=8)
    environment.step(environment.action_space.low)
    again = [environment.reset(seed=3)[0], environment.reset()[0]]
    np.testing.assert_array_equal(expected[0], expected[1])
    np.testing.assert_array_equal(again[0], expected[0])
    assert (again[1] != again[0]).any()


def test_another_process_plays_the_same_episode():
    program = (
        "from ivideogpt_hf.rl.environments.simulator import SimulatorEnv\n"
        "environment = SimulatorEnv('push2d', (16, 16), seed=5)\n"
        "environment.reset(), environment.reset()\n"
        "print(environment.simulator.observation.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    environment = make()
    environment.reset(seed=5)
    environment.reset()
    assert done.stdout.strip() == str(environment.simulator.observation.tolist())


def test_purposes_share_no_episodes():
    seeds = [episode_seed(p, s, e) for p in PURPOSES for s in range(20) for e in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert {seed % len(PURPOSES) for seed in seeds[:400]} == {0}  # so that no further ones can meet
    assert 0 <= min(seeds) <= max(seeds) < 2**32


# -- going on ---------------------------------------------------------------------------------------------------------


def test_another_environment_goes_on_where_one_stood():
    environment, other = make(), make()
    environment.reset(seed=2)
    environment.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    for action in actions[:2]:
        environment.step(action)
    observation = other.load_state_dict(environment.state_dict())
    np.testing.assert_array_equal(observation[-3:].transpose(1, 2, 0), environment.render())
    for action in actions[2:]:
        expected, step = environment.step(action), other.step(action)
        np.testing.assert_array_equal(step[0], expected[0])
        assert step[1:] == expected[1:]
    np.testing.assert_array_equal(other.reset()[0], environment.reset()[0])


def test_before_the_first_episode_there_is_nothing_to_go_on_with():
    other = make()
    assert other.load_state_dict(make(seed=6).state_dict()) is None
    np.testing.assert_array_equal(other.reset()[0], make(seed=6).reset()[0])


# -- gymnasium and stable-baselines3 ----------------------------------------------------------------------------------


def test_stable_baselines_accepts_it():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(SimulatorEnv("push2d", max_steps=5))


def test_the_outermost_actions_of_an_algorithm_are_taken(scripted):
    """stable-baselines3 scales [-1, 1] to the bounds, here -2 and 6, and may round beyond them."""
    algorithms = pytest.importorskip("stable_baselines3")
    environment = scripted()
    agent = algorithms.SAC("MlpPolicy", environment, buffer_size=10)
    environment.reset()
    for value in (-1.0, 1.0):
        environment.step(agent.policy.unscale_action(np.array([value], np.float32)))
    assert environment.state_dict()["actions"].ravel().tolist() == [-2, 6]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"purpose": "play"}, "purpose must be one of 'training', 'evaluation', 'demonstration', got 'play'"),
        ({"num_stack": 0}, "num_stack must be at least 1, got 0"),
        ({"num_stack": 6}, r"frame_size must be at least 3 \* num_stack = 18, got 16: raise it, or lower num_stack"),
        ({"action_repeat": 0}, "action_repeat must be at least 1, got 0"),
        ({"max_steps": -1}, "max_steps must be at least 1, got -1"),
        ({"success_bonus": float("nan")}, "success_bonus must be finite, got nan"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_frames_must_be_square():
    with pytest.raises(ValueError, match="simulators render squares, and the frames are to be 64 x 48"):
        SimulatorEnv("push2d", (64, 48))


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match=r"CartPole-v1 has the actions Discrete\(2\); a bounded one-dimensional Box"):
        SimulatorEnv("CartPole-v1")


def test_an_environment_that_does_not_render_is_refused_at_once(scripted, monkeypatch):
    def render(self):
        raise ValueError("Blind-v0 does not render RGB images: got NoneType")

    monkeypatch.setattr(Scripted, "render", render)
    with pytest.raises(ValueError, match="Blind-v0 does not render RGB images"):
        scripted()


def test_frames_of_another_size_are_refused(scripted, monkeypatch):
    monkeypatch.setattr(Scripted, "render", lambda self: np.zeros((8, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"count must render \(16, 16, 3\) uint8, got \(8, 16, 3\) uint8"):
        scripted()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0, 0.0, 0.0], "must be .*finite numbers, got"),
        ([np.nan, 0.0], "must be .*finite numbers, got"),
        ([0.0, 1.1], "must lie between"),
    ],
)
def test_actions_that_do_not_fit_are_refused(action, message):
    environment = make()
    environment.reset()
    with pytest.raises(ValueError, match=message):
        environment.step(np.array(action, np.float32))


def test_an_action_that_was_rounded_beyond_a_bound_is_taken():
    environment = make()
    environment.reset()
    environment.step(np.nextafter(environment.action_space.high, np.float32(2)))
    assert environment.state_dict()["actions"].tolist() == [[1, 1]]


def test_an_episode_that_is_over_needs_a_reset():
    environment = make(max_steps=1)
    with pytest.raises(ValueError, match="call reset"):
        environment.step(environment.action_space.low)
    environment.reset()
    environment.step(environment.action_space.low)
    with pytest.raises(ValueError, match="call reset"):
        environment.step(environment.action_space.low)


def test_there_are_no_options():
    with pytest.raises(ValueError, match="has no options, got start"):
        make().reset(options={"start": 1})


# -- Meta-world -------------------------------------------------------------------------------------------------------


def test_meta_world_goes_on_exactly():
    pytest.importorskip("metaworld")
    environment = make("metaworld/plate-slide")
    environment.reset(seed=1)
    for _ in range(3):
        environment.step(np.array([0.3, 1, -0.5, 0.2], np.float32))
    other = make("metaworld/plate-slide")
    other.reset(seed=9)
    other.load_state_dict(environment.state_dict())
    action = np.array([0, 1, -1, 0], np.float32)
    expected, step = environment.step(action), other.step(action)
    for e in (environment, other):
        e.close()
    np.testing.assert_array_equal(step[0], expected[0])
    assert step[1:] == expected[1:]
