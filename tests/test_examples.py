"""The programs in examples/ run."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ivideogpt_hf import WorldModel
from tests.conftest import build_world
from tests.data.files import make_dataset

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
HEADER = re.compile(r"# /// script\n(?P<content>(?:# .*\n)+?)# ///\n")  # PEP 723


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


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_says_what_uv_must_install(program):
    header = HEADER.match(program.read_text(encoding="utf-8"))
    content = tomllib.loads(re.sub(r"^# ", "", header["content"], flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert content["requires-python"] == project["requires-python"]
    (requirement,) = content["dependencies"]
    name, extras = re.fullmatch(r"([\w-]+)\[([\w,]+)\]", requirement).groups()
    assert name == project["name"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize(
    ("training", "is_requeued"),
    [
        ("mkdir -p out/checkpoints/update-00000002; exit 1", True),  # it was stopped, and has saved
        ("exit 1", False),  # it fails at the same update each time
        ("mkdir -p out/checkpoints/update-00000002; touch out/model_index.json", False),  # it is finished
    ],
)
def test_a_slurm_job_is_requeued_if_it_got_further_and_is_not_finished(tmp_path, training, is_requeued):
    programs, config = tmp_path / "bin", tmp_path / "world.yaml"
    programs.mkdir()
    config.write_text("output_dir: out\n")
    (tmp_path / "out/checkpoints/update-00000001").mkdir(parents=True)
    for name, code in (("srun", training), ("scontrol", f"echo $1 >> {tmp_path}/calls")):
        (programs / name).write_text(f"#!/bin/bash\n{code}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    environment = {"PATH": path, "SLURM_JOB_NODELIST": "a,b", "SLURM_JOB_ID": "7"}
    script = ["bash", EXAMPLES / "slurm/train.sbatch", config]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert ("requeue" in (tmp_path / "calls").read_text().split()) is is_requeued
