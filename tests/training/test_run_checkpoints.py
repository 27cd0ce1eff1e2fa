"""Checkpoints of a run: which one is used, which ones stay, and what happens when one cannot be written."""

import json
import logging
import os
import resource
import shutil

import pytest
from accelerate import Accelerator

from ivideogpt_hf.training.run_checkpoints import checkpoints_in, choose, problem_of, rotate
from tests.started import Started
from tests.training.conftest import assert_same_weights, metrics_of, run, weights_of

VALIDATED = ["--validate_every", 1, "--save_every", 1, "--keep_checkpoints", 9]


@pytest.fixture
def output(world_config, tmp_path):
    """What a run of three updates left, with a checkpoint after each."""
    assert run("train", world_config, *VALIDATED, "--num_updates", 3) == 0
    assert [path.name for path in checkpoints_in(tmp_path / "out" / "checkpoints")] == [
        "update-00000001",
        "update-00000002",
        "update-00000003",
    ]
    return tmp_path / "out"


def flip_a_bit(file):
    with file.open("r+b") as content:
        content.seek(file.stat().st_size // 2)
        (byte,) = content.read(1)
        content.seek(-1, os.SEEK_CUR)
        content.write(bytes([byte ^ 1]))


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in files_of(folder)}


def resume(config, *options):
    return run("train", config, *VALIDATED, "--resume", "latest", *options)


# -- which one is used ------------------------------------------------------------------------------------------------


def test_every_flipped_bit_and_every_missing_file_is_found(output, tmp_path):
    checkpoint = output / "checkpoints" / "update-00000003"
    assert problem_of(checkpoint) is None
    names = [path.relative_to(checkpoint) for path in files_of(checkpoint)]
    assert len(names) >= 5  # weights, optimiser, random states, state, manifest
    for name in names:
        copy = tmp_path / "copy"
        shutil.copytree(checkpoint, copy)
        flip_a_bit(copy / name)
        assert problem_of(copy) is not None
        (copy / name).unlink()
        assert problem_of(copy) == f"{name.name} is missing"
        shutil.rmtree(copy)


@pytest.mark.parametrize("damage", ["corrupt", "missing"])
def test_a_broken_checkpoint_is_skipped_by_name(damage, output, world_config, caplog):
    broken = output / "checkpoints" / "update-00000003" / "model.safetensors"
    if damage == "corrupt":
        flip_a_bit(broken)
    else:
        broken.unlink()
    with caplog.at_level(logging.WARNING):
        assert resume(world_config, "--num_updates", 4) == 0
    assert f"skipped the checkpoint {broken.parent}: model.safetensors is {damage}" in caplog.text
    assert [entry["update"] for entry in metrics_of(output) if "loss" in entry] == [1, 2, 3, 4]
    assert problem_of(broken.parent) is None  # written again


def test_a_half_written_checkpoint_is_not_used(output, world_config, tmp_path):
    """A kill while it was written leaves it under another name; it goes when the next one is there."""
    last = output / "checkpoints" / "update-00000003"
    aside = last.with_name("update-00000004.partial")
    shutil.copytree(last, aside)
    (aside / "manifest.json").unlink()
    assert checkpoints_in(output / "checkpoints")[-1] == last
    accelerator = Accelerator(cpu=True)
    assert choose(accelerator, output / "checkpoints", "latest") == last
    assert resume(world_config, "--num_updates", 4) == 0
    assert not aside.exists()
    assert checkpoints_in(output / "checkpoints")[-1].name == "update-00000004"


def test_the_one_that_is_named_is_used(output, world_config, tmp_path):
    """An earlier one: the run then goes the same way again."""
    before = tmp_path / "before"
    shutil.copytree(output, before)
    named = output / "checkpoints" / "update-00000001"
    assert run("train", world_config, *VALIDATED, "--num_updates", 3, "--resume", named) == 0
    assert metrics_of(output) == metrics_of(before)
    assert_same_weights(output, before)


