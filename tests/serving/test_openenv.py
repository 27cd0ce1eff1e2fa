"""A published checkpoint as an environment of OpenEnv: the server as its Space starts it, and the client."""

import importlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import suppress

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("openenv.core", reason="make test-openenv")

import gymnasium

from ivideogpt_hf import Sampling
from ivideogpt_hf.publish import prepare
from tests.conftest import build_world, free_port, random_frames
from tests.serving.conftest import wait_for

FRAMES = random_frames(7)
CARD = {"title": "A test", "summary": "Predicts noise.", "license": "mit", "license_note": "Ours."}


@pytest.fixture(scope="module")
def world():
    bounds = {"action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    return build_world(action_dim=3, predict_reward=True, processor=bounds)


@pytest.fixture(scope="module")
def published(world, tmp_path_factory):
    """The folder of the published checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    world.save_pretrained(folder)
    np.savez(folder / "episode.npz", frames=FRAMES.numpy(), actions=np.zeros((6, 3), np.float32))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    with prepare(folder, "tester/arm", folder / "card.yaml") as publication:
        yield publication.folder


@pytest.fixture(scope="module")
def server(published):
    """The address of the server that the Dockerfile starts, for the published checkpoint."""
    dockerfile, port = (published / "ivideogpt_world" / "Dockerfile").read_text(), free_port()
    command = json.loads(re.search(r"^CMD (.*)$", dockerfile, re.MULTILINE)[1])
    where = {"0.0.0.0": "127.0.0.1", "8000": str(port)}
    command = [sys.executable, "-m", *(where.get(word, word) for word in command)]
    variables = os.environ | {"IVIDEOGPT_CHECKPOINT": str(published)}
    with subprocess.Popen(command, cwd=published, env=variables) as process:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), seconds=120)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def answers(url):
    with suppress(OSError), urllib.request.urlopen(url) as response:
        return response.status == 200


@pytest.fixture(scope="module")
def package(published):
    """The published package with the client."""
    sys.path.insert(0, str(published))
    sys.modules.pop("ivideogpt_world", None)  # the checkout's own, where tests run
    yield importlib.import_module("ivideogpt_world")
    sys.path.remove(str(published))


@pytest.fixture
def env(package, server):
    with package.WorldEnv(base_url=server).sync() as connected:
        yield connected


def test_an_episode_is_the_rollout_of_the_world_model(world, package, env):
    actions = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = [env.reset(seed=7)]
    results += [env.step(package.WorldAction(values=row)) for row in actions.tolist()]
    rng = gymnasium.utils.seeding.np_random(7)[0]
    start, token_seed = int(rng.integers(5, size=1)[0]), int(rng.integers(2**62, size=1)[0])
    context = FRAMES[None, start : start + 2]
    rollout = world.rollout(context, actions[None], sampling=Sampling(seed=[token_seed]))
    frames = torch.cat([context[:, -1:], rollout.frames], dim=1)[0].movedim(1, -1).numpy()
    np.testing.assert_array_equal(np.stack([result.observation.pixels for result in results]), frames)
    np.testing.assert_allclose([result.reward for result in results[1:]], rollout.rewards[0].numpy(), atol=1e-6)
    assert results[0].observation.metadata["start"] == start


def test_an_episode_ends_and_refuses_more_steps(package, env):
    env.reset(start=3)
    action = package.WorldAction(values=[0.0] * 3)
    assert [env.step(action).done for _ in range(15)] == [False] * 14 + [True]
    assert env.state().step_count == 15
    with pytest.raises(RuntimeError, match=r"the episodes of worlds .* are over"):
        env.step(action)


def test_clients_have_worlds_of_their_own(package, server, env):
    action = package.WorldAction(values=[0.5] * 3)
    alone = [env.reset(seed=1), env.step(action)]
    with package.WorldEnv(base_url=server).sync() as other:
        both = [env.reset(seed=1)]
        other.reset(seed=2)
        other.step(action)
        both.append(env.step(action))
    assert [result.observation.frame for result in alone] == [result.observation.frame for result in both]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 99}, "start must be 1 numbers of the 5 starts"),
        ({"speed": 2}, "options must be of start and reset_mask, got speed"),
    ],
)
def test_options_that_do_not_fit_are_told_to_the_client(env, options, message):
    with pytest.raises(RuntimeError, match=message):
        env.reset(**options)


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.0], r"actions must have shape \(1, 3\)"), ([2.0] * 3, "actions must be finite and lie between")],
)
def test_actions_that_do_not_fit_are_told_to_the_client(package, env, values, message):
    env.reset()
    with pytest.raises(RuntimeError, match=message):
        env.step(package.WorldAction(values=values))


def test_openenv_takes_the_folder_for_an_environment(published):
    from openenv.cli._cli_utils import validate_env_structure
    from openenv.cli._validation import get_deployment_modes

    validate_env_structure(published / "ivideogpt_world")  # raises where a file is missing that `openenv push` needs
    assert get_deployment_modes(published / "ivideogpt_world")["docker"]


def test_the_web_page_shows_the_frame(package, server, env):
    environment = importlib.import_module("ivideogpt_world.server.environment")
    frame = env.reset(seed=0).observation.frame
    assert f'src="data:image/png;base64,{frame}"' in environment.WorldEnvironment(None).render_web({"frame": frame})
