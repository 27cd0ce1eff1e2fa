"""The programs in benchmarks/ run, on models and data that are small, and write what benchmarks/results holds."""

import asyncio
import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM, WorldModel
from tests.conftest import build_transformer, build_vq_model, build_world, random_frames

FOLDER = Path(__file__).parents[1] / "benchmarks"
NEEDS = {
    "options": "torchao",
    "demo": "playwright",
    "rl": "stable_baselines3",
    "serving": "httpx",
    "soak": "httpx",
    "replicas": "httpx",
    "gpu": "accelerate",
}
PROGRAMS = sorted({file.stem for file in FOLDER.glob("*.py")} - {"served", "timing", "writing"})


@pytest.fixture
def load(monkeypatch):
    """Imports a program of the folder, whose programs import each other."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        pytest.importorskip(NEEDS.get(name, "torch"))
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a program; the JSON that it writes."""

    def run(module, *options):
        threads = torch.get_num_threads()
        output = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", [module.__file__, *options, "--output", str(output)])
        module.main()
        torch.set_num_threads(threads)
        return json.loads(output.read_text())

    return run


def shape_of(content):
    """The keys of a JSON file, at every depth; a list is known by its first entry."""
    if isinstance(content, dict):
        return {name: shape_of(value) for name, value in content.items()}
    return shape_of(content[0]) if isinstance(content, list) and content else None