@pytest.mark.parametrize("name", ["update-00000003", "update-00000007"])
def test_a_named_one_that_is_broken_or_missing_is_an_error(name, output, world_config, capsys):
    named = output / "checkpoints" / name
    if named.exists():
        flip_a_bit(named / "state.json")
    before = metrics_of(output)
    assert run("train", world_config, *VALIDATED, "--num_updates", 4, "--resume", named) == 2
    assert f"error: the checkpoint {named} cannot be used" in capsys.readouterr().err
    assert metrics_of(output) == before


def test_if_all_are_broken_it_is_an_error(output, world_config, capsys):
    folder = output / "checkpoints"
    for checkpoint in checkpoints_in(folder):
        flip_a_bit(checkpoint / "optimizer.bin")
    assert resume(world_config, "--num_updates", 4) == 2
    assert f"error: none of the 3 checkpoints in {folder} can be used" in capsys.readouterr().err
    with pytest.raises(OSError, match="none of the 3"):
        choose(Accelerator(cpu=True), folder, "latest")


def test_where_there_is_none_there_is_none_to_choose(tmp_path):
    assert choose(Accelerator(cpu=True), tmp_path / "nowhere", "latest") is None


# -- which ones stay --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "num_kept", "kept"),
    [
        ([3.0, 1.0, 2.0, 2.5], 2, [2, 3, 4]),  # the last two and the best
        ([3.0, 2.0, 1.0, 0.5], 2, [3, 4]),  # the best is the last
        ([None, None, None, None], 1, [4]),
        ([None, 5.0, None, None], 1, [2, 4]),
        ([1.0, 2.0], 5, [1, 2]),
    ],
)
def test_the_last_ones_and_the_best_stay(losses, num_kept, kept, tmp_path):
    for number, loss in enumerate(losses, 1):
        (tmp_path / f"update-{number:08d}").mkdir()
        (tmp_path / f"update-{number:08d}" / "state.json").write_text(json.dumps({"validation_loss": loss}))
    (tmp_path / "update-00000099.partial").mkdir()
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    rotate(tmp_path, num_kept)
    assert checkpoints_in(tmp_path) == [tmp_path / f"update-{number:08d}" for number in kept]
    assert not (tmp_path / "update-00000099.partial").exists()
    assert (tmp_path / "notes.txt").exists()


def test_a_run_keeps_its_last_and_its_best_checkpoint(world_config, tmp_path):
    """A rate so high that the model gets worse in the end."""
    options = [*VALIDATED[:-1], 1, "--num_updates", 6, "--learning_rate", 0.5]
    assert run("train", world_config, *options) == 0
    losses = {e["update"]: e["validation/loss"] for e in metrics_of(tmp_path / "out") if "validation/loss" in e}
    best = min(losses, key=losses.__getitem__)
    assert best < 6
    names = [path.name for path in checkpoints_in(tmp_path / "out" / "checkpoints")]
    assert names == [f"update-{best:08d}", "update-00000006"]
    exported = json.loads((tmp_path / "out" / "best" / "validation.json").read_text())
    assert (exported["update"], exported["validation/loss"]) == (best, losses[best])


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [30_000, 100_000])
def test_where_no_checkpoint_can_be_written_the_old_ones_stay(limit, output, world_config, tmp_path):
    """Files can grow to ``limit`` bytes only: beyond, writing fails as it does on a full disk, at the weights or at the
    optimiser's state, which is larger."""
    folder = output / "checkpoints"
    before, weights = contents(folder), weights_of(output)
    options = [*VALIDATED, "--validate_every", 0, "--resume", "latest", "--num_updates", 5]
    limits = {resource.RLIMIT_FSIZE: limit}
    process = Started("train", "--config", world_config, *options, log=tmp_path / "log", limits=limits)
    assert process.wait() == 2, process.output
    assert f"error: the checkpoint {folder / 'update-00000004'} could not be written" in process.output
    assert contents(folder) == before
    assert all(value.equal(weights[name]) for name, value in weights_of(output).items())
    assert resume(world_config, "--num_updates", 5) == 0  # with room again, it goes on
