"""The examples in docstrings run, and the entrances of the package have one."""

import ast
import doctest
import importlib
import inspect
import pydoc
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import ivideogpt_hf
from ivideogpt_hf import WorldModel
from tests.serving.conftest import serving

SOURCE = Path(ivideogpt_hf.__file__).parent
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
DATASET = Path(__file__).parent / "files_0_1_0" / "dataset"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Methods and functions with an example that no page of the reference lists by itself.
FURTHER = {
    "IVideoGPTPipeline.__call__",
    "WorldModel.rollout",
    "WorldState.fork",
    "tokenize",
    "train_vq",
    "train_world_model",
}
# The server that an example of a client asks for.
ADDRESS = "http://127.0.0.1:8000"


def docstrings(node, prefix=""):
    """(name, docstring) of a module and of all that it defines, without importing it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{prefix}{child.name}", ast.get_docstring(child) or ""
            yield from docstrings(child, f"{prefix}{child.name}.")


def collect_examples():
    """The doctest of every docstring that holds one. An example sees no names but those that it imports itself."""
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for name, text in [("", ast.get_docstring(tree) or ""), *docstrings(tree)]:
            if ">>>" in text:
                yield doctest.DocTestParser().get_doctest(text, {}, name, str(file), 0)


EXAMPLES = list(collect_examples())


def documented():
    """The names that pages of the reference document; of a module, those of its classes."""
    for page in sorted(REFERENCE.glob("*.md")):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, name = path.rpartition(".")
            if hasattr(importlib.import_module(module), name) and not inspect.ismodule(pydoc.locate(path)):
                yield name
                continue
            members = inspect.getmembers(importlib.import_module(path), inspect.isclass)
            yield from (name for name, member in members if member.__module__ == path)


@pytest.fixture
def folder_with_dataset(tmp_path, monkeypatch):
    shutil.copytree(DATASET, tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_run(example, folder_with_dataset):
    report = []
    with nullcontext() if ADDRESS not in example.docstring else serving(WorldModel.default()) as served:
        if served is not None:
            text = example.docstring.replace(ADDRESS, served[0])
            example = doctest.DocTestParser().get_doctest(text, {}, example.name, example.filename, 0)
        results = doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=report.append)
    assert results.attempted
    assert not results.failed, "".join(report)


@pytest.mark.parametrize("name", sorted({*documented(), *FURTHER}))
def test_what_the_reference_documents_has_an_example(name):
    assert [example for example in EXAMPLES if example.name == name or example.name.startswith(f"{name}.")]
