"""scripts/embed_default.py makes a checkpoint with an episode, metrics and scenes of what trainings left."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ivideogpt_hf import IVideoGPTForCausalLM, WorldModel, read_actions, read_video
from tests.data.files import MemoryReader, convert, make_episode
from tests.training.conftest import run, weights_of

SCRIPT = Path(__file__).parents[2] / "scripts/embed_default.py"
LENGTH = 26


def test_trainings_become_a_checkpoint(tmp_path, tokens_config, world_config, monkeypatch):
    episodes = [replace(make_episode(i, LENGTH), task=f"task {i % 2}") for i in range(10)]
    data = convert(MemoryReader(episodes), tmp_path / "data", test_fraction=0.3)
    assert run("tokenize", tokens_config, "--data", data) == 0
    runs = tmp_path / "runs"
    short = ("--num_updates", 2, "--tokens", tmp_path / "tokens", "--data", "null")
    assert run("train", world_config, *short, "--output_dir", runs / "world") == 0
    for stage in ("vq_l1", "vq", "world_constant"):  # of these only the metrics are read
        (runs / stage).mkdir()
        shutil.copy(runs / "world/metrics.jsonl", runs / stage)
    target, scenes = tmp_path / "default", tmp_path / "scenes.npz"
    options = ["--scenes", scenes, "--data", data]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, [runs, target, *options])])
    runpy.run_path(str(SCRIPT), run_name="__main__")

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
