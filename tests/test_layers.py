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
    ("sampling", "media", "auto_classes"),
    ("decoding", "checkpoints"),
    ("world_state", "released"),
    ("inputs", "engine"),
    ("world_model",),
    ("pipeline", "info"),
    ("cli",),
)
LAYER_OF = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}

# transformers itself needs safetensors and huggingface_hub, so that remote code finds them wherever it runs.
SEALED = {"torch", "transformers", "diffusers", "safetensors", "huggingface_hub"}
# Packages that only these modules may import.
OWNERS = {"av": {"media"}, "PIL": {"media", "pipeline"}, "numpy": {"media", "pipeline"}}
OPTIONAL = {"accelerate", "datasets", "gradio", "gymnasium", "h5py", "metaworld", "peft", "torchvision"}

FILES = sorted(SOURCE.rglob("*.py"))


def module_of(file):
    """The top-level module or folder that a file belongs to."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(file):
    """(name, whether it is relative) of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((name, True) for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, False


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_down(file):
    module = module_of(file)
    if module == "__init__":
        return
    assert module in LAYER_OF, f"{module} has no layer yet: put it into LAYERS"
    for name, relative in imports(file):
        assert not name.startswith("ivideogpt_hf"), f"{file.name} imports {name} absolutely"
        if relative and module != "models":
            target = name.split(".")[0]
            assert LAYER_OF[target] < LAYER_OF[module], f"{module} must not import {target}"


@pytest.mark.parametrize("file", sorted((SOURCE / "models").glob("*.py")), ids=lambda file: file.name)
def test_models_are_sealed(file):
    siblings = {sibling.stem for sibling in file.parent.glob("*.py")}
    for name, relative in imports(file):
        root = name.split(".")[0]
        assert root in siblings if relative else root in SEALED or root in sys.stdlib_module_names, name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_packages_are_imported_only_by_their_owners(file):
    for name, relative in imports(file):
        root = name.split(".")[0]
        if not relative:
            assert root not in OPTIONAL, f"no module owns {root} yet"
            assert module_of(file) in OWNERS.get(root, {module_of(file)}), f"{root} belongs to {OWNERS.get(root)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_files_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
