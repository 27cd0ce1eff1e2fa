"""What visitors may choose, who counts as local, and where games begin."""

import shutil

import pytest
import yaml

from ivideogpt_hf import EXAMPLE_EPISODE, read_video
from ivideogpt_hf.checkpoints.family import FAMILY_ID, GENERAL_ID, RELEASED_IDS
from ivideogpt_hf.hub.errors import NotOnHubError
from tests.spaces.conftest import SPACE

import scenes  # isort: skip
import worlds  # isort: skip

HERE = {"host": "127.0.0.1:7860"}


@pytest.fixture
def on_hub(monkeypatch):
    """A Hub on which any id is a small checkpoint."""
    monkeypatch.setattr(worlds, "size_of_files", lambda repo_id, suffix: 2**20)


@pytest.fixture
def saved(world, tmp_path):
    world.save_pretrained(tmp_path / "owner/model")
    return tmp_path / "owner/model"


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        ("127.0.0.1", HERE, True),
        ("127.0.0.1", {"Host": "localhost:7860"}, True),
        ("::1", {"host": "[::1]:7860"}, True),
        ("192.168.1.7", HERE, False),
        ("192.168.1.7", {"host": "192.168.1.2:7860"}, False),
        ("127.0.0.1", {"host": "evil.example"}, False),  # a name that a foreign page gave to this machine
        ("127.0.0.1", HERE | {"X-Forwarded-For": "127.0.0.1"}, False),
        ("127.0.0.1", HERE | {"forwarded": "for=1.2.3.4"}, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"host": "["}, False),
        (None, HERE, False),
    ],
)
def test_a_visitor_is_local_where_nothing_lies_between(client, headers, expected):
    assert worlds.is_local(client, headers) is expected


def test_nobody_is_local_on_a_space(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert not worlds.is_local("127.0.0.1", HERE)


def test_a_local_visitor_plays_folders_and_servers(saved):
    rules = worlds.LoadingRules()
    choice = rules.choose(str(saved), is_local=True)
    assert choice.kind == "folder"
    assert worlds.Worlds(rules).get(choice).world.spec.action_dim == 3
    assert rules.choose("http://127.0.0.1:8000", is_local=True).kind == "address"


def test_others_are_not_told_which_paths_exist(saved, on_hub):
    rules, answers = worlds.LoadingRules(), set()
    for name in (str(saved), str(saved.parent / "absent"), "/etc", "/absent", "..", "http://127.0.0.1:8000"):
        with pytest.raises(ValueError, match="Folders and servers are for visitors of this machine") as error:
            rules.choose(name, is_local=False)
        answers.add(str(error.value))
    assert len(answers) == 1


def test_what_is_named_like_a_hub_id_is_no_folder_for_others(saved, on_hub, monkeypatch):
    monkeypatch.chdir(saved.parents[1])
    choice = worlds.LoadingRules().choose("owner/model", is_local=False)
    assert choice.kind == "hub"
    asked = []

    def download(name, **options):
        asked.append(name)
        raise NotOnHubError(name)

    monkeypatch.setattr(worlds, "download_repository", download)
    with pytest.raises(ValueError, match="cannot be loaded"):
        worlds.Worlds(worlds.LoadingRules()).get(choice)
    assert asked == ["owner/model"]


def test_only_allowed_ids_are_played(on_hub, monkeypatch):
    monkeypatch.setenv("IVIDEOGPT_DEMO_CHECKPOINTS", "a/b, c/d")
    rules = worlds.LoadingRules.from_environment()
    assert rules.choose("c/d", is_local=False).name == "c/d"
    with pytest.raises(ValueError, match="This page plays default, a/b, c/d"):
        rules.choose("e/f", is_local=True)


def test_the_familys_name_is_weighed_as_its_general_member(monkeypatch):
    def size_of_files(repo_id, suffix):
        if repo_id == FAMILY_ID:
            raise NotOnHubError(repo_id)
        assert repo_id == GENERAL_ID
        return 2**30

    monkeypatch.setattr(worlds, "size_of_files", size_of_files)
    assert worlds.LoadingRules().choose(FAMILY_ID, is_local=False).kind == "hub"
    with pytest.raises(ValueError, match="has 1024 MB of weights"):
        worlds.LoadingRules(max_bytes=2**20).choose(FAMILY_ID, is_local=False)


def test_a_downloaded_world_of_large_frames_is_refused(saved, on_hub, monkeypatch):
    monkeypatch.setattr(worlds, "download_repository", lambda name, **options: saved)
    choice = worlds.LoadingRules().choose("owner/model", is_local=False)
    assert worlds.Worlds(worlds.LoadingRules()).get(choice).link == "https://huggingface.co/owner/model"
    monkeypatch.setattr(worlds, "MAX_FRAME_PIXELS", 16 * 16 - 1)
    with pytest.raises(ValueError, match=r"2 context frames of 16 x 16 pixels; at most"):
        worlds.Worlds(worlds.LoadingRules()).get(choice)


def test_games_begin_in_the_checkpoints_own_episode(saved):
    all_worlds = worlds.Worlds(worlds.LoadingRules(), default=str(saved))
    default = worlds.Choice(worlds.DEFAULT, "default")
    assert not all_worlds.get(default).has_own_scenes
    assert all_worlds.get(default).scenes is scenes.GALLERY
    shutil.copy(EXAMPLE_EPISODE, saved / EXAMPLE_EPISODE.name)
    played = worlds.Worlds(worlds.LoadingRules(), default=str(saved)).get(default)
    assert played.has_own_scenes
    episode = read_video(EXAMPLE_EPISODE)
    for number, start in enumerate(played.scenes):
        assert start.equal(episode[6 * number : 6 * number + 4])


def test_the_embedded_checkpoint_begins_in_the_gallery():
    played = worlds.Worlds(worlds.LoadingRules()).get(worlds.Choice(worlds.DEFAULT, "default"))
    assert played.has_own_scenes
    assert played.scenes is scenes.GALLERY


def test_everybody_may_play_another_embedded_checkpoint_in_its_own_scenes():
    choice = worlds.LoadingRules().choose("push2d", is_local=False)
    played = worlds.Worlds(worlds.LoadingRules()).get(choice)
    assert played.has_own_scenes
    assert played.scenes[0].shape[1:] == (3, *played.world.spec.frame_size) == (3, 32, 32)


def test_the_spaces_front_matter_names_the_models_that_it_offers():
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    content = yaml.safe_load(front)
    assert tuple(content["models"]) == RELEASED_IDS
    assert content["suggested_hardware"] == "cpu-basic"
    assert (SPACE / content["app_file"]).is_file()
    assert f"gradio=={content['sdk_version']}" in (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
