"""The Hub, through a local stand-in: one process plays all scenes, each test looks at one."""

import json
import os
import subprocess
import sys

import pytest

from ivideogpt_hf.checkpoints.family import RELEASED_IDS
from ivideogpt_hf.checkpoints.released import save_released
from tests.conftest import build_original_world
from tests.hub.fake_hub import TOKEN, FakeHub
from tests.started import HUB, HUB_PORT, Started

SCENES = """
import json, logging, sys, tempfile
from pathlib import Path
import torch
import ivideogpt_hf
from ivideogpt_hf import IVideoGPTForCausalLM, IVideoGPTPipeline, IVideoGPTVQModel, WorldModel
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, ModelCard
from ivideogpt_hf.cards.model_card import CardText
from ivideogpt_hf.checkpoints.loading import fetch
from ivideogpt_hf.cli import main
from ivideogpt_hf.hub.download import find_file, size_of_files
from transformers import AutoModel, AutoProcessor
from tests.conftest import build_world, random_frames

results = {}

def scene(name, play):
    try:
        results[name] = play()
    except (OSError, ValueError) as error:
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")  # what users catch
        results[name] = f"{kind.__name__}: {error}"

def total(network):
    return float(sum(p.double().abs().sum() for p in network.parameters()))

world, other = build_world(), build_world(seed=1)
scene("push", lambda: world.push_to_hub("tester/world", token="TOKEN"))
first = results["push"].rsplit("/", 1)[-1]
scene("push again", lambda: other.push_to_hub("tester/world", token="TOKEN", commit_message="Second"))
scene("push by the pipeline", lambda: IVideoGPTPipeline(
    world.vq_model, world.transformer).push_to_hub("tester/pipeline", private=True, token="TOKEN"))

EDITED = "---\\nlicense: mit\\n---\\nMy words."
folder = Path(tempfile.mkdtemp()) / "saved"
scene("save and push", lambda: world.save_pretrained(
    folder, push_to_hub=True, repo_id="tester/saved", token="TOKEN", allow_patterns="*.json"))
results["saved"] = sorted(path.name for path in folder.iterdir())
scene("propose", lambda: world.push_to_hub("somebody/public", create_pr=True, token="TOKEN"))
scene("propose by the pipeline", lambda: IVideoGPTPipeline(
    world.vq_model, world.transformer).push_to_hub("somebody/public", create_pr=True, token="TOKEN"))
def adapted_by_id(repo_id, **place):  # how much logits differ from the adapter's, and from the network's alone
    import peft
    base = IVideoGPTForCausalLM.from_pretrained(repo_id, **place)
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    adapted.push_to_hub("tester/adapter", token="TOKEN")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained("tester/adapter")
    ids = torch.zeros(1, 4, dtype=torch.long)
    logits = loaded.eval()(ids).logits, adapted(ids).logits
    with adapted.disable_adapter():
        alone = adapted(ids).logits
    return [float((logits[0] - other).abs().max()) for other in (logits[1], alone)]

world.transformer.push_to_hub("tester/transformer", token="TOKEN")
scene("adapter by id", lambda: adapted_by_id("tester/transformer"))
scene("adapter of a world by id", lambda: adapted_by_id("tester/world", subfolder="transformer"))
scene("root config", lambda: (fetch("tester/world") / "config.json").read_text())

world.push_to_hub("tester/edited", token="TOKEN")
HfApi(token="TOKEN").upload_file(
    path_or_fileobj=EDITED.encode(), path_in_repo="README.md", repo_id="tester/edited")
world.push_to_hub("tester/edited", token="TOKEN")
IVideoGPTPipeline(world.vq_model, world.transformer).push_to_hub("tester/edited", token="TOKEN")
scene("card that somebody edited", lambda: ModelCard.load("tester/edited").content)
world.push_to_hub("tester/edited", token="TOKEN", card=CardText("Anew"))
scene("card that is given", lambda: ModelCard.load("tester/edited").content)

lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("ivideogpt_hf").addHandler(handler)
scene("family", lambda: total(WorldModel.from_pretrained("thuml/ivideogpt").transformer))
scene("family by the pipeline", lambda: total(IVideoGPTPipeline.from_pretrained("thuml/ivideogpt").transformer))
scene("family on the command line", lambda: main(["info", "thuml/ivideogpt"]))
scene("family in the cache", lambda: total(
    WorldModel.from_pretrained("thuml/ivideogpt", local_files_only=True).transformer))
scene("family's general member", lambda: total(
    WorldModel.from_pretrained("thuml/ivideogpt-oxe-64-act-free").transformer))
results["lines"] = lines
scene("misspelt", lambda: WorldModel.from_pretrained("thuml/ivideogpt-bair-act-cond"))

scene("push a network", lambda: world.vq_model.push_to_hub("tester/vq", token="TOKEN"))
scene("card of a network", lambda: ModelCard.load("tester/vq").content)
scene("network by its own code", lambda: type(AutoModel.from_pretrained("tester/vq", trust_remote_code=True)).__name__)
scene("DiffusionPipeline", lambda: DiffusionPipeline.from_pretrained("tester/world", trust_remote_code=True)(
    random_frames(2), num_frames=1, output_type="pt").frames.shape)
scene("network by id", lambda: total(IVideoGPTVQModel.from_pretrained("tester/vq")) == total(world.vq_model))

scene("save and push a network", lambda: world.transformer.save_pretrained(
    folder / "lone", push_to_hub=True, repo_id="tester/lone", token="TOKEN"))
world.processor.push_to_hub("tester/processor", token="TOKEN")
world.vq_model.config.push_to_hub("tester/config", token="TOKEN")
scene("processor", lambda: type(AutoProcessor.from_pretrained("tester/processor")).__module__)

TOLD = {"tags": ["mine"], "commit_description": "Why.", "token": "TOKEN"}
for name, part in {"world": world, "vq": world.vq_model}.items():
    scene(f"told {name}", lambda: part.push_to_hub(f"tester/told-{name}", **TOLD, max_shard_size="100KB", variant="bf"))
    scene(f"tags of {name}", lambda: ModelCard.load(f"tester/told-{name}").data.tags)
    HfApi(token="TOKEN").upload_file(
        path_or_fileobj=EDITED.encode(), path_in_repo="README.md", repo_id=f"tester/told-{name}")
    scene(f"tell {name} again", lambda: part.push_to_hub(f"tester/told-{name}", **TOLD))
    scene(f"edited card of {name}", lambda: ModelCard.load(f"tester/told-{name}").content)

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

scene("push without a token", lambda: world.push_to_hub("tester/mine"))
scene("push to another user", lambda: world.push_to_hub("somebody/new", token="TOKEN"))
scene("push into another's repository", lambda: world.push_to_hub("somebody/public", token="TOKEN"))
scene("push into a gated repository", lambda: world.push_to_hub("somebody/gated", token="TOKEN"))
scene("push to no id", lambda: world.push_to_hub("a/b/c", token="TOKEN"))
scene("push to a missing revision", lambda: world.push_to_hub("tester/world", revision="v9", token="TOKEN"))

scene("file", lambda: find_file("tester/world/tokenizer/config.json").name)
scene("missing file", lambda: find_file("tester/world/tokenizer/nothing.json"))
scene("file of a missing repository", lambda: find_file("tester/nothing/config.json"))
scene("gated file", lambda: find_file("somebody/gated/tokenizer/config.json"))
scene("no file", lambda: find_file("nothing.json"))
scene("no file in a folder", lambda: find_file("/nowhere/at/all.json"))
scene("size", lambda: size_of_files("tester/world", ".safetensors"))
scene("size of nothing", lambda: size_of_files("tester/nothing", ".safetensors"))
print(json.dumps(results, default=repr))
"""

