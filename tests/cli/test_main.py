import json
import subprocess
import sys

import numpy as np
import pytest

from ivideogpt_hf.cli import main
from ivideogpt_hf.media.video import read_video, write_video
from tests.conftest import build_world, is_released, random_actions, random_frames


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    world.save_pretrained(folder)
    return str(folder)


def fails(capsys, *argv):
    """The one line that a failing command prints."""
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("ivideogpt: error: ")
    return lines[-1]


def test_predict_writes_the_prediction_beside_the_truth(checkpoint, tmp_path, capsys):
    video = write_video(random_frames(6), tmp_path / "clip.gif")
    np.save(tmp_path / "actions.npy", random_actions(3, 3).numpy())
    output = tmp_path / "out" / "prediction.mp4"
    argv = ["predict", str(video), "--checkpoint", checkpoint, "--actions", str(tmp_path / "actions.npy")]
    assert main([*argv, "--num-samples", "2", "--output", str(output)]) == 0
    frames = read_video(output)
    assert len(frames) == 3
    assert frames.shape[-1] == 16 * (3 * 16 + 2 * 2)  # truth and two samples, pixels enlarged to squares of 16
    assert "against the true future" in capsys.readouterr().out


def test_predict_goes_on_beyond_the_video(tmp_path, capsys):
    build_world().save_pretrained(tmp_path / "free")
    video = write_video(random_frames(2), tmp_path / "clip.gif")
    argv = ["predict", str(video), "--checkpoint", str(tmp_path / "free"), "--output", str(tmp_path / "p.gif")]
    assert "pass --num-frames" in fails(capsys, *argv)
    assert main([*argv, "--num-frames", "4"]) == 0
    assert len(read_video(tmp_path / "p.gif")) == 4


def test_the_seed_decides(checkpoint, tmp_path):
    video = write_video(random_frames(4), tmp_path / "clip.gif")
    np.save(tmp_path / "actions.npy", random_actions(2, 3).numpy())

    def predict(seed):
        output = tmp_path / "p.gif"
        argv = ["predict", str(video), "--checkpoint", checkpoint, "--actions", str(tmp_path / "actions.npy")]
        assert main([*argv, "--seed", str(seed), "--output", str(output)]) == 0
        return output.read_bytes()

    assert predict(0) == predict(0)
    assert predict(0) != predict(1)


def test_convert_there_and_back(checkpoint, tmp_path):
    assert main(["convert", checkpoint, str(tmp_path / "released"), "--to", "released"]) == 0
    assert is_released(tmp_path / "released")
    assert main(["convert", str(tmp_path / "released"), str(tmp_path / "ours"), "--remote-code"]) == 0
    assert not is_released(tmp_path / "ours")
    assert (tmp_path / "ours" / "modeling_ivideogpt.py").is_file()
    config = json.loads((tmp_path / "ours" / "transformer" / "config.json").read_text())
    assert config["action_dim"] == 3


def test_convert_onto_itself_is_refused(checkpoint, capsys):
    assert "the same folder" in fails(capsys, "convert", checkpoint, checkpoint)


def test_info_tells_what_a_checkpoint_is(checkpoint, capsys):
    assert main(["info", checkpoint]) == 0
    output = capsys.readouterr().out
    for fact in ("16 x 16 pixels", "3 wide", "64 (8 x 8)", "4 (2 x 2)", "66 = 24 context + 40", "up to 6", "s with"):
        assert fact in output


def test_info_times_rollouts(checkpoint, capsys):
    assert main(["info", checkpoint, "--benchmark"]) == 0
    *_, header, one, guessed, eight, many = capsys.readouterr().out.splitlines()
    assert "tokens/s" in header
    assert [line.split()[:2] for line in (one, guessed, eight, many)] == [
        ["1", "0"],
        ["1", "3"],
        ["8", "0"],
        ["64", "0"],
    ]


def test_errors_are_one_line_and_debug_shows_the_traceback(tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"nonsense")
    assert "cannot be decoded as video" in fails(capsys, "predict", str(tmp_path / "clip.mp4"))
    with pytest.raises(OSError, match="cannot be decoded as video"):
        main(["predict", str(tmp_path / "clip.mp4"), "--debug"])


def test_a_missing_checkpoint_is_one_line(capsys):
    assert "it is no Hub id of the form 'owner/name'" in fails(capsys, "info", "/no/such/checkpoint")


def test_a_device_that_is_not_there(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch sees no CUDA device" in fails(capsys, "info", checkpoint, "--device", "cuda")


def test_help_of_every_command():
    for command in ([], ["predict"], ["convert"], ["info"]):
        argv = [sys.executable, "-m", "ivideogpt_hf.cli", *command, "--help"]
        assert "usage: ivideogpt" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
