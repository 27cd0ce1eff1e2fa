"""Data sets on the Hub, through a local stand-in: one process plays all scenes, each test looks at one."""

import json

import pytest
from huggingface_hub import DatasetCard

from ivideogpt_hf.data.readers import open_episodes
from tests.data.files import make_dataset, make_episode, write_lerobot, write_npz_folder
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.started import HUB_PORT, Started

pytest.importorskip("datasets")

SCENES = """
import json, os
from datasets import load_dataset
from ivideogpt_hf.cli import main
from ivideogpt_hf.data.clips.loader import load_clips
from ivideogpt_hf.data.convert.publishing import push_dataset
from ivideogpt_hf.data.readers import open_episodes
from ivideogpt_hf.data.clips.segments import SegmentSpec
from tests.data.clips.test_loader import clips

results = {}

def scene(name, play):
    try:
        results[name] = play()
    except (OSError, ValueError) as error:
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")  # what users catch
        results[name] = f"{kind.__name__}: {error}"

from pathlib import Path
Path("OUT.yaml").write_text("title: My arm\\nlicense: mit\\nsource: My desk.")
Path("OUT.bad.yaml").write_text("license: mine")
scene("bad card", lambda: main(
    ["convert-data", "NPZ", "OUT.other", "--push", "tester/refused", "--card", "OUT.bad.yaml", "--num-workers", "1"]))
scene("convert and push", lambda: main(
    ["convert-data", "NPZ", "OUT", "--card", "OUT.yaml", "--push", "tester/pushed", "--private", "--test-fraction",
    "0.3", "--num-workers", "1"]))
Path("OUT/.lock").write_text("process 7 on a-machine")  # a kill leaves such files
Path("OUT/report.json.7-ab.partial").write_text("{")
scene("push again", lambda: main(
    ["convert-data", "NPZ", "OUT", "--push", "tester/pushed", "--test-fraction", "0.3", "--num-workers", "1"]))
scene("push to another user", lambda: push_dataset(Path("OUT"), "somebody/pushed"))
scene("load", lambda: {split: list(rows["episode_id"]) for split, rows in load_dataset("tester/pushed").items()})
scene("iterate", lambda: [
    row["num_frames"] for row in load_dataset("tester/pushed", split="test", streaming=True)])
for streaming in (False, True):
    scene(f"clips {streaming}", lambda: clips(
        load_clips("tester/public", batch_size=4, segment=SegmentSpec(6), streaming=streaming, num_workers=2)))
scene("lerobot", lambda: [episode.actions.tolist() for episode in open_episodes("tester/lerobot", cameras=["wrist"])])
scene("episodes", lambda: open_episodes("tester/public")[2].actions.tolist())
scene("missing", lambda: open_episodes("tester/nothing"))
scene("missing clips", lambda: load_clips("tester/nothing", batch_size=1))
scene("missing stream", lambda: load_clips("tester/nothing", batch_size=1, streaming=True))
del os.environ["HF_TOKEN"]
scene("gated", lambda: open_episodes("tester/gated"))
scene("gated clips", lambda: load_clips("tester/gated", batch_size=1))
scene("gated stream", lambda: load_clips("tester/gated", batch_size=1, streaming=True))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub(folder):
    hub = FakeHub(port=HUB_PORT)
    hub.add("datasets/tester/public", make_dataset(folder / "public", [8, 9, 10] * 4, num_shards=6))
    hub.add("datasets/tester/gated", make_dataset(folder / "gated", [8]), gated=True)
    write_lerobot(folder / "lerobot", [5, 6])
    hub.add("datasets/tester/lerobot", folder / "lerobot")
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def results(folder, hub):
    npz = write_npz_folder(folder / "npz", [5] * 20)
    scenes = SCENES.replace("NPZ", str(npz)).replace("OUT", str(folder / "out"))
    process = Started(code=scenes, log=folder / "log", environment={"HF_TOKEN": TOKEN})
    assert process.wait(300) == 0, process.output
    return json.loads(process.output.splitlines()[-1])


def test_pushing_twice_is_harmless(results):
    assert results["convert and push"] == 0
    assert results["push again"] == 0


def test_the_card_says_what_a_person_says(hub, results):
    repo = hub.repos["datasets/tester/pushed"]
    first = next(files for files in repo.commits.values() if "README.md" in files)
    card = first["README.md"].decode()
    assert "license: mit" in card
    assert "# My arm" in card
    assert "My desk." in card
    assert "20 episodes" in card


def test_the_card_names_its_repository(hub, results):
    repo = hub.repos["datasets/tester/pushed"]
    card = DatasetCard(repo.commits[repo.head]["README.md"].decode())
    assert 'load_dataset("tester/pushed", split="train")' in card.content
    assert "# pushed" in card.content  # nobody gave the second push a title


def test_the_cards_metadata_is_for_the_hub(hub, results):
    repo = hub.repos["datasets/tester/pushed"]
    data = DatasetCard(repo.commits[repo.head]["README.md"].decode()).data
    assert data.license == "unknown"
    assert data.task_categories == ["robotics", "image-to-video"]
    assert {"world-model", "world-models", "video-prediction", "robotics"} <= set(data.tags)


def test_a_card_that_the_hub_refuses_is_not_uploaded(hub, results):
    assert results["bad card"] == 2
    assert "datasets/tester/refused" not in hub.repos


def test_what_is_pushed_is_data_card_and_pictures(results, hub):
    repo = hub.repos["datasets/tester/pushed"]
    names = set(repo.commits[repo.head])
    assert {"README.md", "report.json", "contact_sheet.png"} <= names
    assert not any(name.startswith(".conversion") for name in names)
    assert repo.private


def test_what_a_kill_left_is_not_pushed(results, hub):
    repo = hub.repos["datasets/tester/pushed"]
    names = [name for files in repo.commits.values() for name in files]
    assert not [name for name in names if name == ".lock" or name.endswith(".partial")]


def test_plain_load_dataset_finds_the_splits(results):
    assert set(results["load"]) == {"train", "test"}
    assert len(results["load"]["train"]) + len(results["load"]["test"]) == 20


def test_plain_streaming_works(results):
    assert results["iterate"] == [5] * len(results["load"]["test"])


@pytest.mark.parametrize("streaming", [False, True])
def test_clips_from_the_hub_are_those_from_disk(results, folder, streaming):
    from ivideogpt_hf.data.clips.loader import load_clips
    from ivideogpt_hf.data.clips.segments import SegmentSpec
    from tests.data.clips.test_loader import clips

    local = load_clips(str(folder / "public"), batch_size=4, segment=SegmentSpec(6), streaming=streaming)
    assert [tuple(clip) for clip in results[f"clips {streaming}"]] == clips(local)


def test_lerobot_data_sets_are_read_by_id(results, folder):
    expected = [episode.actions.tolist() for episode in open_episodes(folder / "lerobot")]
    assert results["lerobot"] == expected


def test_our_data_sets_are_read_by_id(results):
    assert results["episodes"] == make_episode(2, 10).actions.tolist()


def test_a_refused_push_is_told_as_that_of_a_checkpoint(results):
    assert results["push to another user"].startswith("OSError: the Hub refused the data set somebody/pushed")


@pytest.mark.parametrize("scene", ["missing", "missing clips", "missing stream"])
def test_a_missing_data_set_is_named(results, scene):
    assert results[scene].startswith("FileNotFoundError")
    assert "tester/nothing" in results[scene]


@pytest.mark.parametrize("scene", ["gated", "gated clips", "gated stream"])
def test_a_gated_data_set_is_told_as_a_gated_checkpoint(results, scene):
    assert results[scene].startswith("OSError: the data set tester/gated is gated: ask for access")