# A process of somebody who has transformers and not this package.
WITHOUT_PACKAGE = """
import json, sys
sys.modules["ivideogpt_hf"] = None
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor
loads = {
    "tester/transformer": AutoModelForCausalLM, "tester/lone": AutoModel, "tester/vq": AutoModel,
    "tester/processor": AutoProcessor, "tester/config": AutoConfig, "tester/world": AutoProcessor,
}
print(json.dumps({name: type(auto.from_pretrained(name, trust_remote_code=True)).__name__
                  for name, auto in loads.items()}))
"""

NO_NETWORK = """
import json, tempfile, time
time.sleep = lambda seconds: None  # huggingface_hub waits 23 seconds in all before it gives a request up
from ivideogpt_hf import WorldModel
from ivideogpt_hf.hub.download import find_file, list_files, size_of_files
from ivideogpt_hf.hub.upload import upload_folder
from tests.conftest import build_world
said = []
for use in (
    lambda: WorldModel.from_pretrained("tester/never"),
    lambda: find_file("tester/never/file"),
    lambda: list_files("tester/never", "dataset"),
    lambda: size_of_files("tester/never", ".safetensors"),
    lambda: build_world().push_to_hub("tester/never", token="TOKEN"),
    lambda: build_world().vq_model.push_to_hub("tester/never", token="TOKEN"),
    lambda: build_world().transformer.save_pretrained(
        tempfile.mkdtemp(), push_to_hub=True, repo_id="tester/never", token="TOKEN"),
    lambda: build_world().processor.push_to_hub("tester/never", token="TOKEN"),
    lambda: build_world().vq_model.config.push_to_hub("tester/never", token="TOKEN"),
    lambda: upload_folder("tests/hub", "tester/never", "model", commit_message=""),
):
    try:
        use()
    except OSError as error:
        said.append(" ".join(str(error).split()))
said.append(WorldModel.from_pretrained("tester/world").spec.frame_size)
print(json.dumps(said))
"""

