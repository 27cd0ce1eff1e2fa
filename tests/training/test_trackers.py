"""Metrics go to a tracker, too, and a resumed run goes on in the same one."""

import importlib.util
import os
import sqlite3
import subprocess
import sys

import pytest

from tests.training.conftest import run

pytest.importorskip("accelerate")


def test_a_tracker_that_is_not_installed_is_named(vq_config, capsys):
    missing = next((name for name in ("wandb", "tensorboard") if importlib.util.find_spec(name) is None), None)
    if missing is None:
        pytest.skip("all trackers are installed")
    assert run("train-vq", vq_config, "--tracker", missing) == 2
    assert f"pip install {missing}" in capsys.readouterr().err


def test_trackio_gets_the_metrics_of_one_run(vq_config, tmp_path):
    pytest.importorskip("trackio")
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    for num_updates in ("2", "4"):
        argv = [sys.executable, "-m", "ivideogpt_hf.cli", "train-vq", "--config", str(vq_config), "--resume", "latest"]
        argv += ["--tracker", "trackio", "--run_name", "arm", "--num_updates", num_updates]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "trackio").glob("ivideogpt*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select distinct run_name, step from metrics order by step").fetchall()
    assert rows == [("arm", step) for step in (1, 2, 3, 4)]
