"""Folders of runs: whose they are, that nothing in them is ever half written, and that one process writes them."""

import functools
import itertools
import json
import multiprocessing
import re
import subprocess
import sys
import time

import pytest

from ivideogpt_hf import run_folder
from ivideogpt_hf.run_folder import LOCK_FILE, claim, lock, recover_folder, replace_folder, write_aside, write_json
from tests.conftest import locked_elsewhere

RECORD = {"seed": 0, "size": (64, 64), "data": [{"name": "arm"}]}

# Runs a function in forks of a small process. The n-th fork is killed before the n-th line of run_folder.py that it
# would execute; a check follows each kill. At last there are not so many lines.
KILL_AT_EVERY_LINE = """
import os, shutil, signal, sys
from pathlib import Path
from ivideogpt_hf import run_folder

folder = Path(sys.argv[1])

def kill_before_line(number):
    def trace(frame, event, _):
        nonlocal number
        if frame.f_code.co_filename != run_folder.__file__:
            return None
        if event == "line":
            number -= 1
            if not number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

def prepare():
    {prepare}

def act():
    {act}

def check():
    {check}

number, status = 0, None
while status != 0:
    number += 1
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    prepare()
    child = os.fork()
    if not child:
        kill_before_line(number)
        act()
        sys.settrace(None)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    check()
print(number)
"""


def kill_at_every_line(folder, prepare, act, check):
    """Returns how many lines there were."""
    indented = {
        name: text.strip().replace("\n", "\n    ")
        for name, text in {"prepare": prepare, "act": act, "check": check}.items()
    }
    code = KILL_AT_EVERY_LINE
    for name, text in indented.items():
        code = code.replace(f"{{{name}}}", text)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


# -- whose folder it is -----------------------------------------------------------------------------------------------


def test_the_same_run_finds_its_folder_again(tmp_path):
    folder = tmp_path / "deep" / "out"
    first = claim(folder, "run.json", RECORD, noun="evaluation")
    assert first == json.loads((folder / "run.json").read_text()) == {**RECORD, "size": [64, 64]}
    (folder / "clips").mkdir()
    before = (folder / "run.json").stat().st_mtime_ns
    assert claim(folder, "run.json", RECORD, noun="evaluation") == first
    assert (folder / "run.json").stat().st_mtime_ns == before


def test_another_run_is_refused_and_the_differences_are_named(tmp_path):
    claim(tmp_path / "out", "run.json", RECORD, noun="evaluation")
    changed = {"seed": 1, "size": (64, 64), "split": "test"}
    with pytest.raises(FileExistsError) as caught:
        claim(tmp_path / "out", "run.json", changed, noun="evaluation")
    assert str(caught.value) == (
        f"{tmp_path / 'out'} holds another evaluation, they differ in data, seed, split; give another folder, or "
        f"delete this one"
    )


def test_a_part_of_the_record_can_be_what_matters(tmp_path):
    def seed_of(record):
        return {"seed": record["seed"]}

    claim(tmp_path / "out", "run.json", {"seed": 0, "workers": 1}, noun="run", identity_of=seed_of)
    record = claim(tmp_path / "out", "run.json", {"seed": 0, "workers": 2}, noun="run", identity_of=seed_of)
    assert record["workers"] == 2
    with pytest.raises(FileExistsError, match="they differ in seed;"):
        claim(tmp_path / "out", "run.json", {"seed": 1, "workers": 1}, noun="run", identity_of=seed_of)


@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", "data"])
def test_a_folder_with_anything_else_is_refused(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match="is not empty; give a new folder"):
        claim(tmp_path, "run.json", RECORD, noun="evaluation")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_record_is_no_licence_to_write(tmp_path):
    (tmp_path / "run.json").write_text('{"seed": ')
    with pytest.raises(OSError, match=r"run\.json is damaged"):
        claim(tmp_path, "run.json", RECORD, noun="evaluation")
    assert (tmp_path / "run.json").read_text() == '{"seed": '


