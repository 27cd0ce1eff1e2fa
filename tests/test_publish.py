"""`ivideogpt publish`, against a local stand-in for the Hub."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ivideogpt_hf import WorldModel
from ivideogpt_hf.cli import main
from ivideogpt_hf.publish import prepare
from ivideogpt_hf.serving import env_hub
from tests.conftest import build_world, random_actions, random_frames
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.started import HUB_PORT, Started

CARD = {"title": "A test", "summary": "Predicts noise.", "license": "mit", "license_note": "Ours."}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with an episode, and a card for it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    build_world(
        action_dim=3, predict_reward=True, processor={"action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    ).save_pretrained(folder)
    frames, actions = random_frames(7).numpy(), random_actions(6, 3).numpy()
    np.savez(folder / "episode.npz", frames=frames, actions=actions, rewards=np.zeros(6, np.float32))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    return folder


@pytest.fixture
def hub():
    served = FakeHub(port=HUB_PORT)
    yield served
    served.close()


def publish(checkpoint, folder, *options, code=0):
    """What the command writes, of a user whom the Hub knows; it must end with this code."""
    words = ("publish", checkpoint, "tester/arm", *options)
    process = Started(*words, log=folder / "log", environment={"HF_TOKEN": TOKEN})
    assert process.wait() == code, process.output
    return process.output


def test_everything_goes_up_in_one_commit(checkpoint, hub, tmp_path):
    output = publish(checkpoint, tmp_path, "--card", checkpoint / "card.yaml")
    empty, files = hub.repos["tester/arm"].commits.values()
    assert not empty
    assert {"README.md", "preview.gif", "env.py", "episode.npz", "model_index.json", "modeling_ivideogpt.py"} <= set(
        files
    )
    assert files["preview.gif"][:4] == b"GIF8"
    assert b"Predicts noise." in files["README.md"]
    assert output.splitlines()[-1].startswith(f"{hub.url}/tester/arm/commit/")


def test_a_dry_run_shows_files_and_card_and_uploads_nothing(checkpoint, hub, tmp_path):
    output = publish(checkpoint, tmp_path, "--card", checkpoint / "card.yaml", "--dry-run")
    assert "transformer/model.safetensors" in output
    assert "# A test" in output
    assert not hub.repos


def test_a_dry_run_needs_no_card_and_an_upload_does(checkpoint, hub, tmp_path):
    output = publish(checkpoint, tmp_path, "--dry-run")
    assert "# arm" in output
    output = publish(checkpoint, tmp_path, code=2)
    assert "--card is missing" in output
    assert not hub.repos


def test_a_folder_that_is_no_checkpoint_is_told_before_a_card_that_is_missing(hub, tmp_path):
    assert "is no iVideoGPT checkpoint" in publish(tmp_path, tmp_path, code=2)


def test_the_record_of_the_training_is_published_and_tells_the_card(tmp_path):
    build_world().save_pretrained(tmp_path / "world")
    record = {"origins": ["owner/vq"], "data": [{"name": "kitchen", "path": "datasets/kitchen"}]}
    (tmp_path / "world" / "training.json").write_text(json.dumps(record))
    with prepare(tmp_path / "world", "tester/arm", None) as publication:
        assert "training.json" in publication.files
        assert publication.card.data.base_model == ["owner/vq"]
        assert "- kitchen" in publication.card.content


def test_a_pull_request_leaves_the_branch_alone(checkpoint, hub, tmp_path):
    output = publish(checkpoint, tmp_path, "--card", checkpoint / "card.yaml", "--pr", "--private")
    repo = hub.repos["tester/arm"]
    assert repo.private
    assert not repo.commits[repo.head]
    assert output.splitlines()[-1].endswith("/discussions/1")


def test_a_card_that_the_hub_would_refuse_stops_everything(checkpoint, hub, tmp_path):
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD | {"license": "mine"}))
    output = publish(checkpoint, tmp_path, "--card", tmp_path / "card.yaml", code=2)
    assert "the Hub would refuse the card" in output
    assert '"license" must be one of' in output
    assert not hub.repos


def test_a_hub_that_cannot_be_reached_is_one_line(checkpoint, hub, tmp_path):
    hub.close()
    output = publish(checkpoint, tmp_path, "--card", checkpoint / "card.yaml", code=2)
    assert output.splitlines()[-1].startswith("ivideogpt: error: the Hub cannot be reached for the card of")


def test_a_checkpoint_without_an_episode_has_no_picture_and_no_environment(tmp_path):
    build_world().save_pretrained(tmp_path / "world")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    with prepare(tmp_path / "world", "tester/arm", tmp_path / "card.yaml") as publication:
        assert not {"preview.gif", "env.py"} & set(publication.files)
        assert "![" not in publication.card.content


@pytest.mark.parametrize("there", [True, False])
def test_a_card_without_a_picture_is_told(checkpoint, tmp_path, capsys, there):
    folder = shutil.copytree(checkpoint, tmp_path / "world")
    if not there:
        (folder / "episode.npz").unlink()
    assert main(["publish", str(folder), "tester/arm", "--dry-run"]) == 0
    assert ("no picture: " in capsys.readouterr().out) == (not there)


def test_an_episode_whose_rows_do_not_fit_its_frames_is_not_drawn(checkpoint, tmp_path):
    """The card's picture reads rows as predictions and conversions do."""
    folder = shutil.copytree(checkpoint, tmp_path / "world")
    frames, actions = random_frames(7).numpy(), random_actions(5, 3).numpy()
    np.savez(folder / "episode.npz", frames=frames, actions=actions, rewards=np.zeros(5, np.float32))
    with (
        pytest.raises(ValueError, match="has 5 rows for the 7 frames"),
        prepare(folder, "tester/arm", folder / "card.yaml"),
    ):
        pass