def published(name):
    return json.loads((FOLDER / "results" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_says_what_it_does(load, name, monkeypatch, capsys):
    module = load(name)
    monkeypatch.setattr(sys, "argv", [module.__file__, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_clips_per_second(load, run, monkeypatch):
    pytest.importorskip("datasets")
    data = load("data")
    monkeypatch.setattr(data, "NUM_EPISODES", 6)
    content = run(data, "--seconds", "0.01", "--rounds", "1")
    assert shape_of(content) == shape_of(published("data"))
    assert all(rate > 0 for rate in content["clips_per_second"].values())


def build_released_world():
    """Of the released geometry, with few channels."""
    vq_model = build_vq_model(resolution=64, block_out_channels=(32, 32, 32), max_att_resolution=16)
    return WorldModel(vq_model, build_transformer(vq_model.config, max_position_embeddings=1024))


def test_rollouts(load, run, monkeypatch):
    """The program itself refuses other tokens than those of the original's algorithm."""
    rollout = load("rollout")
    monkeypatch.setattr(rollout, "build_world", build_released_world)
    monkeypatch.setattr(rollout, "WORKLOADS", (rollout.Workload("two", 2, 2, "all", measured_frames=1),))
    assert shape_of(run(rollout)) == shape_of(published("rollout"))


def test_drafts(load, run, tmp_path, monkeypatch):
    """The program itself refuses other tokens than those without guesses."""
    drafts = load("drafts")
    monkeypatch.setattr(drafts, "ROUNDS", 1)
    monkeypatch.setattr(drafts, "ROWS", (1, 2))
    default = WorldModel.default()
    config = IVideoGPTConfig(**default.transformer.config.to_dict() | {"draft_head": True})
    WorldModel(default.vq_model, IVideoGPTForCausalLM(config), default.processor).save_pretrained(tmp_path / "drafting")
    assert shape_of(run(drafts, str(tmp_path / "drafting"))) == shape_of(published("drafts"))


def test_plans(load, run, monkeypatch):
    planning = load("planning")
    monkeypatch.setattr(planning, "CANDIDATES", (2,))
    monkeypatch.setattr(planning, "HORIZON", 2)
    assert shape_of(run(planning, "--measured-frames", "1")) == shape_of(published("planning"))


def test_decoding(load, run, monkeypatch):
    decoding = load("decoding")
    monkeypatch.setattr(decoding, "ROUNDS", 1)
    monkeypatch.setattr(decoding, "REPEATS", 1)
    monkeypatch.setattr(decoding, "NUM_FRAMES", (1, 8, 32))
    assert shape_of(run(decoding)) == shape_of(published("decoding"))


def test_imports(load, run, monkeypatch):
    imports = load("imports")
    monkeypatch.setattr(imports, "REPEATS", 1)
    assert shape_of(run(imports)) == shape_of(published("imports"))


def test_all_ways_of_training_have_one_loss(load):
    """Else their speeds could not be compared."""
    training = load("training")
    bench = training.Bench("default", 1, torch.device("cpu"), torch.float32)
    bench.pair[1].eval()
    losses = [bench.loss(way).item() for way in training.WAYS]
    assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-3)
    bench.step("cached")
    assert bench.loss("cached").item() < losses[0]


def test_operations_of_a_training_step_are_counted(load, monkeypatch):
    """Two of a weight and a token forwards, four backwards; those of the output projection and of actions beside."""
    training, world = load("training"), build_world(action_dim=4, predict_reward=True, max_position_embeddings=300)
    monkeypatch.setattr(training, "PAIRS", {"tiny": lambda: (world.vq_model, world.transformer)})
    bench = training.Bench("tiny", 2, torch.device("cpu"), torch.float32)
    layers = world.transformer.model.layers.modules()
    weights = sum(module.weight.numel() for module in layers if isinstance(module, torch.nn.Linear))
    assert 1 < bench.flops("cached") / (6 * weights * 2 * bench.length) < 1.2
    assert bench.flops("on the fly") > bench.flops("cached")


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_parts_of_a_run_on_a_gpu(load, monkeypatch, tmp_path):
    """On the CPU, with small models. To compile takes too long here."""
    pytest.importorskip("datasets")
    gpu, device = load("gpu"), torch.device("cpu")
    pair = build_world(action_dim=4, predict_reward=True, max_position_embeddings=300)
    pair.save_pretrained(tmp_path / "world")
    monkeypatch.setattr(gpu.rollout, "build_world", build_released_world)
    monkeypatch.setattr(gpu.rollout, "WORKLOADS", (gpu.rollout.Workload("two", 2, 2, "last", measured_frames=1),))
    monkeypatch.setattr(gpu.training, "PAIRS", {"tiny": lambda: (pair.vq_model, pair.transformer)})
    monkeypatch.setattr(gpu.training, "PRODUCT_SIZE", {"cpu": 64})
    sizes = {
        "BATCH_SIZES": {"tiny": 2},
        "TRAINING_ROUNDS": 1,
        "CHECKPOINT": str(tmp_path / "world"),
        "NUM_EPISODES": 20,
    }
    for name, size in (sizes | {"TRAINING_SECONDS": 1, "TRAINING_BATCH": 2, "SPEED_UPDATES": 2}).items():
        monkeypatch.setattr(gpu, name, size)
    assert dict(gpu.machine(device))["TFLOP/s in bfloat16"] > 0
    assert dict(gpu.rollouts(device))["two"]["ours"]["bfloat16"]["ratio"] > 0
    shared, tiled = next(value for name, value in gpu.memory(device))
    assert shared < tiled
    steps = dict(gpu.training_steps(device))
    assert steps.keys() == {f"tiny, {way}" for way in gpu.training.WAYS}
    assert all(entry["model FLOPs utilisation"] > 0 for entry in steps.values())
    losses = [value for name, value in gpu.default_training(device) if "loss" in name]
    assert losses[1] <= losses[0]  # equal, where a slow machine makes one update in a second


def test_a_part_that_fails_loses_nothing_and_one_that_does_not_fit_is_told(load):
    gpu, written = load("gpu"), []
    device = torch.device("meta")  # no product is timed on it
    gpu.run_parts({gpu.machine: 120, gpu.tests: 200}, device, 200, lambda results: written.append(json.dumps(results)))
    results = json.loads(written[-1])
    assert results["machine"]["end"] == "failed: KeyError: 'meta'"
    assert results["machine"]["results"]["torch"] == torch.__version__
    assert results["tests"]["end"].startswith("left out: ")
    assert "| torch | " + torch.__version__ in gpu.page(results)


def test_what_two_commits_are_compared_by(load, monkeypatch):
    compare = load("compare")
    monkeypatch.setattr(compare, "released_world", lambda: (build_released_world(), random_frames(1, 2, size=64)))
    for prepare in compare.BENCHMARKS.values():
        prepare()()


def test_two_commits_are_compared(load, tmp_path):
    """Packages that can be imported, and have nothing of what the benchmarks call: here one module more than before."""
    compare, root = load("compare"), tmp_path / "repository"
    package = root / "src" / "ivideogpt_hf"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a"]):
        subprocess.run([*git, *words], check=True)
    (package / "provenance.py").write_text("describe_date = None\n")
    rows = compare.compare(root, "HEAD", num_rounds=1)
    assert rows["import"]["ratio"] == rows["import"]["base_seconds"] / rows["import"]["seconds"]
    assert rows["coding of a context"]["failed"]["base"].endswith("No module named 'ivideogpt_hf.provenance'")
    assert rows["coding of a context"]["failed"]["here"].startswith("ImportError: cannot import name 'IVideoGPTConfig'")
    assert subprocess.check_output([*git, "worktree", "list"], text=True).count("\n") == 1


@pytest.mark.parametrize("action_conditioning", ["add", "scale_shift"])
def test_agents(load, run, tmp_path, action_conditioning):
    """The program itself refuses other tokens than those of the original's algorithm."""
    pytest.importorskip("accelerate")
    pytest.importorskip("scipy")
    rl = load("rl")
    vq = {"resolution": 32, "max_att_resolution": 8, "patch_size": 8}
    config = {"max_position_embeddings": 600, "action_conditioning": action_conditioning}
    build_world(vq=vq, action_dim=2, predict_reward=True, **config).save_pretrained(tmp_path / "world")
    options = {"num-steps": 12, "max-steps": 6, "first-step": 6, "imagine-every": 4, "num-starts": 2, "horizon": 2}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    checkpoint = ["--environment", "push2d/goal-shown", "--checkpoint", str(tmp_path / "world")]
    content = run(rl, *checkpoint, *words, "--measured-frames", "1")
    parts = {"environment", "rendering", "acting", "drawing batches", "agent updates", "model updates"}
    parts |= {"imagination", "evaluation", "other"}
    assert content["run"]["parts"].keys() == parts
    assert all(part["seconds"] > 0 for part in content["run"]["parts"].values())
    assert content["imagination"]["ratio"] > 0


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_soak_finds_a_wrong_token(load, monkeypatch, is_wrong):
    """A life with all calls, over a WebSocket and HTTP, as the world alone lives it; or with one other token."""
    pytest.importorskip("websockets")
    from tests.serving.conftest import serving

    soak = load("soak")
    monkeypatch.setattr(soak, "VANISHING", 0)
    monkeypatch.setattr(soak, "NUM_CALLS", 12)
    world = build_world(action_dim=3, predict_reward=True, max_position_embeddings=300)
    life = soak.make_life(world, random_frames(20), seed=3)
    assert {call.name for call in life} == {"reset", *soak.KINDS}
    if is_wrong:
        next(call for call in life if call.name == "rollout").tokens[0][0] += 1
    findings = soak.Findings()

    async def live(url):
        server = SimpleNamespace(url=url, life=0, ends=[], is_up=asyncio.Event())
        server.is_up.set()
        for over in ("http", "websocket"):
            client = soak.Client(server, [life], over, random.Random(0), findings)
            await client.live()
            await client.close()

    with serving(world) as (url, service):
        asyncio.run(live(url))
        assert service.sessions.num_states == 0
    assert len(findings.wrong) == 2 * is_wrong
    assert (findings.lost, findings.unexpected, sum(findings.calls.values())) == ([], [], 2 * len(life))
