"""Every simulator, as collection uses it: episodes belong to their seeds, actions matter, experts solve tasks."""

import re
import subprocess
import sys

import numpy as np
import pytest

from ivideogpt_hf.extras import how_to_install
from ivideogpt_hf.simulators import Simulator, make_simulator
from tests.conftest import hide_package

# Name of the environment, the package that it needs.
ENVIRONMENTS = {
    "metaworld/plate-slide": "metaworld",
    "robodesk/push_red": "robodesk",
    "pusht": "gym_pusht",
    "push2d": "numpy",
    "push2d/goal-shown": "numpy",
    "Pendulum-v1": "gymnasium",
}
SIZE = 32


def make(name: str, package: str, size: int = SIZE) -> Simulator:
    pytest.importorskip(package)
    if name == "Pendulum-v1":
        pytest.importorskip("pygame", reason="it draws with pygame")
    return make_simulator(name, size)


@pytest.fixture(scope="module", params=ENVIRONMENTS, ids=str)
def simulator(request):
    simulator = make(request.param, ENVIRONMENTS[request.param])
    yield simulator
    simulator.close()


def play(simulator: Simulator, seed: int, num_steps: int = 3) -> tuple[np.ndarray, list[float]]:
    """Frames (num_steps + 1, H, W, 3) and rewards of random actions that belong to the seed."""
    rng = np.random.default_rng(seed)
    simulator.reset(seed)
    frames, rewards = [simulator.render()], []
    for _ in range(num_steps):
        transition = simulator.step(rng.uniform(simulator.action_low, simulator.action_high).astype(np.float32))
        frames.append(simulator.render())
        rewards.append(transition.reward)
    return np.stack(frames), rewards


def solve(simulator: Simulator, seed: int, num_steps: int) -> bool:
    """Whether the expert reaches success within so many actions."""
    simulator.reset(seed)
    for _ in range(num_steps):
        action = np.clip(simulator.expert_action(), simulator.action_low, simulator.action_high)
        if simulator.step(action).success:
            return True
    return False


# -- episodes ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_episode_whatever_came_before(simulator):
    frames, rewards = play(simulator, 1)
    play(simulator, 2, 5)
    again, rewards_again = play(simulator, 1)
    np.testing.assert_array_equal(again, frames)
    assert rewards_again == rewards


def test_another_simulator_gives_the_same_episode(simulator, request):
    name = request.node.callspec.params["simulator"]
    other = make(name, ENVIRONMENTS[name])
    frames, rewards = play(other, 3)
    other.close()
    expected, expected_rewards = play(simulator, 3)
    np.testing.assert_array_equal(frames, expected)
    assert rewards == expected_rewards