def test_a_kill_while_claiming_does_not_lose_the_folder(tmp_path):
    lines = kill_at_every_line(
        tmp_path / "out",
        prepare="pass",
        act="run_folder.claim(folder, 'sub/run.json', {'seed': 0}, noun='run')",
        check="run_folder.claim(folder, 'sub/run.json', {'seed': 0}, noun='run')",
    )
    assert lines > 15


def meanwhile(number, act):
    """Before the ``number``-th line of run_folder.py that is executed from now on, somebody else acts."""

    def trace(frame, event, _):
        nonlocal number
        if frame.f_code.co_filename != run_folder.__file__:
            return None
        if event == "line":
            number -= 1
            if not number:
                sys.settrace(None)
                act()
        return trace

    sys.settrace(trace)


@pytest.mark.parametrize(("other_seed", "expected"), [(0, {((0, 0), ())}), (1, {((0,), (1,)), ((1,), (0,))})])
def test_who_claims_in_between_shares_the_folder_or_is_alone_in_it(other_seed, expected, tmp_path):
    """Whatever step of a claim another run's whole claim and first work come before."""
    trace_before, outcomes = sys.gettrace(), set()
    for number in itertools.count(1):
        folder, accepted, refused = tmp_path / str(number), [], []

        def attempt(seed, folder=folder, accepted=accepted, refused=refused):
            try:
                claim(folder, "run.json", {"seed": seed}, noun="evaluation")
            except FileExistsError as error:
                refused.append((seed, str(error)))
            else:
                accepted.append(seed)
                (folder / "clips").mkdir(exist_ok=True)

        meanwhile(number, functools.partial(attempt, other_seed))
        try:
            attempt(0)
        finally:
            sys.settrace(trace_before)
        if len(accepted) + len(refused) == 1:  # the claim has fewer lines
            break
        assert json.loads((folder / "run.json").read_text()) == {"seed": accepted[0]}
        assert all("they differ in seed" in message for _, message in refused)
        outcomes.add((tuple(accepted), tuple(seed for seed, _ in refused)))
    assert number > 15
    assert outcomes == expected


def _claim_and_work(folder, seed, barrier, results):
    """As an evaluation does: the folder fills as soon as it is claimed."""
    barrier.wait()
    try:
        claim(folder, "run.json", {"seed": seed}, noun="evaluation")
        (folder / "clips").mkdir(exist_ok=True)
        results.put((seed, None))
    except FileExistsError as error:
        results.put((seed, str(error)))


@pytest.mark.parametrize("seeds", [(0,) * 6, (0, 1) * 3])
def test_of_processes_that_claim_at_once_those_of_one_run_succeed(seeds, tmp_path):
    forks = multiprocessing.get_context("fork")
    for attempt in range(5):
        folder, barrier, results = tmp_path / str(attempt), forks.Barrier(len(seeds)), forks.Queue()
        processes = [forks.Process(target=_claim_and_work, args=(folder, seed, barrier, results)) for seed in seeds]
        for process in processes:
            process.start()
        answers = [results.get(timeout=60) for _ in seeds]
        for process in processes:
            process.join()
        winner = json.loads((folder / "run.json").read_text())["seed"]
        for seed, error in answers:
            assert error is None if seed == winner else "they differ in seed" in error
        assert sorted(path.name for path in folder.iterdir()) == ["clips", "run.json"]


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_a_kill_leaves_the_old_content_or_the_new(tmp_path):
    lines = kill_at_every_line(
        tmp_path / "out",
        prepare="(folder / 'a.json').write_text('old')",
        act="run_folder.write_json(folder / 'a.json', list(range(999)))",
        check="""
content = (folder / "a.json").read_text()
assert content in ("old", run_folder.as_json(list(range(999)))), content
assert [path.name for path in folder.iterdir() if path.suffix != ".partial"] == ["a.json"]
""",
    )
    assert lines > 15


