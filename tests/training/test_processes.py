"""Many processes train as one does: the same clips, rates and losses, however a run is split, stopped and resumed.

The processes are real and talk over gloo; `Processes` gives them the variables that torchrun would. Dropout is off,
since every process draws its own.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ivideogpt_hf.checkpoints.loading import load_transformer
from tests.conftest import free_port, locked_elsewhere
from tests.started import Started
from tests.training.conftest import all_tokens, metrics_of, run, weights_of, write_yaml

pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[2]
ON_CPU = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


class Processes:
    """A command of ``ivideogpt`` in two processes that know of each other."""

    def __init__(self, command, config, *overrides, log, environment=ON_CPU):
        common = environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        self.ranks = [
            Started(
                *(command, "--config", config),
                *overrides,
                log=log.with_name(f"{log.name}-{rank}"),
                environment=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]

    def wait(self):
        codes = [process.wait() for process in self.ranks]
        print(*(process.output for process in self.ranks), sep="\n---\n")  # pytest shows it where a test fails
        return codes


@pytest.fixture
def config_of(vq_config, world_config, tmp_path):
    """Configs whose eight updates pass the end of an epoch, and restart codes."""

    def make(command):
        settings = yaml.safe_load({"train-vq": vq_config, "train": world_config}[command].read_text())
        settings |= {"num_updates": 8, "batch_size": 12, "validate_every": 4, "save_every": 4, "schedule": "cosine"}
        if command == "train-vq":
            # At a higher rate a rounding error soon makes the difference between two codes that are equally near.
            settings |= {"learning_rate": 1.0e-4, "restart_dead_codes": 2, "restart_until": 1.0}
        return write_yaml(tmp_path / "run.yaml", settings)

    return make


def assert_alike(split, whole):
    """To the rounding of sums that were made in another order."""
    ours, theirs = metrics_of(split), metrics_of(whole)
    assert [entry["update"] for entry in ours] == [entry["update"] for entry in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-3), f"update {one['update']}"


@pytest.mark.parametrize("command", ["train-vq", "train"])
def test_two_processes_train_as_one_with_the_same_batch(command, config_of, tmp_path):
    config = config_of(command)
    assert run(command, config, "--output_dir", tmp_path / "whole") == 0
    split = Processes(command, config, "--output_dir", tmp_path / "split", "--num_processes", 2, log=tmp_path / "log")
    assert split.wait() == [0, 0]
    assert_alike(tmp_path / "split", tmp_path / "whole")


def test_two_processes_end_with_the_weights_of_one(config_of, tmp_path):
    config = config_of("train")
    assert run("train", config, "--output_dir", tmp_path / "whole") == 0
    assert Processes("train", config, "--output_dir", tmp_path / "split", log=tmp_path / "log").wait() == [0, 0]
    whole = weights_of(tmp_path / "whole")
    for name, value in weights_of(tmp_path / "split").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)], ids=["1 then 2", "2 then 1"])
def test_a_run_goes_on_with_another_number_of_processes(numbers, config_of, tmp_path):
    config, log = config_of("train"), tmp_path / "log"
    options = ["--schedule", "constant", "--output_dir"]
    assert run("train", config, *options, tmp_path / "whole") == 0
    for num_processes, num_updates in zip(numbers, (4, 8), strict=True):
        part = [*options, tmp_path / "parts", "--resume", "latest", "--num_updates", num_updates]
        if num_processes == 1:
            assert run("train", config, *part) == 0
        else:
            assert Processes("train", config, *part, log=log).wait() == [0, 0]
    assert_alike(tmp_path / "parts", tmp_path / "whole")


def test_a_signal_to_one_process_stops_all_after_the_same_update(config_of, tmp_path):
    output = tmp_path / "out"
    processes = Processes("train", config_of("train"), "--num_updates", 100000, log=tmp_path / "log")
    processes.ranks[0].wait_for(lambda: (output / "metrics.jsonl").exists())
    processes.ranks[1].send(signal.SIGTERM)
    assert processes.wait() == [75, 75]
    (checkpoint,) = list((output / "checkpoints").glob("update-*"))[-1:]
    assert {file.name for file in checkpoint.glob("random_states_*")} == {
        "random_states_0.pkl",
        "random_states_1.pkl",
    }


def test_two_processes_write_the_tokens_of_one(tokens_config, tmp_path):
    options = ["--augmentation", "strong", "--num_passes", 2]  # a file each
    assert run("tokenize", tokens_config, *options) == 0
    split = tmp_path / "split"
    assert Processes("tokenize", tokens_config, *options, "--output_dir", split, log=tmp_path / "log").wait() == [0, 0]
    assert all_tokens(split) == all_tokens(tmp_path / "tokens")
    assert len(all_tokens(split)) == 2 * 8 * 9


# -- launchers that start fewer processes than they were asked for -----------------------------------------------------


def test_processes_that_do_not_know_of_each_other_are_refused(config_of, tmp_path):
    alone = {name: value for name, value in ON_CPU.items() if name != "ACCELERATE_USE_CPU"}
    processes = Processes("train", config_of("train"), log=tmp_path / "log", environment=alone)
    assert processes.wait() == [2, 2]
    assert all("ACCELERATE_USE_CPU=true" in process.output for process in processes.ranks)


def test_fewer_processes_than_were_asked_for_are_refused(config_of, capsys):
    assert run("train", config_of("train"), "--num_processes", 2) == 2
    assert "num_processes is 2, but 1 run" in capsys.readouterr().err


# -- launchers and their files ----------------------------------------------------------------------------------------


def launch(config_file, *options):
    """``accelerate launch`` of a file in configs/accelerate, with options of the launcher and of ``train``."""
    argv = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        ROOT / "configs/accelerate" / config_file,
    ]
    environment = os.environ | ON_CPU
    return subprocess.Popen(
        [*map(str, argv), *map(str, options)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_two_machines_train_as_one(config_of, tmp_path):
    config, port = config_of("train"), free_port()
    assert run("train", config, "--output_dir", tmp_path / "whole") == 0
    training = ["-m", "ivideogpt_hf.cli", "train", "--config", config, "--num_processes", 2]
    machines = [
        launch(
            *("cpu_2.yaml", "--num_machines", 2, "--machine_rank", rank, "--rdzv_backend", "static"),
            *("--main_process_ip", "127.0.0.1", "--main_process_port", port),
            *(*training, "--output_dir", tmp_path / "split"),
        )
        for rank in range(2)
    ]
    outputs = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert_alike(tmp_path / "split", tmp_path / "whole")


@pytest.mark.parametrize("file", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_launch_file_says_what_accelerate_understands(file):
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(file)).to_dict()
    written = yaml.safe_load(file.read_text())
    assert {name: read[name] for name in written} == written


def test_a_sharded_transformer_trains_as_a_whole_one(world_config, tmp_path):
    """FSDP2 on gloo: every parameter is sharded, and the checkpoint is whole again."""
    assert run("train", world_config, "--output_dir", tmp_path / "before", "--num_updates", 1) == 0
    config = write_yaml(
        tmp_path / "on.yaml",
        yaml.safe_load(world_config.read_text())
        | {"transformer": str(tmp_path / "before"), "transformer_config": None},
    )
    assert run("train", config) == 0
    program = Path(__file__).with_name("fsdp_program.py")
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", program, config]
    environment = os.environ | ON_CPU
    done = subprocess.run(
        [*map(str, argv), str(tmp_path / "sharded")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_alike(tmp_path / "sharded", tmp_path / "out")
    whole = load_transformer(tmp_path / "out")
    for name, value in load_transformer(tmp_path / "sharded").state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_all_processes_say_so_where_another_run_writes_the_folder(vq_config, tmp_path):
    with locked_elsewhere(tmp_path / "out"):
        processes = Processes("train-vq", vq_config, "--batch_size", 4, log=tmp_path / "log")
        assert processes.wait() == [2, 2]
    assert all(f"another process is writing {tmp_path / 'out'}" in rank.output for rank in processes.ranks)
