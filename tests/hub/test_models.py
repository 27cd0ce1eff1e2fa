"""The Hub, through a local stand-in: one process plays all scenes, each test looks at one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ivideogpt_hf
from ivideogpt_hf.checkpoints.released import save_released
from tests.conftest import build_world
from tests.hub.fake_hub import TOKEN, FakeHub

SCENES = """
import json, sys
import torch
import ivideogpt_hf
from ivideogpt_hf import IVideoGPTForCausalLM, IVideoGPTPipeline, IVideoGPTVQModel, WorldModel
from huggingface_hub import ModelCard
from transformers import AutoModel
from tests.conftest import build_world, random_frames

results = {}

def scene(name, play):
    try:
        results[name] = play()
    except (OSError, ValueError) as error:
        results[name] = f"{type(error).__name__}: {error}"

def total(network):
    return float(sum(p.double().abs().sum() for p in network.parameters()))

world, other = build_world(), build_world(seed=1)
scene("push", lambda: world.push_to_hub("tester/world", token="TOKEN"))
first = results["push"].rsplit("/", 1)[-1]
scene("push again", lambda: other.push_to_hub("tester/world", token="TOKEN", commit_message="Second"))
scene("push by the pipeline", lambda: IVideoGPTPipeline(
    world.vq_model, world.transformer).push_to_hub("tester/pipeline", private=True, token="TOKEN"))

scene("push a network", lambda: world.vq_model.push_to_hub("tester/vq", token="TOKEN"))
scene("card of a network", lambda: ModelCard.load("tester/vq").content)
scene("network by id", lambda: total(IVideoGPTVQModel.from_pretrained("tester/vq")) == total(world.vq_model))

results["weights"] = [total(world.transformer), total(other.transformer)]
scene("by id", lambda: total(WorldModel.from_pretrained("tester/world").transformer))
scene("by revision", lambda: total(WorldModel.from_pretrained("tester/world", revision=first).transformer))
scene("released", lambda: WorldModel.from_pretrained("thuml/act-cond").spec.action_dim)
scene("released goal", lambda: WorldModel.from_pretrained("thuml/ivideogpt-oxe-64-goal-cond").spec.goal_conditioned)
scene("released part", lambda: IVideoGPTForCausalLM.from_pretrained(
    "thuml/act-cond", subfolder="transformer").config.action_dim)
scene("released vq", lambda: IVideoGPTVQModel.from_pretrained(
    "thuml/act-cond", subfolder="tokenizer").config.resolution)
scene("auto", lambda: type(AutoModel.from_pretrained("tester/world", subfolder="tokenizer")).__module__)
scene("remote code", lambda: type(AutoModel.from_pretrained(
    "tester/world", subfolder="tokenizer", trust_remote_code=True)).__name__)
scene("pipeline", lambda: IVideoGPTPipeline.from_pretrained("tester/world")(
    random_frames(2), num_frames=1, output_type="pt").frames.shape)

scene("missing", lambda: WorldModel.from_pretrained("tester/nothing"))
scene("missing revision", lambda: WorldModel.from_pretrained("tester/world", revision="v9"))
scene("gated", lambda: WorldModel.from_pretrained("tester/gated"))
scene("gated with token", lambda: WorldModel.from_pretrained("tester/gated", token="TOKEN").spec.action_dim)
scene("private", lambda: WorldModel.from_pretrained("tester/pipeline"))
scene("private with token", lambda: WorldModel.from_pretrained("tester/pipeline", token="TOKEN").spec.action_dim)
scene("corrupt", lambda: WorldModel.from_pretrained("tester/corrupt"))
scene("no checkpoint", lambda: WorldModel.from_pretrained("tester/empty"))
scene("cache only", lambda: total(WorldModel.from_pretrained("tester/world", local_files_only=True).transformer))
scene("cache only, not cached", lambda: WorldModel.from_pretrained("tester/never", local_files_only=True))
print(json.dumps(results, default=repr))
"""

NO_NETWORK = """
from ivideogpt_hf import WorldModel
try:
    WorldModel.from_pretrained("tester/never")
except OSError as error:
    print(error)
print(WorldModel.from_pretrained("tester/world").spec.frame_size)
"""

BROKEN_UPLOAD = """
from ivideogpt_hf import WorldModel
from tests.conftest import build_world
world = build_world()
try:
    world.push_to_hub("tester/world", token="TOKEN")
except OSError as error:
    print(error)