BROKEN_UPLOAD = """
import json
from ivideogpt_hf import WorldModel
from tests.conftest import build_world
world = build_world()
try:
    world.push_to_hub("tester/world", token="TOKEN")
except OSError as error:
    told = str(error)
world.push_to_hub("tester/world", token="TOKEN")
loaded = WorldModel.from_pretrained("tester/world")
equal = all(a.equal(b) for a, b in zip(loaded.transformer.parameters(), world.transformer.parameters()))
print(json.dumps([told, equal]))
"""


def run(code, folder):
    """The value that code writes as its last line, in JSON; it runs without a token but where it names one."""
    process = Started(code=code.replace("TOKEN", TOKEN), log=folder / "log")
    assert process.wait(300) == 0, process.output
    return json.loads(process.output.splitlines()[-1])


def run_without_package(folder):
    environment = {**os.environ, **HUB, "HF_HOME": str(folder / "home"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", WITHOUT_PACKAGE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(results, what is said without a network, the hub's repositories)."""
    hub, folder = FakeHub(port=HUB_PORT), tmp_path_factory.mktemp("checkpoints")
    for name, world in (("cond", build_original_world(action_dim=3)), ("goal", build_original_world())):
        save_released(folder / name, (world.vq_model, world.transformer, world.processor))
    hub.add("thuml/act-cond", folder / "cond")
    hub.add("thuml/ivideogpt-oxe-64-goal-cond", folder / "goal")
    hub.add("thuml/ivideogpt-oxe-64-act-free", folder / "goal")
    hub.add("tester/gated", folder / "goal", gated=True)
    hub.add("somebody/gated", folder / "goal", gated=True)
    hub.add("somebody/public", folder / "goal")
    corrupt = dict(hub.add("tester/corrupt", folder / "goal").commits.popitem()[1])
    corrupt["transformer/model.safetensors"] = corrupt["transformer/model.safetensors"][:500]
    hub.repos["tester/corrupt"].commit(corrupt)
    (folder / "empty").mkdir()
    (folder / "empty" / "README.md").write_text("nothing else")
    hub.add("tester/empty", folder / "empty")
    results = run(SCENES, folder)
    results["without package"] = run_without_package(folder)
    hub.close()
    return results, run(NO_NETWORK, folder), hub.repos


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


def test_a_card_that_somebody_edited_stays_unless_a_text_is_given(played):
    results, _, _ = played
    assert results["card that somebody edited"].endswith("---\nMy words.")
    assert "# Anew" in results["card that is given"]


def test_saving_can_push_what_patterns_choose(played):
    results, _, repos = played
    repo = repos["tester/saved"]
    assert results["save and push"].endswith(repo.head)
    assert all(name.endswith(".json") for name in repo.commits[repo.head])
    files = ["config.json", "model_index.json", "pipeline_ivideogpt.py"]
    assert results["saved"] == [*files, "processor", "tokenizer", "transformer"]


@pytest.mark.parametrize("scene", ["propose", "propose by the pipeline"])
def test_a_pull_request_can_be_opened_in_a_repository_of_others(played, scene):
    results, _, repos = played
    assert results[scene].endswith("/somebody/public/discussions/1")
    assert "modeling_ivideogpt.py" not in repos["somebody/public"].commits[repos["somebody/public"].head]


def test_downloads_count_by_the_config_at_the_root(played):
    """The Hub counts requests for it, where it does not know the library."""
    results, _, _ = played
    assert json.loads(results["root config"])["model_type"] == "ivideogpt"


@pytest.mark.parametrize("scene", ["family", "family by the pipeline", "family in the cache"])
def test_the_family_is_its_general_member(played, scene):
    results, _, _ = played
    assert results[scene] == results["family's general member"]


def test_the_family_is_told_in_one_line_with_all_ids(played):
    results, _, _ = played
    assert results["family on the command line"] == 0
    (line,) = results["lines"]
    assert all(released_id in line for released_id in RELEASED_IDS)


def test_a_network_alone_is_pushed_with_a_card_as_one_commit(played):
    results, _, repos = played
    assert len(repos["tester/vq"].commits) == 2  # the first is the repository's beginning
    assert "Compressive VQ model" in results["card of a network"]
    assert 'IVideoGPTVQModel.from_pretrained("tester/vq")' in results["card of a network"]
    assert results["network by id"] is True


def test_what_is_pushed_alone_is_read_where_the_package_is_not_installed(played):
    results, _, repos = played
    assert results["without package"] == {
        "tester/transformer": "IVideoGPTForCausalLM",
        "tester/lone": "IVideoGPTForCausalLM",
        "tester/vq": "IVideoGPTVQModel",
        "tester/processor": "IVideoGPTVideoProcessor",
        "tester/config": "IVideoGPTVQConfig",
        "tester/world": "IVideoGPTVideoProcessor",
    }
    assert results["processor"] == "ivideogpt_hf.models.processing_ivideogpt"  # where it is installed
    assert len(repos["tester/lone"].commits) == 2  # the first is the repository's beginning


@pytest.mark.parametrize("name", ["world", "vq"])
def test_an_upload_says_what_it_is_told_to(played, name):
    results, _, repos = played
    repo = repos[f"tester/told-{name}"]
    commit = results[f"told {name}"].rsplit("/", 1)[-1]
    assert repo.messages[commit].endswith("\nWhy.")
    assert "mine" in results[f"tags of {name}"]
    assert "world-model" in results[f"tags of {name}"]
    assert any("model.bf-00001-of-" in file for file in repo.commits[commit])
    edited = results[f"edited card of {name}"]
    assert "mine" in edited
    assert edited.endswith("My words.")


@pytest.mark.parametrize("scene", ["adapter by id", "adapter of a world by id"])
def test_peft_finds_an_adapter_and_the_network_below_it_by_their_ids(played, scene):
    pytest.importorskip("peft")
    results, _, _ = played
    from_adapter, from_network_alone = results[scene]
    assert from_adapter < 1e-5 < from_network_alone


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
        ("released vq", 32),
        ("auto", "ivideogpt_hf.models.modeling_ivideogpt_vq"),
        ("remote code", "IVideoGPTVQModel"),
        ("pipeline", [1, 1, 3, 16, 16]),
        ("DiffusionPipeline", [1, 1, 3, 16, 16]),
        ("network by its own code", "IVideoGPTVQModel"),
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
        ("missing", "FileNotFoundError: there is no checkpoint tester/nothing here, and none on the Hub"),
        ("private", "FileNotFoundError: there is no checkpoint tester/pipeline here, and none on the Hub"),
        ("missing revision", "FileNotFoundError: the checkpoint tester/world has no revision 'v9'"),
        ("misspelt", "released are thuml/ivideogpt-bair-64-act-cond, thuml/ivideogpt-"),
        ("gated", "OSError: the checkpoint tester/gated is gated: ask for access"),
        ("corrupt", "model.safetensors is corrupt or incomplete"),
        ("no checkpoint", "is no iVideoGPT checkpoint: tokenizer/config.json is missing"),
        ("cache only, not cached", "OSError: no folder, cached checkpoint or embedded model is named 'tester/never'"),
        ("push without a token", "OSError: the Hub refused the checkpoint tester/mine"),
        ("push to another user", "OSError: the Hub refused the checkpoint somebody/new"),
        ("push into another's repository", "OSError: the Hub refused the checkpoint somebody/public"),
        ("push into a gated repository", "OSError: the checkpoint somebody/gated is gated: ask for access"),
        ("push to no id", "FileNotFoundError: there is no checkpoint a/b/c here, and it is no Hub id of the form"),
        ("push to a missing revision", "FileNotFoundError: the checkpoint tester/world has no revision 'v9'"),
        ("missing file", "FileNotFoundError: the file tester/world/tokenizer/nothing.json is not on the Hub"),
        (
            "file of a missing repository",
            "FileNotFoundError: there is no file tester/nothing/config.json here, and none",
        ),
        ("gated file", "OSError: the file somebody/gated/tokenizer/config.json is gated: ask for access"),
        (
            "no file",
            "FileNotFoundError: there is no file nothing.json here, and it is no Hub id of the form 'owner/name/",
        ),
        ("no file in a folder", "FileNotFoundError: there is no file /nowhere/at/all.json here"),
        ("size of nothing", "FileNotFoundError: there is no checkpoint tester/nothing here"),
    ],
)
def test_failures_are_told_apart(played, scene, message):
    results, _, _ = played
    assert message in results[scene]


