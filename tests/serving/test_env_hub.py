"""The environment that is published as env.py, against a real server: alone with numpy, and in LeRobot's own hands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

import gymnasium

from ivideogpt_hf import Sampling, WorldModelEnv, environment
from ivideogpt_hf.serving import defaults, env_hub
from tests.conftest import build_world, free_port, random_frames
from tests.hub.fake_hub import FakeHub
from tests.serving.conftest import serving as serve

FILE = Path(env_hub.__file__)
STARTS = random_frames(5, 2)
# The Python of an environment in which LeRobot is installed; `make test-lerobot` names it.
LEROBOT_PYTHON = os.environ.get("LEROBOT_PYTHON")

# Everything but the standard library, numpy and gymnasium with what it needs is as if it were not installed.
ALONE = """
import importlib.util, sys
ALLOWED = {"numpy", "gymnasium", "cloudpickle", "typing_extensions", "farama_notifications"} | sys.stdlib_module_names
class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse)
"""
PLAY = """
import numpy as np
spec = importlib.util.spec_from_file_location("hub_env", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
worlds = module.make_env(n_envs=2, use_async_envs=True)
frames, rewards = [worlds.reset(seed=7)[0]["pixels"]], []
for actions in np.load(sys.argv[2]):
    observation, reward, terminations, truncations, _ = worlds.step(actions)
    frames.append(observation["pixels"])
    rewards.append(reward)
worlds.close()
np.savez(sys.argv[3], frames=np.stack(frames, 1), rewards=np.stack(rewards, 1))
"""
# As `lerobot-eval` does it, with a policy that draws actions.
EVALUATE = """
import json, os, sys, torch
from lerobot.envs.factory import make_env
from lerobot.scripts.lerobot_eval import rollout

class Policy(torch.nn.Module):
    def reset(self):
        torch.manual_seed(0)
    def select_action(self, observation):
        self.seen = observation["observation.image"].shape
        return torch.rand(2, 3) * 2 - 1

(worlds,) = make_env("tester/arm", n_envs=2, trust_remote_code=True)["hub_env"].values()
policy, keep = Policy(), lambda value: value
result = rollout(worlds, policy, keep, keep, keep, keep, seeds=[7, 8], return_observations=True)
torch.save({"frames": result["observation"]["observation.image"], "rewards": result["reward"],
            "actions": result["action"], "done": result["done"]}, sys.argv[1])
"""


@pytest.fixture(scope="module")
def world():
    return build_world(
        action_dim=3, predict_reward=True, processor={"action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    )


@pytest.fixture(scope="module")
def server(world):
    with serve(world, starts=STARTS, token="secret") as (url, _):
        yield url


@pytest.fixture
def worlds(server):
    with_token = env_hub.ServedWorlds(server, 2, "secret")
    yield with_token
    with_token.close()


def expected(world, actions):
    """What the same world imagines here: frames (2, T + 1, H, W, 3) and rewards (2, T), of seeds 7 and 8."""
    frames, rewards = [], []
    for seed, row in zip((7, 8), actions, strict=True):
        rng = gymnasium.utils.seeding.np_random(seed)[0]
        start, token_seed = STARTS[rng.integers(len(STARTS), size=1)], int(rng.integers(2**62, size=1)[0])
        rollout = world.rollout(start, row[None], sampling=Sampling(seed=[token_seed]))
        frames.append(torch.cat([start[:, -1:], rollout.frames], dim=1)[0])
        rewards.append(rollout.rewards[0])
    return torch.stack(frames).movedim(2, -1).numpy(), torch.stack(rewards).numpy()


def run(python, code, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run([python, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_needs_numpy_and_gymnasium_only_and_gives_the_worlds_of_the_model(world, server, tmp_path):
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3)).astype(np.float32)
    np.save(tmp_path / "actions.npy", actions)
    variables = {env_hub.SERVER_VARIABLE: server, env_hub.TOKEN_VARIABLE: "secret"}
    run(sys.executable, ALONE + PLAY, FILE, tmp_path / "actions.npy", tmp_path / "played.npz", **variables)
    played = np.load(tmp_path / "played.npz")
    frames, rewards = expected(world, torch.from_numpy(actions).movedim(0, 1))
    assert np.abs(played["frames"].astype(int) - frames).max() <= 1  # a batch of two rounds as one of one does not
    np.testing.assert_allclose(played["rewards"], rewards, atol=1e-5)


def test_a_world_is_that_of_the_package_with_the_same_seed(world, worlds):
    alone = WorldModelEnv(world, STARTS)
    frames, _ = alone.reset(seed=9)
    observation, _ = worlds.reset(seed=[1, 9])
    assert (observation["pixels"][1] == frames.transpose(1, 2, 0)).all()


def test_episodes_end_at_the_horizon_and_the_next_step_begins_new_ones(worlds):
    worlds.reset(seed=0)
    actions = np.zeros((2, 3), np.float32)
    ends = [worlds.step(actions)[3].tolist() for _ in range(env_hub.HORIZON + 2)]
    assert ends == [[False] * 2] * (env_hub.HORIZON - 1) + [[True] * 2] + [[False] * 2] * 2
    assert env_hub.HORIZON == environment.DEFAULT_HORIZON


def test_it_answers_what_lerobot_asks_of_worlds(worlds):
    worlds.reset(seed=0, options={"lerobot_new_rollout": True})
    assert worlds.call("_max_episode_steps") == (env_hub.HORIZON,) * 2
    assert worlds.call("render")[0].shape == (16, 16, 3)
    with pytest.raises(AttributeError, match="no gripper"):
        worlds.call("gripper")


def test_the_server_forgets_worlds_that_are_closed(world):
    with serve(world, starts=STARTS) as (url, service):
        worlds = env_hub.ServedWorlds(url, 1)
        for _ in range(3):
            worlds.reset()
            worlds.step(np.zeros((1, 3), np.float32))
        assert (len(service.sessions), service.sessions.num_states) == (1, 1)
        worlds.close()
        assert len(service.sessions) == 0


def test_a_restarted_server_has_new_worlds(world):
    with serve(world, starts=STARTS) as (url, _):
        worlds = env_hub.ServedWorlds(url, 1)
        worlds.reset()
    with serve(world, starts=STARTS, port=int(url.rsplit(":", 1)[1])):
        with pytest.raises(OSError, match="answers 404"):
            worlds.step(np.zeros((1, 3), np.float32))
        worlds.reset()
        worlds.step(np.zeros((1, 3), np.float32))


def test_a_server_that_is_not_there_is_told_with_the_command_that_starts_one():
    with pytest.raises(OSError, match=r"start one with `ivideogpt serve`, and set IVIDEOGPT_SERVER"):
        env_hub.ServedWorlds(f"http://127.0.0.1:{free_port()}", 1)


def test_a_token_is_shown(server):
    assert env_hub.TOKEN_VARIABLE == defaults.TOKEN_VARIABLE
    with pytest.raises(OSError, match=r"answers 401: .*a token is needed"):
        env_hub.ServedWorlds(server, 1)


@pytest.mark.parametrize(
    ("fields", "starts", "missing"),
    [({"predict_reward": False}, STARTS, "reward head"), ({}, None, "episode.npz"), ({}, STARTS, "action bounds")],
)
def test_a_served_model_that_is_no_environment_is_refused(fields, starts, missing):
    bounds = {} if missing == "action bounds" else {"action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    model = build_world(action_dim=3, processor=bounds, **({"predict_reward": True} | fields))
    with serve(model, starts=starts) as (url, _), pytest.raises(ValueError, match=f"has no {missing}"):
        env_hub.ServedWorlds(url, 1)


def test_what_does_not_fit_is_refused(worlds):
    with pytest.raises(ValueError, match="call reset before step"):
        worlds.step(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="one for each of 2 worlds"):
        worlds.reset(seed=[1])
    worlds.reset()
    for actions in (np.full((2, 3), 2.0), np.zeros((1, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match=r"actions must be \(2, 3\) and lie between"):
            worlds.step(actions)
    with pytest.raises(ValueError, match="n_envs must be at least 1"):
        env_hub.make_env(n_envs=0)


@pytest.mark.skipif(LEROBOT_PYTHON is None, reason="LeRobot has an environment of its own: make test-lerobot")
def test_lerobot_loads_it_from_the_hub_and_evaluates_a_policy_in_it(world, server, tmp_path):
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "env.py").write_bytes(FILE.read_bytes())
    hub = FakeHub()
    hub.add("tester/arm", tmp_path / "arm")
    variables = {env_hub.SERVER_VARIABLE: server, env_hub.TOKEN_VARIABLE: "secret", "HF_ENDPOINT": hub.url}
    variables |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    run(LEROBOT_PYTHON, EVALUATE, tmp_path / "evaluated.pt", **variables)
    hub.close()
    evaluated = torch.load(tmp_path / "evaluated.pt", weights_only=True)
    frames, rewards = expected(world, evaluated["actions"])
    assert evaluated["done"][:, -1].all()
    assert evaluated["rewards"].shape == (2, env_hub.HORIZON)
    assert np.abs((evaluated["frames"] * 255).movedim(2, -1).numpy() - frames).max() <= 1.01
    np.testing.assert_allclose(evaluated["rewards"], rewards, atol=1e-5)
