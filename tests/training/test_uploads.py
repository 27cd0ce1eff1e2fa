"""Uploads while a training goes on, to a local stand-in for the Hub."""

import os
import subprocess
import sys

import pytest

from tests.hub.fake_hub import TOKEN, FakeHub

pytest.importorskip("accelerate")


@pytest.fixture
def hub():
    hub = FakeHub()
    yield hub
    hub.close()


def train(config, url, home, *options):
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    argv = [sys.executable, "-m", "ivideogpt_hf.cli", "train", "--config", str(config), *options]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def test_the_model_is_uploaded_with_every_checkpoint(world_config, tmp_path, hub):
    options = ("--push_to_hub", "tester/arm", "--hub_private", "--save_every", "3", "--num_updates", "6")
    done = train(world_config, hub.url, tmp_path / "home", *options)
    assert done.returncode == 0, done.stderr
    repo = hub.repos["tester/arm"]
    assert repo.private
    uploads = [files for files in repo.commits.values() if "model_index.json" in files]
    assert len(uploads) == 2
    assert {"tokenizer/model.safetensors", "transformer/model.safetensors", "training.json", "metrics.jsonl"} <= set(
        uploads[-1]
    )
    weights = (tmp_path / "out/transformer/model.safetensors").read_bytes()
    assert repo.commits[repo.head]["transformer/model.safetensors"] == weights


@pytest.mark.parametrize("repo_id", ["tester/arm", "not/an/id"], ids=["no network", "no id"])
def test_what_cannot_be_uploaded_is_told_before_the_training(world_config, tmp_path, repo_id):
    done = train(world_config, "http://127.0.0.1:9", tmp_path / "home", "--push_to_hub", repo_id)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "ivideogpt: error:" in line]
    assert repo_id in line
    assert not (tmp_path / "out/metrics.jsonl").exists()