def test_a_picture_can_be_given(checkpoint, tmp_path):
    (tmp_path / "mine.mp4").write_bytes(b"video")
    with prepare(checkpoint, "tester/arm", checkpoint / "card.yaml", tmp_path / "mine.mp4") as publication:
        assert (publication.folder / "preview.mp4").read_bytes() == b"video"
        assert "(preview.mp4)" in publication.card.content


def test_what_was_published_is_the_same_world(checkpoint):
    with prepare(checkpoint, "tester/arm", checkpoint / "card.yaml") as publication:
        again = WorldModel.from_pretrained(publication.folder)
    original = WorldModel.from_pretrained(checkpoint)
    for name, value in original.transformer.state_dict().items():
        assert value.equal(again.transformer.state_dict()[name])


def test_environments_are_published_for_the_checkpoint(checkpoint):
    """EnvHub's is that of `tests/serving/test_env_hub.py`, and OpenEnv's that of `tests/serving/test_openenv.py`."""
    with prepare(checkpoint, "tester/arm", checkpoint / "card.yaml") as publication:
        folder = publication.folder
        assert (folder / "env.py").read_text() == Path(env_hub.__file__).read_text()
        names = {path.name for path in (folder / "ivideogpt_world").iterdir()}
        assert {"openenv.yaml", "Dockerfile", "README.md", "client.py", "server"} <= names
        texts = [path.read_text() for path in (folder / "ivideogpt_world").rglob("*.*") if path.is_file()]
        assert not any("__CHECKPOINT__" in text for text in texts)
        assert "ENV IVIDEOGPT_CHECKPOINT=tester/arm\n" in (folder / "ivideogpt_world" / "Dockerfile").read_text()


@pytest.mark.parametrize("lack", ["rewards", "bounds"])
def test_what_is_no_environment_is_not_published_as_one(checkpoint, lack, tmp_path):
    """Its weights, card and picture are."""
    processor = {} if lack == "bounds" else {"action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    build_world(action_dim=3, predict_reward=lack != "rewards", processor=processor).save_pretrained(tmp_path)
    shutil.copy(checkpoint / "episode.npz", tmp_path)
    with prepare(tmp_path, "tester/arm", checkpoint / "card.yaml") as publication:
        assert not {"env.py", "ivideogpt_world/openenv.yaml"} & set(publication.files)
        assert "preview.gif" in publication.files