world.push_to_hub("tester/world", token="TOKEN")
loaded = WorldModel.from_pretrained("tester/world")
print(all(a.equal(b) for a, b in zip(loaded.transformer.parameters(), world.transformer.parameters())))
"""


def run(code, url, home):
    paths = [str(Path(ivideogpt_hf.__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    environment.pop("HF_TOKEN", None)
    code = code.replace("TOKEN", TOKEN)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(results, what is said without a network, the hub's repositories)."""
    hub, folder, home = FakeHub(), tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("home")
    for name, world in (("cond", build_world(action_dim=3)), ("goal", build_world())):
        save_released(folder / name, (world.vq_model, world.transformer, world.processor))
    hub.add("thuml/act-cond", folder / "cond")
    hub.add("thuml/ivideogpt-oxe-64-goal-cond", folder / "goal")
    hub.add("tester/gated", folder / "goal", gated=True)
    corrupt = dict(hub.add("tester/corrupt", folder / "goal").commits.popitem()[1])
    corrupt["transformer/model.safetensors"] = corrupt["transformer/model.safetensors"][:500]
    hub.repos["tester/corrupt"].commit(corrupt)
    (folder / "empty").mkdir()
    (folder / "empty" / "README.md").write_text("nothing else")
    hub.add("tester/empty", folder / "empty")
    results = json.loads(run(SCENES, hub.url, home).splitlines()[-1])
    hub.close()
    return results, run(NO_NETWORK, hub.url, home).splitlines(), hub.repos


def test_push_writes_one_commit_with_everything(played):
    results, _, repos = played
    first, second = list(repos["tester/world"].commits.values())[1:]
    assert results["push"].startswith("http")
    assert {"model_index.json", "tokenizer/model.safetensors", "transformer/config.json"} <= set(first)
    assert "modeling_ivideogpt.py" in first
    assert first["transformer/model.safetensors"] != second["transformer/model.safetensors"]


def test_the_pipeline_pushes_the_same_files(played):
    _, _, repos = played
    repo = repos["tester/pipeline"]
    assert repo.private
    assert set(repo.commits[repo.head]) == set(repos["tester/world"].commits[repos["tester/world"].head])


def test_a_network_alone_is_pushed_with_a_card_as_one_commit(played):
    results, _, repos = played
    assert len(repos["tester/vq"].commits) == 2  # the first is the repository's beginning
    assert "Compressive VQ tokenizer" in results["card of a network"]
    assert 'IVideoGPTVQModel.from_pretrained("tester/vq")' in results["card of a network"]
    assert results["network by id"] is True


@pytest.mark.parametrize(("scene", "which"), [("by id", 1), ("by revision", 0), ("cache only", 1)])
def test_the_right_revision_is_loaded(played, scene, which):
    results, _, _ = played
    assert results[scene] == results["weights"][which]


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        ("released", 3),
        ("released goal", True),
        ("released part", 3),
        ("released vq", 16),
        ("auto", "ivideogpt_hf.models.modeling_ivideogpt_vq"),
        ("remote code", "IVideoGPTVQModel"),
        ("pipeline", [1, 1, 3, 16, 16]),
        ("gated with token", 0),
        ("private with token", 0),
    ],
)
def test_what_loads_from_the_hub(played, scene, expected):
    results, _, _ = played
    assert results[scene] == expected


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("missing", "neither an existing folder nor a repository on the Hub that you can see"),
        ("private", "neither an existing folder nor a repository on the Hub that you can see"),
        ("missing revision", "has no revision 'v9'"),
        ("gated", "is gated: ask for access"),
        ("corrupt", "model.safetensors is corrupt or incomplete"),
        ("no checkpoint", "is no iVideoGPT checkpoint: tokenizer/config.json is missing"),
        ("cache only, not cached", "is not in the local cache"),
    ],
)
def test_failures_are_told_apart(played, scene, message):
    results, _, _ = played
    assert results[scene].startswith("OSError")
    assert message in results[scene]


def test_without_a_network_the_cache_is_used_and_its_lack_told(played):
    _, said, _ = played
    assert "the Hub cannot be reached" in said[0]
    assert said[1] == "(16, 16)"


def test_an_upload_that_broke_off_goes_on_with_what_is_missing(tmp_path):
    hub = FakeHub(broken_upload=1)
    error, loaded = run(BROKEN_UPLOAD, hub.url, tmp_path).splitlines()
    hub.close()
    assert "the upload to tester/world broke off" in error
    assert loaded == "True"
    assert len(hub.repos["tester/world"].commits) == 2  # the repository's beginning, and everything at once
    assert len(hub.uploads) == 3  # the one that broke off was sent twice
    assert len(set(hub.uploads)) == 2
