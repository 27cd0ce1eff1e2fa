"""What lies where in a checkpoint."""

import json
import subprocess
import sys

import pytest

from ivideogpt_hf.checkpoints.layout import METRICS_FILE, read_metrics, record_evaluation


def test_an_evaluation_is_recorded_beside_what_is_there(tmp_path):
    assert read_metrics(tmp_path) == {}
    record_evaluation(tmp_path, {"psnr": 1.0})
    assert read_metrics(tmp_path) == {"evaluation": {"psnr": 1.0}}
    (tmp_path / METRICS_FILE).write_text(json.dumps({"commands": ["make"], "evaluation": {"psnr": 1.0}}))
    record_evaluation(tmp_path, {"psnr": 2.0})
    assert read_metrics(tmp_path) == {"commands": ["make"], "evaluation": {"psnr": 2.0}}


def test_a_broken_metrics_file_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_text("{")
    with pytest.raises(OSError, match=r"metrics\.json is not valid JSON"):
        read_metrics(tmp_path)


def test_the_example_is_found_without_loading_torch():
    code = (
        "import sys; from ivideogpt_hf import EXAMPLE_EPISODE; from ivideogpt_hf.checkpoints import DEFAULT_FOLDER; "
        "assert EXAMPLE_EPISODE.is_file() and DEFAULT_FOLDER.is_dir() and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
