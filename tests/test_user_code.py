"""Code as users write it runs, and a type checker sees it and every module that it imports from (`make types`)."""

import importlib
import tomllib
from pathlib import Path

import pytest

import ivideogpt_hf
from tests import user_code
from tests.data.files import make_dataset

ROOT = Path(__file__).parents[1]


def checked_files():
    """The Python files that the type checker reads."""
    names = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    assert all((ROOT / name).exists() for name in names)
    return {
        file for name in names for file in ((ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else [ROOT / name])
    }


def test_it_runs(tmp_path):
    pytest.importorskip("datasets")
    pytest.importorskip("gymnasium")
    data = make_dataset(tmp_path / "data", [8, 8])
    user_code.use_everything(tmp_path, str(data))
    assert (tmp_path / "futures.mp4").is_file()


def test_it_runs_with_a_served_world(tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("httpx")
    from tests.serving.conftest import serving

    with serving(ivideogpt_hf.WorldModel.default()) as (url, _):
        user_code.use_server(url)


def test_every_public_name_is_of_a_module_that_is_checked():
    package = Path(ivideogpt_hf.__file__).parent
    homes = {package.joinpath(*module.split(".")) for module in ivideogpt_hf._HOMES}
    files = {home / "__init__.py" if home.is_dir() else home.with_suffix(".py") for home in homes}
    assert ROOT / "tests/user_code.py" in checked_files()
    assert files <= checked_files()


def test_nothing_is_hidden_from_the_checker():
    """Each line that is left out of a check says which error, and why."""
    for file in checked_files():
        for line in file.read_text().splitlines():
            if "# type: ignore" in line and file != Path(__file__):
                assert "# type: ignore[" in line, (file, line)
                assert line.split("# type: ignore[")[1].count("#") == 1, (file, line)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints.DEFAULT_FOLDER",
        "cli.main",
        "data.episodes.episode_to_row",
        "data.readers.open_episodes",
        "media.read_video",
        "models.configuration_ivideogpt.IVideoGPTConfig",
        "planning.objectives.RewardSum",
        "training.arguments.RunArguments",
        "training.train_world_model.train_world_model",
    ],
)
def test_dotted_names_that_version_0_1_0_documented_are_there(name):
    module, _, attribute = f"ivideogpt_hf.{name}".rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
