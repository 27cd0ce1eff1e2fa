"""The examples in docstrings run, and the entrances of the package have one."""

import ast
import doctest
import shutil
from pathlib import Path

import pytest
import torch

import ivideogpt_hf

SOURCE = Path(ivideogpt_hf.__file__).parent
DATASET = Path(__file__).parent / "files_0_1_0" / "dataset"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Where a newcomer looks first. Methods are named with their class.
ENTRANCES = {
    "CEM",
    "DrQv2",
    "IVideoGPTPipeline.__call__",
    "MixedReplayBuffer",
    "PlannerPolicy",
    "WorldModel",
    "WorldModel.rollout",
    "WorldModelVectorEnv",
    "WorldState",
    "WorldState.fork",
    "imagine",
    "load_clips",
    "tokenize",
    "train_vq",
    "train_world_model",
}


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
    results = doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=report.append)
    assert results.attempted
    assert not results.failed, "".join(report)


@pytest.mark.parametrize("name", sorted(ENTRANCES))
def test_entrances_have_an_example(name):
    assert name in {example.name for example in EXAMPLES}
