"""The picture of a training's course."""

import json

import pytest

from ivideogpt_hf.training.curves import CURVES_FILE, draw_training
from tests.training.conftest import run

figure = pytest.importorskip("matplotlib.figure")


def test_curves_wait_until_something_is_logged(vq_config, tmp_path, caplog):
    often = ("--validate_every", 2, "--save_every", 2, "--validation_split", "null")
    assert run("train-vq", vq_config, "--num_updates", 6, "--log_every", 6, *often) == 0
    assert CURVES_FILE not in caplog.text
    assert (tmp_path / "out" / CURVES_FILE).is_file()


@pytest.mark.parametrize("content", ["", '{"update": 1, "learning_rate": 0.1}'])
def test_curves_wait_for_something_to_draw(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    draw_training(tmp_path)
    assert not (tmp_path / CURVES_FILE).exists()


@pytest.mark.parametrize("num_points", [1, 2])
def test_a_curve_of_one_point_is_seen(tmp_path, monkeypatch, num_points):
    entries = [json.dumps({"update": update, "loss": 1.0}) for update in range(num_points)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(entries))
    drawn, save = [], figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *args, **options: (drawn.append(self), save(self, *args, **options))
    )
    draw_training(tmp_path)
    ((line,),) = ([*axis.lines] for axis in drawn[0].axes)
    assert (line.get_marker() == ".") == (num_points == 1)
