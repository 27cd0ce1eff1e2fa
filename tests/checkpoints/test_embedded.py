"""Embedded checkpoints by name, and that of push2d: small, trained, and what it knows."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from ivideogpt_hf import Sampling, WorldModel, read_actions, read_video
from ivideogpt_hf.checkpoints.layout import EMBEDDED, EPISODE_FILE, METRICS_FILE
from ivideogpt_hf.checkpoints.loading import fetch, weights_hash
from ivideogpt_hf.checkpoints.origins import origins_of
from ivideogpt_hf.cli import main
from ivideogpt_hf.cli.arguments import embedded_checkpoint
from ivideogpt_hf.cli.serve import _load
from ivideogpt_hf.simulators import ENVIRONMENTS
from ivideogpt_hf.training.arguments import WorldModelArguments
from ivideogpt_hf.training.networks import make_transformer

ROOT = Path(__file__).parents[2]
PUSH2D = EMBEDDED["push2d"].folder


@pytest.fixture(scope="module")
def world():
    return WorldModel.from_pretrained("push2d")


@pytest.fixture(scope="module")
def clip():
    """Context, the ten frames after it, and the actions that led to them: windows of the held-out episode."""
    frames, actions = read_video(PUSH2D / EPISODE_FILE), read_actions(PUSH2D / EPISODE_FILE)
    starts = range(0, len(frames) - 12, 3)
    context, future = (torch.stack([frames[s + a : s + b] for s in starts]) for a, b in ((0, 2), (2, 12)))
    return context, future, torch.stack([actions[s + 1 : s + 11] for s in starts])


def error(frames, expected):
    return (frames.float() - expected.float()).square().mean().item()


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_name_means_the_folder_in_the_package(name):
    assert fetch(name) == EMBEDDED[name].folder
    assert fetch(name, subfolder="tokenizer").is_dir()


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_checkpoint_in_a_folder_of_that_name_comes_first(name, tmp_path, monkeypatch):
    (tmp_path / name / "tokenizer").mkdir(parents=True)
    (tmp_path / name / "tokenizer/config.json").touch()
    monkeypatch.chdir(tmp_path)
    assert fetch(name) == Path(name)
    assert embedded_checkpoint(Namespace(checkpoint=name)) is None


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_data_set_in_a_folder_of_that_name_does_not(name, tmp_path, monkeypatch):
    (tmp_path / name / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert fetch(name) == EMBEDDED[name].folder
    assert origins_of([name]) == [name]


@pytest.mark.parametrize("name", EMBEDDED)
def test_its_environment_is_one_that_there_is(name):
    assert EMBEDDED[name].environment in {environment.partition("/")[0] for environment in ENVIRONMENTS}


def test_push2d_has_actions_and_their_bounds(world):
    spec = world.spec
    assert (spec.frame_size, spec.action_dim, spec.has_reward) == ((32, 32), 2, False)
    assert spec.action_bounds == ((-1, -1), (1, 1))


def test_push2d_predicts_what_moves(world, clip):
    context, future, actions = clip
    predicted = world.rollout(context, actions, sampling=Sampling(greedy=True)).frames
    assert error(predicted, future) < 0.6 * error(context[:, -1:].expand_as(future), future)


def test_push2d_follows_actions(world, clip):
    context, future, actions = clip
    right, wrong = (world.rollout(context, a, sampling=Sampling(greedy=True)).frames for a in (actions, -actions))
    assert error(right, future) < 0.6 * error(wrong, future)


def test_the_metrics_of_push2d_name_the_script_that_trains_it():
    metrics = json.loads((PUSH2D / METRICS_FILE).read_text())
    assert [(ROOT / script).is_file() for script in metrics["commands"]] == [True]
    assert {source["split"] for source in metrics["data"]} == {"train"}


def test_predict_takes_the_episode_of_the_embedded_checkpoint(tmp_path, capsys):
    assert main(["predict", "--checkpoint", "push2d", "--output", str(tmp_path / "prediction.gif")]) == 0
    assert f"{PUSH2D / EPISODE_FILE}: rows 1 to 10" in capsys.readouterr().out


def test_a_served_embedded_checkpoint_starts_in_its_own_episode(world):
    served = _load(Namespace(checkpoint="push2d", revision=None, token=None, device="cpu", dtype="float32"))
    assert weights_hash(served.world.transformer) == weights_hash(world.transformer)
    assert (served.name, served.starts.shape[1:]) == ("push2d", (2, 3, 32, 32))


def test_a_training_that_began_from_it_names_no_id_of_the_hub(world):
    arguments = WorldModelArguments(vq_model="push2d", transformer="push2d", actions=True)
    assert make_transformer(arguments, world.layout, 2, 4).config.name_or_path == ""
