"""Optional packages: the table agrees with pyproject.toml, and a package that is missing is missed at the start."""

import ast
import importlib
import re
import sys
import tomllib
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import ivideogpt_hf
from ivideogpt_hf import extras
from ivideogpt_hf.cli import main
from ivideogpt_hf.extras import PACKAGES, how_to_install, require_packages
from tests.conftest import hide_package

SOURCE = Path(ivideogpt_hf.__file__).parent
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# What every installation has: the dependencies in pyproject.toml, by the names they are imported by ...
REQUIRED = {"torch", "transformers", "diffusers", "huggingface_hub", "safetensors", "numpy", "PIL", "av", "pandas"}
# ... what these need, what packages in the table need, a package that is only looked for, and one of type checkers.
BROUGHT = {"fsspec", "tqdm", "yaml"} | {"crc32c", "mujoco", "pyarrow", "pydantic", "starlette"} | {"lpips", "_typeshed"}


def names_of(requirements):
    return {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_extra_brings_its_package(package):
    name, extra = PACKAGES[package]
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert name in names_of(extras[extra])


def test_one_extra_brings_all_that_users_may_want():
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (requirement,) = extras["all"]
    brought = re.fullmatch(r"ivideogpt-hf\[(.*)\]", requirement)[1].split(",")
    assert set(brought) == extras.keys() - {"all", "docs", "dev"}


def test_every_optional_package_is_in_the_table():
    imported = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    optional = imported - sys.stdlib_module_names - REQUIRED - BROUGHT
    assert optional <= PACKAGES.keys()


def test_the_advice_has_one_home():
    files = [file for file in SOURCE.rglob("*.py") if "pip install 'ivideogpt-hf[" in file.read_text(encoding="utf-8")]
    # What is published as env.py runs where this package is not.
    assert set(files) == {SOURCE / "serving/env_hub.py"}


@pytest.mark.parametrize(
    ("urls", "command"),
    [
        ({}, "`pip install '.[eval]'` in a clone of ivideogpt-hf"),
        ({"Source": "https://example.com/code"}, "`pip install 'ivideogpt-hf[eval]'`"),
    ],
)
def test_the_package_is_installed_by_name_from_its_first_release_on(monkeypatch, urls, command):
    """Which adds the public repository to what the package says of itself."""
    message = Message()
    for name, url in {"Paper": "https://example.com/paper", **urls}.items():
        message["Project-URL"] = f"{name}, {url}"
    monkeypatch.setattr("ivideogpt_hf.extras.metadata", lambda _: message)
    assert how_to_install("eval", quote="`") == command


def test_the_first_missing_package_is_named(monkeypatch):
    hide_package(monkeypatch, "skimage")
    with pytest.raises(ImportError) as caught:
        require_packages("scipy", "skimage", purpose="an evaluation")
    assert str(caught.value) == f"an evaluation needs scikit-image: {how_to_install('eval')}"


def test_a_package_that_does_not_load_gives_its_reason(monkeypatch, tmp_path):
    (tmp_path / "gym_pusht.py").write_text("raise ImportError('libGL.so.1 is not there')")
    monkeypatch.delitem(sys.modules, "gym_pusht", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=rf"{re.escape(how_to_install('pusht'))} \(libGL.so.1 is not there\)"):
        require_packages("gym_pusht", purpose="Push-T")


def test_environments_without_gymnasium_name_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "ivideogpt_hf.environment", raising=False)
    hide_package(monkeypatch, "gymnasium")
    with pytest.raises(ImportError, match=re.escape(how_to_install("gymnasium"))):
        importlib.import_module("ivideogpt_hf.environment")


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("accelerate", ["train", "--num_updates", "1"], "train"),
        ("datasets", ["tokenize", "--vq_model", "nowhere"], "data"),
        ("datasets", ["convert-data", "no/where", "out"], "data"),
        ("datasets", ["collect", "no/where", "out"], "data"),
        ("scipy", ["plan", "nowhere", "--checkpoint", "no/where"], "eval"),
        ("matplotlib", ["evaluate", "no/where", "nowhere"], "eval"),
        ("matplotlib", ["rl-compare", "no/where"], "eval"),
        ("stable_baselines3", ["rl", "nowhere"], "rl"),
        ("scipy", ["rl", "nowhere"], "eval"),
        ("websockets", ["serve", "no/where"], "serve"),
        ("ray", ["serve", "no/where", "--replicas", "2"], "ray"),
        ("ray", ["convert-data", "no/where", "out", "--ray", "local"], "ray"),
        ("gradio", ["play"], "demo"),
    ],
)
def test_a_command_misses_its_packages_first(package, command, extra, monkeypatch, capsys, tmp_path):
    """Each of these commands has another fault, which would show later."""
    monkeypatch.chdir(tmp_path)
    hide_package(monkeypatch, package)
    assert main(command) == 2
    assert how_to_install(extra) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_package_that_runs_from_its_files_names_what_is_missing(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "metadata", absent)
    assert how_to_install("rl") == "pip install '.[rl]' in a clone of ivideogpt-hf"
