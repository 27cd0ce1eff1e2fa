"""scripts/embed_default.py and embed_push2d.py make checkpoints with an episode and metrics of what trainings left."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ivideogpt_hf import IVideoGPTForCausalLM, WorldModel, read_actions, read_video
from tests.data.files import MemoryReader, convert, make_episode
from tests.training.conftest import run, weights_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
LENGTH = 26
STAGES = ("vq_l1", "vq", "world_constant", "world")  # with the numbers of their places as losses


@pytest.fixture
def data(tmp_path):
    """Ten episodes of two tasks, of which some are held out."""
    episodes = [replace(make_episode(i, LENGTH), task=f"task {i % 2}") for i in range(10)]
    return convert(MemoryReader(episodes), tmp_path / "data", test_fraction=0.3)


@pytest.fixture
def runs(data, vq_folder, tokens_config, world_config, tmp_path):
    """A folder with a training of each stage; of "vq_l1" and "world_constant" only the metrics are there."""
    assert run("tokenize", tokens_config, "--data", data) == 0
    folder = tmp_path / "runs"
    shutil.copytree(vq_folder, folder / "vq")
    short = ("--num_updates", 2, "--vq_model", folder / "vq", "--tokens", tmp_path / "tokens", "--data", "null")
    assert run("train", world_config, *short, "--output_dir", folder / "world") == 0
    for loss, stage in enumerate(STAGES):
        (folder / stage).mkdir(exist_ok=True)
        (folder / stage / "metrics.jsonl").write_text(json.dumps({"update": 500, "loss": loss}) + "\n")
    return folder


@pytest.fixture
def embed(data, monkeypatch):
    """Run one of the scripts, as its first lines say."""

    def call(name, *arguments):
        monkeypatch.syspath_prepend(SCRIPTS)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--data", str(data)])
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")

    return call


def test_trainings_become_a_checkpoint(runs, embed, tmp_path):
    target, scenes = tmp_path / "default", tmp_path / "scenes.npz"
    embed("embed_default.py", runs, target, "--scenes", scenes)

    stored, trained = weights_of(target), weights_of(runs / "world")
    assert stored.keys() == trained.keys()
    assert all(value.dtype == torch.float16 and value.equal(trained[name].half()) for name, value in stored.items())
    world = WorldModel.from_pretrained(target)
    networks = [world.vq_model, IVideoGPTForCausalLM.from_pretrained(target, subfolder="transformer")]
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.float32}
    frames, actions = read_video(target / "episode.npz"), read_actions(target / "episode.npz")
    assert (len(frames), len(actions)) == (25, 24)
    clip = frames[None, : world.spec.num_context_frames]
    assert world.rollout(clip, actions[None, 1:3]).frames.shape == (1, 2, *frames.shape[1:])
    metrics = json.loads((target / "metrics.json").read_text())
    assert [source["fingerprint"] for source in metrics["data"]]
    with np.load(scenes) as saved:
        assert len(saved["frames"]) == len(saved["tasks"]) > 0
        assert set(saved["tasks"]) <= {"task 0", "task 1"}


def test_a_world_of_push2d_brings_the_curves_of_both_networks(runs, embed, tmp_path):
    target = tmp_path / "push2d"
    embed("embed_push2d.py", runs / "world", target)

    assert {value.dtype for value in weights_of(target).values()} == {torch.float16}
    assert len(read_video(target / "episode.npz")) == 21
    metrics = json.loads((target / "metrics.json").read_text())
    assert metrics["curves"] == {
        "vq_model": {"vq": [{"update": 500, "loss": 1}]},
        "transformer": {"world": [{"update": 500, "loss": 3}]},
    }
    assert (SCRIPTS.parent / metrics["commands"][0]).is_file()
