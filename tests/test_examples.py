"""The programs in examples/ run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ivideogpt_hf import WorldModel
from tests.conftest import build_world
from tests.data.files import make_dataset

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(program, *options):
    """What the program prints."""
    argv = [sys.executable, EXAMPLES / program, *options]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stock_agent_trains_in_imagined_worlds():
    pytest.importorskip("stable_baselines3")
    printed = run("train_agent.py", "--num-steps", 64, "--num-worlds", 4, "--horizon", 4)
    assert re.search(r"steps: 64 +reward of an episode: \S+ -> \S+", printed)


def test_a_checkpoint_is_fine_tuned_and_measured(tmp_path):
    """With adapters, on a small data set; the table is written beside the new checkpoint."""
    for package in ("datasets", "accelerate", "peft"):
        pytest.importorskip(package)
    data, checkpoint, output = tmp_path / "data", tmp_path / "checkpoint", tmp_path / "output"
    make_dataset(data, [12, 12, 12, 12], test_fraction=0.25)
    build_world(action_dim=3, predict_reward=True, num_trained_frames=4).save_pretrained(checkpoint)
    printed = run("finetune.py", data, output, "--checkpoint", checkpoint, "--num-updates", 2, "--num-clips", 2)
    table = json.loads((output / "finetune.json").read_text())
    assert table["command"].startswith("python examples/finetune.py")
    assert (table["num_updates"], table["num_clips"]) == (2, 2)
    assert table["before"].keys() == table["after"].keys()
    for name, value in table["after"].items():
        assert f"{value:.3f}" in next(line for line in printed.splitlines() if line.startswith(name))
    assert table["after"] != table["before"]
    assert WorldModel.from_pretrained(output).spec.has_reward
