"""The package as it is built and cited: metadata, description, version, completion of the command line."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import ivideogpt_hf
from ivideogpt_hf.cli import main
from ivideogpt_hf.cli.completion import SHELLS
from ivideogpt_hf.cli.config import subcommands
from ivideogpt_hf.cli.main import build_parser
from ivideogpt_hf.extras import how_to_install
from tests.conftest import hide_package

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RELATIVE = re.compile(r"\]\((?!https?:)")
SOURCE = "https://example.org/owner/project"
TAG = f"v{PROJECT['version']}"


@pytest.fixture
def hatch_build():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def description(hatch_build, urls):
    """What hatchling puts into the built package."""
    metadata = {"urls": urls, "version": PROJECT["version"]}
    hatch_build.DescriptionHook(str(ROOT), {}).update(metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    return metadata["readme"]["text"]


def test_pictures_of_the_description_have_absolute_addresses(hatch_build):
    text = description(hatch_build, {"Source": SOURCE})
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert f"{SOURCE}/raw/{TAG}/docs/prediction.gif" in pictures
    assert not RELATIVE.search(text)


def test_links_of_the_description_lead_to_files_that_are_there(hatch_build):
    paths = re.findall(rf"{SOURCE}/(?:raw|blob)/{TAG}/([^)]+)\)", description(hatch_build, {"Source": SOURCE}))
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_without_a_public_repository_no_address_of_the_description_is_broken(hatch_build):
    text = description(hatch_build, {})
    assert RELATIVE.search(README)
    assert not RELATIVE.search(text)
    assert "see CONTRIBUTING.md for how it is built" in " ".join(text.split())


@pytest.mark.parametrize("minor", range(11, 14))
def test_every_python_from_the_oldest_on_is_a_classifier(minor):
    assert PROJECT["requires-python"] == ">=3.11"
    assert f"Programming Language :: Python :: 3.{minor}" in PROJECT["classifiers"]


def test_classifiers_are_those_of_pypi():
    known = pytest.importorskip("trove_classifiers").classifiers
    assert set(PROJECT["classifiers"]) <= known


def test_the_citation_is_of_this_version_and_of_the_readmes_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    authors = " and ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    assert citation["version"] == PROJECT["version"] == ivideogpt_hf.__version__
    assert f"title = {{{paper['title']}}}" in README
    assert f"author = {{{authors}}}" in README
    assert PROJECT["urls"]["Paper"] == paper["url"]


@pytest.mark.parametrize(
    ("space", "file", "requirement", "extra"),
    [
        ("spaces_demo", "requirements.txt", "ivideogpt-hf>=0.1.0", ""),
        ("ivideogpt_world", "Dockerfile", "ivideogpt-hf[openenv]", "[openenv]"),
    ],
)
def test_until_the_first_release_spaces_say_how_they_are_built(space, file, requirement, extra):
    wheel = f"ivideogpt_hf-{PROJECT['version']}-py3-none-any.whl"
    address = f"https://huggingface.co/spaces/user/this-space/resolve/main/{wheel}"
    text = (ROOT / space / "README.md").read_text(encoding="utf-8")
    is_released = "Source" in PROJECT["urls"]
    assert (f"`ivideogpt-hf{extra} @ {address}`" in text) is not is_released
    assert requirement in (ROOT / space / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["ivideogpt_hf", "ivideogpt_hf.cli"])
def test_the_version_is_told_at_once(module):
    """Without torch, which takes seconds."""
    code = (
        f"import runpy, sys; sys.modules['torch'] = None; sys.argv[1:] = ['--version']; runpy.run_module({module!r}, "
    )
    argv = [sys.executable, "-c", code + "run_name='__main__')"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == f"ivideogpt {ivideogpt_hf.__version__}\n", done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete_every_command(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", shell])
    assert stopped.value.code == 0
    script = capsys.readouterr().out
    assert all(command in script for command in subcommands(build_parser()))
    assert "num-samples" in script


def test_bash_completes_commands_options_and_files(tmp_path):
    pytest.importorskip("shtab")
    (tmp_path / "clip.mp4").touch()
    script = subprocess.run(
        [sys.executable, "-m", "ivideogpt_hf", "--print-completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    function = re.search(r"complete -o \S+ -F (\S+) ivideogpt", script)[1]

    def complete(*words):
        array = " ".join(map(repr, words))
        code = f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; {function}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        argv = ["bash", "-c", f"{script}\n{code}"]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False).stdout.split()

    assert complete("ivideogpt", "pre") == ["predict"]
    assert "--num-samples" in complete("ivideogpt", "predict", "--num-")
    assert complete("ivideogpt", "predict", "cl") == ["clip.mp4"]


def test_completion_without_its_package_names_the_extra(monkeypatch, capsys):
    hide_package(monkeypatch, "shtab")
    assert main(["--print-completion", "bash"]) == 2
    assert how_to_install("completion") in capsys.readouterr().err
