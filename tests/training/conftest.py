"""Tiny trainings: data, yaml files, and how to run a command in this process.

Every fixture that ends in ``_config`` gives the path of a yaml file whose ``output_dir`` is ``tmp_path / "out"``, or
``tmp_path / "tokens"`` where it is of ``tokenize``. What a test needs otherwise, it sets on the command line:
``run("train-vq", vq_config, "--num_updates", 8)``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.clips.dataset import ClipKey
from ivideogpt_hf.data.clips.tokens import TokenDataset
from tests.conftest import TRANSFORMER_SETTINGS, VQ_SETTINGS, build_vq_model
from tests.data.files import make_dataset

# Six updates on clips of five frames, two of them context, four clips at a time; 18 such batches are an epoch.
SHORT_RUN = {
    "num_frames": 5,
    "augmentation": "none",
    "num_updates": 6,
    "batch_size": 4,
    "learning_rate": 1.0e-3,
    "warmup_updates": 0,
    "log_every": 1,
    "validate_every": 0,
    "save_every": 50,
    "num_validation_batches": 2,
}


def run(command: str, config: Path | None, *overrides: object) -> int:
    """Run a command of ``ivideogpt`` in this process, with options such as ``"--num_updates", 8``; its exit code."""
    named = [] if config is None else ["--config", str(config)]
    return main([command, *named, *map(str, overrides)])


def write_yaml(file: Path, settings: dict[str, Any]) -> Path:
    """A config file."""
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def metrics_of(output: Path) -> list[dict[str, Any]]:
    """The entries that a run wrote, without what depends on the machine's speed."""
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "clips_per_second"} for line in lines]


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    """All weights that a finished run left, by file and name."""
    files = sorted(file for part in ("tokenizer", "transformer") for file in (output / part).glob("*.safetensors"))
    assert files, f"no weights in {output}"
    return {f"{file.parent.name}/{name}": value for file in files for name, value in load_file(file).items()}


def assert_same_weights(first: Path, second: Path) -> None:
    """Equal to the bit."""
    one, other = weights_of(first), weights_of(second)
    assert one.keys() == other.keys()
    different = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert not different


def all_tokens(folder: Path) -> list[list[int]]:
    """Of every training clip that ``tokenize`` wrote."""
    dataset = TokenDataset(folder, "train")
    return [dataset[ClipKey(0, 0, index)]["tokens"].tolist() for index in range(len(dataset))]


@pytest.fixture(autouse=True)
def _fresh_accelerate(fresh_accelerate: None) -> None:
    """Of every training."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in our schema: 8 episodes to train on and 2 (numbers 1 and 7) held out as "test", each of 13 frames
    of 16 x 16 pixels, with actions 3 wide and rewards."""
    pytest.importorskip("datasets")
    return make_dataset(tmp_path_factory.mktemp("data") / "arm", [13] * 10, test_fraction=0.3)


@pytest.fixture(scope="session")
def vq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VQ model, saved as a training leaves it: 64 tokens for a context frame, 4 for a future frame."""
    output = tmp_path_factory.mktemp("vq")
    build_vq_model(attention_dropout=0.0).save_pretrained(output / "tokenizer")
    return output


@pytest.fixture
def vq_config(folder: Path, tmp_path: Path) -> Path:
    """yaml of a tiny ``train-vq``."""
    own = {"vq_config": VQ_SETTINGS | {"attention_dropout": 0.0}, "perceptual_weight": 0.0}
    settings = SHORT_RUN | own | {"data": str(folder), "output_dir": str(tmp_path / "out")}
    return write_yaml(tmp_path / "vq.yaml", settings)


@pytest.fixture
def world_config(folder: Path, vq_folder: Path, tmp_path: Path) -> Path:
    """yaml of a tiny ``train``, conditioned on actions, with a reward head."""
    own = {
        "vq_model": str(vq_folder),
        "transformer_config": TRANSFORMER_SETTINGS,
        "actions": True,
        "rewards": True,
        "attention_dropout": 0.0,
    }
    settings = SHORT_RUN | own | {"data": str(folder), "output_dir": str(tmp_path / "out")}
    return write_yaml(tmp_path / "world.yaml", settings)


@pytest.fixture
def tokens_config(folder: Path, vq_folder: Path, tmp_path: Path) -> Path:
    """yaml of a tiny ``tokenize``."""
    settings = {
        "data": str(folder),
        "vq_model": str(vq_folder),
        "output_dir": str(tmp_path / "tokens"),
        "num_frames": 5,
        "augmentation": "none",
        "actions": True,
        "rewards": True,
    }
    return write_yaml(tmp_path / "tokens.yaml", settings)