@pytest.mark.parametrize("name", ["metaworld/plate-slide", "robodesk/push_red"])
def test_collection_by_workers_frees_the_renderers_before_the_processes_end(name, tmp_path):
    pytest.importorskip(ENVIRONMENTS[name])
    command = [sys.executable, "-m", "ivideogpt_hf.cli", "collect", name, str(tmp_path / "out"), "--num-episodes", "2"]
    command += ["--num-shards", "2", "--num-workers", "2", "--num-frames", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr


def test_seeds_differ(simulator):
    frames = []
    for seed in (1, 2):
        simulator.reset(seed)
        frames.append(simulator.render())
    assert (frames[0] != frames[1]).any()


def test_frames_have_the_size_that_was_asked_for(simulator):
    frames, _ = play(simulator, 0)
    assert frames.shape == (4, SIZE, SIZE, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 5  # not an empty picture


def test_frames_of_earlier_steps_stay_as_they_were(simulator):
    simulator.reset(0)
    frame = simulator.render()
    kept = frame.copy()
    simulator.step(simulator.action_high)
    assert (frame == kept).all()


def test_a_seed_leaves_numpys_generator_alone(simulator):
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    simulator.reset(0)
    assert np.random.random() == expected


def test_opposite_actions_lead_to_different_frames(simulator):
    frames = []
    for action in (simulator.action_low, simulator.action_high):
        simulator.reset(0)
        simulator.step_repeatedly(action, 3)
        frames.append(simulator.render())
    assert (frames[0] != frames[1]).any()


def test_a_kept_state_has_the_same_future(simulator):
    """To what a physics engine remembers of contacts, which Push-T's does not give."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(simulator.action_low, simulator.action_high, (6, len(simulator.action_low)))
    simulator.reset(0)
    for action in actions[:3]:
        simulator.step(action.astype(np.float32))
    if simulator.task == "Pendulum-v1":
        with pytest.raises(ValueError, match="cannot be saved"):
            simulator.get_state()
        return
    state = simulator.get_state()
    futures = []
    for _ in range(2):
        simulator.set_state(state)
        first = simulator.render().astype(int)
        rewards = [simulator.step(action.astype(np.float32)).reward for action in actions[3:]]
        futures.append((first, rewards, simulator.render().astype(int)))
    (first, rewards, last), (first_again, rewards_again, last_again) = futures
    assert (first == first_again).all()
    assert rewards == pytest.approx(rewards_again, abs=1e-3)
    assert abs(last - last_again).mean() < 0.05


def test_bounds_and_names_agree(simulator):
    low, high = simulator.action_low, simulator.action_high
    assert low.dtype == high.dtype == np.float32
    assert (low < high).all()
    assert simulator.action_names is None or len(simulator.action_names) == len(low) == len(high)


# -- Meta-world's environments are kept between episodes --------------------------------------------------------------


# The rewards of "sweep" depend on an attribute that is a view of the simulation's memory.
@pytest.mark.parametrize("task", ["button-press", "sweep"])
def test_a_kept_environment_gives_the_episodes_of_a_new_one(task):
    kept = make(f"metaworld/{task}", "metaworld")
    play(kept, 2, 20)
    new = make(f"metaworld/{task}", "metaworld")
    expected, expected_rewards = play(new, 5, 20)
    frames, rewards = play(kept, 5, 20)
    for simulator in (kept, new):
        simulator.close()
    np.testing.assert_array_equal(frames, expected)
    assert rewards == expected_rewards


def test_an_episode_does_not_depend_on_the_seed_that_came_first():
    frames = []
    for first in (0, 2**32 - 1):
        simulator = make("metaworld/reach", "metaworld")
        simulator.reset(first)
        frames.append(play(simulator, 5)[0])
        simulator.close()
    np.testing.assert_array_equal(*frames)


def test_rewards_follow_a_state_that_was_put_back():
    simulator = make("metaworld/sweep", "metaworld")
    simulator.reset(5)
    state, rewards = simulator.get_state(), []
    for _ in range(2):
        simulator.set_state(state)
        rewards.append([simulator.step(np.clip(simulator.expert_action(), -1, 1)).reward for _ in range(15)])
    simulator.close()
    assert rewards[0] == rewards[1] == pytest.approx(play_expert(5, 15))


def play_expert(seed: int, num_steps: int) -> list[float]:
    """Rewards of the expert of "sweep" in an environment whose state was never put back."""
    simulator = make("metaworld/sweep", "metaworld")
    simulator.reset(seed)
    rewards = [simulator.step(np.clip(simulator.expert_action(), -1, 1)).reward for _ in range(num_steps)]
    simulator.close()
    return rewards


# -- Push-2D's goal ---------------------------------------------------------------------------------------------------


def test_the_goal_can_be_shown():
    frames = []
    for name in ("push2d", "push2d/goal-shown"):
        simulator = make_simulator(name, SIZE)
        simulator.reset(0)
        x, y = (simulator.goal_position * SIZE).astype(int)
        frames.append(simulator.render()[y, x])
    assert frames[0].tolist() == [236, 232, 222]
    assert frames[1].tolist() == [165, 185, 225]


# -- RoboDesk's own faults --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def robodesk():
    simulator = make("robodesk/flat_block_off_table", "robodesk")
    yield simulator
    simulator.close()


def test_robodesk_observes_positions_of_objects(robodesk):
    robodesk.reset(0)
    observation = robodesk.observation
    assert observation["qpos_objects"].shape == (29,)
    assert observation["qvel_objects"].shape == (26,)
    robodesk.reset(0)
    assert (observation["image"] == robodesk.render()).all()


def test_robodesks_observations_do_not_change_afterwards(robodesk):
    robodesk.reset(0)
    observation = robodesk.observation
    before = observation["end_effector"].copy()
    robodesk.step(robodesk.action_high)
    assert (observation["end_effector"] == before).all()
    assert np.linalg.norm(robodesk.observation["end_effector"] - before) > 0.02


def test_robodesk_notices_that_a_block_moved(robodesk):
    robodesk.reset(0)
    environment = robodesk._environment
    assert environment._did_not_move("ball")
    environment.physics.named.data.qpos["ball"][0] += 0.2
    environment.physics.forward()
    assert not environment._did_not_move("ball")


def test_a_block_off_the_table_counts_though_others_moved(robodesk):
    robodesk.reset(0)
    data = robodesk._environment.physics.named.data
    data.qpos["ball"][:3] = 0, 0.7, 1.5
    data.qpos["flat_block"][:3] = 0, -2, 0.3
    assert robodesk.step(np.zeros(5, np.float32)).success


# -- experts ----------------------------------------------------------------------------------------------------------


def test_the_expert_slides_the_plate():
    simulator = make("metaworld/plate-slide", "metaworld")
    assert solve(simulator, 0, 100)
    simulator.close()


@pytest.mark.parametrize("task", ["push_red", "push_green", "push_blue"])
def test_the_expert_pushes_the_button(task):
    simulator = make(f"robodesk/{task}", "robodesk")
    assert any(solve(simulator, seed, 15) for seed in range(3))
    simulator.close()


def test_the_expert_covers_more_of_the_goal_than_the_block_did():
    simulator = make("pusht", "gym_pusht")
    simulator.reset(4)
    rewards = [simulator.step(np.clip(simulator.expert_action(), 0, 512)).reward for _ in range(150)]
    assert max(rewards) > rewards[0] + 0.3
    simulator.close()


@pytest.mark.parametrize(("name", "package"), [("robodesk/lift_ball", "robodesk"), ("Pendulum-v1", "gymnasium")])
def test_without_an_expert_there_is_an_error(name, package):
    simulator = make(name, package)
    simulator.reset(0)
    with pytest.raises(ValueError, match="no scripted expert"):
        simulator.expert_action()
    simulator.close()


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        ("metaworld/fly", "metaworld", "no task 'fly'.*plate-slide"),
        ("robodesk/fly", "robodesk", "no task 'fly'.*push_red"),
        ("push2d/fly", "numpy", "no task 'fly'.*goal-shown"),
        ("Fly-v0", "gymnasium", "cannot make 'Fly-v0'"),
    ],
)
def test_unknown_tasks_are_refused(name, package, message):
    pytest.importorskip(package)
    with pytest.raises(ValueError, match=message):
        make_simulator(name, SIZE)


def test_an_environment_without_rendering_is_refused(monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")

    class Blind(gymnasium.Env):
        action_space = gymnasium.spaces.Box(-1, 1, (2,))
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium declares it so)

        def __init__(self, render_mode):
            self.render_mode = render_mode

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def render(self):
            return None

    spec = gymnasium.envs.registration.EnvSpec("Blind-v0", Blind, disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Blind-v0", spec)
    simulator = make_simulator("Blind-v0", SIZE)
    simulator.reset(0)
    with pytest.raises(ValueError, match="Blind-v0 does not render RGB images: got NoneType"):
        simulator.render()


@pytest.mark.parametrize(
    ("takes_mode", "message"),
    [(True, r"Dark-v0 does not render RGB images: its render modes are \['human'\]"), (False, "cannot make 'Dark-v0'")],
)
def test_an_environment_without_pictures_is_refused_before_it_is_played(takes_mode, message, monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")

    class Dark(gymnasium.Env):
        action_space = observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        metadata = {"render_modes": ["human"]}  # noqa: RUF012 (gymnasium declares it so)

    def make_dark(**options):
        if not takes_mode:
            raise TypeError("Dark() takes no arguments")
        return Dark()

    spec = gymnasium.envs.registration.EnvSpec("Dark-v0", make_dark, disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Dark-v0", spec)
    with pytest.raises(ValueError, match=message):
        make_simulator("Dark-v0", SIZE)


@pytest.mark.parametrize(("name", "package"), [item for item in ENVIRONMENTS.items() if item[1] != "numpy"])
def test_without_its_package_the_extra_is_named(name, package, monkeypatch):
    hide_package(monkeypatch, package)
    extra = {"gym_pusht": "pusht"}.get(package, package)
    with pytest.raises(ImportError, match=re.escape(how_to_install(extra))):
        make_simulator(name, SIZE)
