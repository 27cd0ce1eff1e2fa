"""How many threads a command computes with: the cores that it may use, unless somebody said a number."""

import os

import pytest

from ivideogpt_hf.cli import main, threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four processors on two cores, without a container's limit; returns the file of that limit."""
    for processor, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    quota = tmp_path / "cpu.max"
    quota.write_text("max 100000\n")
    monkeypatch.setattr(threads, "PROCESSORS", tmp_path)
    monkeypatch.setattr(threads, "QUOTA", quota)
    monkeypatch.setattr(threads, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return quota


def test_processors_that_share_a_core_count_once(machine):
    assert threads.count_cores() == 2


def test_processors_that_the_process_may_not_use_do_not_count(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    assert threads.count_cores() == 1


def test_a_container_may_use_no_more_than_its_limit(machine):
    machine.write_text("50000 100000\n")
    assert threads.count_cores() == 1


def test_a_machine_that_tells_nothing_counts_its_processors(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "PROCESSORS", tmp_path / "nowhere")
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "nowhere")
    assert threads.count_cores() == 4


@pytest.mark.parametrize(("given", "used"), [(None, "2"), ("7", "7")])
def test_a_command_sets_the_number_unless_it_is_set(machine, monkeypatch, given, used):
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert main(["list", "planners"]) == 0
    assert os.environ["OMP_NUM_THREADS"] == used


@pytest.mark.parametrize(("running", "is_told"), [(1, False), (3, False), (4, True), (9, True)])
def test_a_busy_machine_is_told_of_and_changes_nothing(machine, monkeypatch, tmp_path, capsys, running, is_told):
    (tmp_path / "loadavg").write_text(f"0.50 0.40 0.30 {running}/113 4711\n")
    # Set and deleted, so that the number is gone after the test.
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.choose_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert ("OMP_NUM_THREADS=1 may be several times as fast as 2" in capsys.readouterr().err) == is_told


def test_others_do_not_count_where_a_container_has_its_share(machine, monkeypatch, tmp_path, capsys):
    (tmp_path / "loadavg").write_text("0.50 0.40 0.30 64/113 4711\n")
    machine.write_text("200000 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.choose_threads()
    assert not capsys.readouterr().err