@pytest.mark.parametrize("scene", ["missing", "gated", "push without a token", "push to another user", "gated file"])
def test_who_may_not_is_told_to_log_in(played, scene):
    results, _, _ = played
    assert "log in with `hf auth login`" in results[scene]


def test_single_files_and_sizes(played):
    results, _, repos = played
    repo = repos["tester/world"]
    weights = [len(content) for name, content in repo.commits[repo.head].items() if name.endswith(".safetensors")]
    assert results["file"] == "config.json"
    assert results["size"] == sum(weights) > 0


def test_without_a_network_the_cache_is_used_and_its_lack_told(played):
    _, said, _ = played
    assert len(said) == 11
    assert all("the Hub cannot be reached" in line or "The Hub was not reachable" in line for line in said[:-1])
    assert said[-1] == [16, 16]


def test_an_upload_that_broke_off_goes_on_with_what_is_missing(tmp_path):
    hub = FakeHub(broken_upload=1, port=HUB_PORT)
    error, loaded = run(BROKEN_UPLOAD, tmp_path)
    hub.close()
    assert "the upload to tester/world broke off" in error
    assert loaded is True
    assert len(hub.repos["tester/world"].commits) == 2  # the repository's beginning, and everything at once
    assert len(hub.uploads) == 3  # the one that broke off was sent twice
    assert len(set(hub.uploads)) == 2
