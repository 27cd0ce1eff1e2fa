"""Uploads while a training goes on, to a local stand-in for the Hub."""

import pytest

from tests.hub.fake_hub import TOKEN, FakeHub
from tests.started import HUB_PORT, Started

pytest.importorskip("accelerate")


def train(config, folder, *options):
    """The command, of a user whom the Hub knows."""
    words = ("train", "--config", config, *options)
    return Started(*words, log=folder / "log", environment={"HF_TOKEN": TOKEN})


def test_the_model_is_uploaded_with_every_checkpoint(world_config, tmp_path):
    hub = FakeHub(port=HUB_PORT)
    options = ("--push_to_hub", "tester/arm", "--hub_private", "--save_every", "3", "--num_updates", "6")
    process = train(world_config, tmp_path, *options)
    code = process.wait()
    hub.close()
    assert code == 0, process.output
    repo = hub.repos["tester/arm"]
    assert repo.private
    uploads = [files for files in repo.commits.values() if "model_index.json" in files]
    assert len(uploads) == 2
    assert {"tokenizer/model.safetensors", "transformer/model.safetensors", "training.json", "metrics.jsonl"} <= set(
        uploads[-1]
    )
    assert "episode.npz" not in uploads[-1]  # a clip of the user's
    weights = (tmp_path / "out/transformer/model.safetensors").read_bytes()
    assert repo.commits[repo.head]["transformer/model.safetensors"] == weights


def test_a_model_is_uploaded_before_anything_is_logged(world_config, tmp_path):
    hub = FakeHub(port=HUB_PORT)
    options = ("--push_to_hub", "tester/arm", "--save_every", "1", "--log_every", "2", "--num_updates", "2")
    process = train(world_config, tmp_path, *options)
    code = process.wait()
    hub.close()
    assert code == 0, process.output


@pytest.mark.parametrize("repo_id", ["tester/arm", "not/an/id"], ids=["no network", "no id"])
def test_what_cannot_be_uploaded_is_told_before_the_training(world_config, tmp_path, repo_id):
    process = train(world_config, tmp_path, "--push_to_hub", repo_id)  # there is no hub
    assert process.wait() == 2, process.output
    (line,) = [line for line in process.output.splitlines() if "ivideogpt: error:" in line]
    assert repo_id in line
    assert not (tmp_path / "out/metrics.jsonl").exists()