def test_a_kill_leaves_the_old_folder_or_the_new(tmp_path):
    lines = kill_at_every_line(
        tmp_path / "out",
        prepare="""
for name in ("best", "best.partial"):
    (folder / name).mkdir()
    for file in ("weights", "config"):
        (folder / name / file).write_text(name)
""",
        act="run_folder.replace_folder(folder / 'best', folder / 'best.partial')",
        check="""
run_folder.recover_folder(folder / "best")
contents = [(folder / "best" / file).read_text() for file in ("weights", "config")]
assert contents in (["best"] * 2, ["best.partial"] * 2), contents
""",
    )
    assert lines > 15


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    with pytest.raises(UnicodeEncodeError), write_aside(tmp_path / "a.json") as aside:
        aside.write_text("half" * 99999 + "\udc00", encoding="utf-8")
    with pytest.raises(FileNotFoundError), write_aside(tmp_path / "a.json"):
        pass  # nothing was written
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_do_not_meet(tmp_path):
    with write_aside(tmp_path / "a") as one, write_aside(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"  # the block that ended last
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_takes_the_place_of_none_or_another(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "aside").mkdir()
        (tmp_path / "aside" / "file").write_text(content)
        replace_folder(tmp_path / "best", tmp_path / "aside")
        recover_folder(tmp_path / "best")
        assert (tmp_path / "best" / "file").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


# -- who writes it ----------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    with locked_elsewhere(tmp_path / "out"):
        for _ in range(2):
            with pytest.raises(BlockingIOError) as caught, lock(tmp_path / "out"):
                pass
        assert re.fullmatch(
            re.escape(f"another process is writing {tmp_path / 'out'}: wait for it, stop it, or give another folder")
            + r" \(process \d+ on .+, since .+\)",
            str(caught.value),
        )
        assert (tmp_path / "out" / LOCK_FILE).exists()
    with lock(tmp_path / "out"):  # after a kill
        pass
    assert not list((tmp_path / "out").iterdir())


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    with locked_elsewhere(tmp_path, with_child=True):
        pass
    with lock(tmp_path):
        pass


def in_four_processes(target, folder):
    """Run a function of a folder and a barrier in four processes at once; their exit codes."""
    forks = multiprocessing.get_context("fork")
    barrier = forks.Barrier(4)
    processes = [forks.Process(target=target, args=(folder, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def _count_in(folder, barrier):
    barrier.wait()
    done = 0
    while done < 25:
        try:
            with lock(folder):
                file = folder / "count"
                number = int(file.read_text()) if file.exists() else 0
                time.sleep(0.0002)
                file.write_text(str(number + 1))
                done += 1
        except BlockingIOError:
            time.sleep(0.0005)


def test_never_two_at_once_though_the_lock_file_comes_and_goes(tmp_path):
    in_four_processes(_count_in, tmp_path)
    assert (tmp_path / "count").read_text() == "100"


def test_a_lock_does_not_stand_in_the_way_of_a_claim(tmp_path):
    with lock(tmp_path):
        claim(tmp_path, "run.json", RECORD, noun="run")


def test_a_lock_removes_the_folder_that_it_made_if_nothing_was_written(tmp_path):
    with lock(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    for name in ("empty", "written"):
        with lock(tmp_path / name):
            if name == "written":
                (tmp_path / name / "file").touch()
        assert (tmp_path / name).is_dir()


def _lock_again_and_again(folder, barrier):
    barrier.wait()
    num_locks = 0
    while num_locks < 50:
        try:
            with lock(folder):
                num_locks += 1
        except BlockingIOError:
            time.sleep(0.0001)


def test_a_folder_that_comes_and_goes_can_be_locked(tmp_path):
    assert in_four_processes(_lock_again_and_again, tmp_path / "new") == [0] * 4
