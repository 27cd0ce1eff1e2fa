"""One run writes a folder at a time."""

import signal

import pytest

from tests.started import Started
from tests.training.conftest import metrics_of, run

pytest.importorskip("accelerate")


@pytest.mark.parametrize("command", ["train-vq", "train"])
def test_a_second_training_into_one_folder_is_refused(command, request, tmp_path, capsys):
    config = request.getfixturevalue({"train-vq": "vq_config", "train": "world_config"}[command])
    first = Started(
        command, "--config", config, "--num_updates", 100_000, "--save_every", 100_000, log=tmp_path / "log"
    )
    first.wait_for(lambda: (tmp_path / "out/metrics.jsonl").exists())
    capsys.readouterr()
    assert run(command, config, "--num_updates", 2) == 2
    message = f"another process is writing {tmp_path / 'out'}: wait for it, stop it, or give another folder"
    told = capsys.readouterr().err
    assert told.startswith(f"ivideogpt: error: {message} (process {first.process.pid} on ")
    first.send(signal.SIGKILL)
    first.wait()
    assert run(command, config, "--num_updates", 2) == 0
    assert {entry["update"] for entry in metrics_of(tmp_path / "out")} == {1, 2}
    assert not (tmp_path / "out/.lock").exists()
