"""A source that changes before, during or after its conversion: it is said, and old and new are never mixed."""

import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.media.images import encode_png
from tests.data.files import (
    MemoryReader,
    convert,
    make_actions,
    make_episode,
    make_frames,
    write_lerobot,
    write_mp4,
    write_npz,
    write_npz_folder,
)

pytest.importorskip("datasets")

OLD = 10**18  # a time in nanoseconds, which tests set so that none depends on the clock


def age(folder, time=OLD):
    """Give all files below a folder one time."""
    for file in folder.rglob("*"):
        if file.is_file():
            os.utime(file, ns=(time, time))
    return folder


def write_later(path, *args, time=2 * OLD, **options):
    """Write an episode that is newer than what `age` left."""
    write_npz(path, *args, **options)
    os.utime(path, ns=(time, time))


def make_source(folder):
    return age(write_npz_folder(folder, [5] * 6))


def open_conversion(source, output, *, update=False, **settings):
    settings = ConversionSettings(**{"test_fraction": 0.0, "num_shards": 3, **settings})
    return Conversion(open_episodes(source), output, settings, {}, update=update)


def run(source, output, **options):
    return open_conversion(source, output, **options).run()


def contents(folder):
    return {file.name: file.read_bytes() for file in (folder / "data").glob("*")}


def assert_as_if_new(source, output, **settings):
    """The folder holds what a conversion of the source as it is would write, and nothing of before."""
    fresh = output.with_name(f"{output.name}-fresh")
    run(source, fresh, **settings)
    assert contents(output) == contents(fresh)


# -- what is said -----------------------------------------------------------------------------------------------------


def change_some(source):
    write_later(source / "episode_0.npz", 5, seed=10)
    write_later(source / "episode_7.npz", 5, seed=7)
    (source / "episode_5.npz").unlink()


def test_a_finished_conversion_says_which_files_have_changed(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    change_some(source)
    expected = r"1 changed \(episode_0.npz\), 1 new \(episode_7.npz\), 1 gone \(episode_5.npz\); .*--update"
    with pytest.raises(FileExistsError, match=expected):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_an_unfinished_conversion_says_which_files_have_changed(tmp_path):
    source = make_source(tmp_path / "in")
    assert open_conversion(source, tmp_path / "out").run(job=(0, 3)) is None
    change_some(source)
    with pytest.raises(FileExistsError, match=r"1 changed \(episode_0.npz\)"):
        run(source, tmp_path / "out")


def test_files_of_shards_that_are_not_written_may_change(tmp_path):
    source = make_source(tmp_path / "in")
    open_conversion(source, tmp_path / "out").run(job=(0, 3))
    write_later(source / "episode_5.npz", 5, seed=9)
    run(source, tmp_path / "out")
    assert_as_if_new(source, tmp_path / "out")


def test_the_command_fails_until_it_is_asked_to_update(tmp_path, capsys):
    source = make_source(tmp_path / "in")
    command = ["convert-data", str(source), str(tmp_path / "out"), "--test-fraction", "0", "--num-workers", "1"]
    assert main(command) == 0
    write_later(source / "episode_2.npz", 5, seed=10)
    assert main(command) == 2
    assert "1 changed (episode_2.npz)" in capsys.readouterr().err
    assert main([*command, "--update"]) == 0
    assert main(command) == 0
    stored = open_episodes(tmp_path / "out")[2].actions
    assert np.array_equal(stored, open_episodes(source)[2].actions)


def test_a_long_list_of_files_is_cut(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    age(source, 3 * OLD)
    with pytest.raises(FileExistsError, match=r"6 changed \(episode_0.npz, episode_1.npz, episode_2.npz, ...\)"):
        run(source, tmp_path / "out")


# -- an update --------------------------------------------------------------------------------------------------------


def append(source):
    write_later(source / "episode_6.npz", 5, seed=6)


def remove_the_first(source):
    (source / "episode_0.npz").unlink()


def remove_most(source):
    for index in range(1, 6):
        (source / f"episode_{index}.npz").unlink()


@pytest.mark.parametrize("change", [change_some, append, remove_the_first, remove_most])
@pytest.mark.parametrize("is_finished", [False, True], ids=["unfinished", "finished"])
def test_an_update_gives_what_a_new_conversion_would(tmp_path, change, is_finished):
    source = make_source(tmp_path / "in")
    open_conversion(source, tmp_path / "out").run(job=(0, 1 if is_finished else 2))
    change(source)
    statistics = run(source, tmp_path / "out", update=True)
    assert statistics.num_episodes == len(open_episodes(source))
    assert_as_if_new(source, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_updates_follow_each_other(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    for seed in (20, 30, 40):
        write_later(source / "episode_3.npz", 5, seed=seed, time=OLD + seed)
        run(source, tmp_path / "out", update=True)
        assert_as_if_new(source, tmp_path / "out")
        shutil.rmtree(tmp_path / "out-fresh")
        run(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/.conversion").iterdir() if path.is_dir()] == ["3"]


def test_an_update_reads_only_shards_with_changed_files(tmp_path, monkeypatch):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    write_later(source / "episode_5.npz", 5, seed=10)
    reader = open_episodes(source)
    read, indices = type(reader)._read, set()
    monkeypatch.setattr(type(reader), "_read", lambda self, index: indices.add(index) or read(self, index))
    Conversion(reader, tmp_path / "out", ConversionSettings(0.0, num_shards=3), {}, update=True).run()
    assert indices == {0, 4, 5}  # the first one tells cameras and actions


def test_kept_shards_do_not_hide_that_actions_have_another_width_now(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    write_later(source / "episode_0.npz", 5, action=make_actions(5, 2))
    write_later(source / "episode_1.npz", 5, action=make_actions(5, 2))
    with pytest.raises(EpisodeError, match="other episodes have"):
        run(source, tmp_path / "out", update=True)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["aspect", "names", "rows"])
def test_kept_shards_do_not_hide_that_episodes_do_not_fit_together_any_more(tmp_path, change):
    source = tmp_path / "source"
    for name in "ab":
        write_mp4(source / f"{name}.mp4", 4)
        (source / f"{name}.csv").write_text("x,y\n1,2\n3,4\n5,6\n")
    age(source)

    def update(output):
        reader = open_episodes(source, size=(16, 16))
        settings = ConversionSettings(test_fraction=0.0, num_shards=2)
        return Conversion(reader, output, settings, {}, update=True).run()

    update(tmp_path / "out")
    if change == "aspect":
        write_mp4(source / "a.mp4", 4, (64, 64))
    else:
        text = {"names": "y,x\n1,2\n3,4\n5,6\n", "rows": "x,y\n1,2\n3,4\n5,6\n7,8\n"}[change]
        (source / "a.csv").write_text(text)
    for output in ("out", "anew"):
        with pytest.raises(EpisodeError, match=r"b\.(csv|mp4)"):
            update(tmp_path / output)


def test_jobs_share_an_update(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    change_some(source)
    for job in (2, 0):  # the shard of job 1 stays as it is
        assert contents(tmp_path / "out") == before
        statistics = open_conversion(source, tmp_path / "out", update=True).run(job=(job, 3))
        assert (statistics is not None) == (job == 0)
    assert_as_if_new(source, tmp_path / "out")
    assert open_conversion(source, tmp_path / "out", update=True).run(job=(1, 3)) is not None


def test_a_source_that_changes_again_during_an_update(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    write_later(source / "episode_0.npz", 5, seed=10)
    write_later(source / "episode_5.npz", 5, seed=10)
    open_conversion(source, tmp_path / "out", update=True).run(job=(0, 3))
    write_later(source / "episode_0.npz", 5, seed=11, time=3 * OLD)
    append(source)
    run(source, tmp_path / "out", update=True)
    assert_as_if_new(source, tmp_path / "out")


def test_a_change_that_was_taken_back_during_an_update(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    old = (source / "episode_0.npz").read_bytes()
    write_later(source / "episode_0.npz", 5, seed=10)
    open_conversion(source, tmp_path / "out", update=True).run(job=(1, 3))
    (source / "episode_0.npz").write_bytes(old)
    age(source)
    run(source, tmp_path / "out")
    assert_as_if_new(source, tmp_path / "out")


def test_a_kill_at_any_step_of_an_update_leaves_the_old_set_or_the_new_one(tmp_path):
    from pathlib import Path

    source, output = make_source(tmp_path / "in"), tmp_path / "out"
    run(source, output)
    old = contents(output)
    change_some(source)
    run(source, tmp_path / "fresh")
    new = contents(tmp_path / "fresh")

    def play(folder, step):
        """Update in a fork, which ends at a step, counted in lines of the parts that touch the folder."""
        child = os.fork()
        if child == 0:
            _die_at(step, lambda: run(source, folder, update=True))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    shutil.copytree(output, tmp_path / "whole")
    seen = set()
    for step in range(1000):
        folder = Path(tmp_path / f"killed-{step}")
        shutil.copytree(output, folder)
        code = play(folder, step)
        there = contents(folder)
        assert there in (old, new, {})  # nothing for the moment between two renames
        seen.add("old" if there == old else "new" if there == new else "none")
        run(source, folder, update=True)
        assert contents(folder) == new
        run(source, folder)
        shutil.rmtree(folder)
        if code == 0:
            break
    assert code == 0
    assert seen == {"old", "new", "none"}


TOUCHING = {"_make_staging", "_drop_stale", "_adopt", "_publish", "_clean", "replace_folder", "recover_folder"}


def _die_at(step, act):
    """Run a function, and end the process at its step-th line of what touches the folder."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_name not in TOUCHING:
            return None if event == "call" else trace
        if event == "line":
            count += 1
            if count > step:
                os._exit(9)
        return trace

    code = 1
    try:
        sys.settrace(trace)
        act()
        code = 0
    finally:
        os._exit(code)


# -- bad episodes that were repaired ----------------------------------------------------------------------------------


def test_a_repaired_episode_is_taken_in_after_publication(tmp_path):
    source = make_source(tmp_path / "in")
    whole = (source / "episode_3.npz").read_bytes()
    (source / "episode_3.npz").write_bytes(whole[:100])
    age(source)
    options = {"skip_bad": True, "max_skipped": 0.5}
    assert list(run(source, tmp_path / "out", **options).skipped) == ["episode_3.npz"]
    (source / "episode_3.npz").write_bytes(whole)
    os.utime(source / "episode_3.npz", ns=(2 * OLD, 2 * OLD))
    with pytest.raises(FileExistsError, match=r"1 changed \(episode_3.npz\)"):
        run(source, tmp_path / "out", **options)
    assert not run(source, tmp_path / "out", **options, update=True).skipped
    assert_as_if_new(source, tmp_path / "out")


# -- a file that changes while it is read -----------------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_converted_stops_its_shard(tmp_path):
    source = make_source(tmp_path / "in")
    conversion = open_conversion(source, tmp_path / "out")
    write_later(source / "episode_3.npz", 5, seed=10)
    with pytest.raises(OSError, match=r"episode_3.npz changed while it was converted.*1 of 3 shards are complete"):
        conversion.run()
    run(source, tmp_path / "out")
    assert_as_if_new(source, tmp_path / "out")


# -- by content -------------------------------------------------------------------------------------------------------


def test_a_frame_that_comes_while_its_folder_is_converted_stops_its_shard(tmp_path):
    for index, frame in enumerate(make_frames(4)):
        (tmp_path / "walk").mkdir(exist_ok=True)
        (tmp_path / f"walk/{index}.png").write_bytes(encode_png(frame))
    conversion = open_conversion(tmp_path / "walk", tmp_path / "out")
    (tmp_path / "walk/4.png").write_bytes(encode_png(frame))
    with pytest.raises(OSError, match=r"4\.png came or went"):
        conversion.run()


def test_by_content_a_touched_source_is_the_same_and_a_changed_one_is_not(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out", hash_source=True)
    age(source, 3 * OLD)
    run(source, tmp_path / "out", hash_source=True)
    content = (source / "episode_1.npz").read_bytes()
    (source / "episode_1.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    age(source, 3 * OLD)  # neither size nor time tells it
    with pytest.raises(FileExistsError, match=r"1 changed \(episode_1.npz\)"):
        run(source, tmp_path / "out", hash_source=True)


def test_hashes_and_times_cannot_be_compared(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    with pytest.raises(FileExistsError, match="differ in hash_source"):
        run(source, tmp_path / "out", hash_source=True)


# -- which files an episode depends on --------------------------------------------------------------------------------


def write_clips(folder):
    for name in ("a", "b"):
        write_mp4(folder / f"{name}.mp4", 4)
    (folder / "actions.csv").write_text("clip,x\n" + "a.mp4,1\n" * 4 + "b.mp4,2\n" * 4)


def write_images(folder):
    from PIL import Image

    for clip in ("one", "two"):
        (folder / clip).mkdir(parents=True)
        for t in range(3):
            Image.new("RGB", (8, 8), (t, 0, 0)).save(folder / clip / f"{t}.png")
        (folder / clip / "actions.csv").write_text("x\n1\n2\n3\n")


def write_hdf5(folder):
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for demo in ("demo_0", "demo_1"):
            file[f"data/{demo}/obs/front_image"] = np.zeros((3, 8, 8, 3), np.uint8)
            file[f"data/{demo}/actions"] = np.zeros((3, 2), np.float32)


SOURCES = {
    "a video": (write_clips, "a.mp4"),
    "a table of all clips": (write_clips, "actions.csv"),
    "an image": (write_images, "one/1.png"),
    "a table beside images": (write_images, "two/actions.csv"),
    "HDF5": (write_hdf5, "demos.hdf5"),
    "meta of LeRobot": (lambda folder: write_lerobot(folder, [4, 4]), "meta/info.json"),
    "episodes of LeRobot": (lambda folder: write_lerobot(folder, [4, 4]), "meta/episodes/chunk-000/file-000.parquet"),
    "table of LeRobot": (lambda folder: write_lerobot(folder, [4, 4]), "data/chunk-000/file-000.parquet"),
    "video of LeRobot": (
        lambda folder: write_lerobot(folder, [4, 4]),
        "videos/observation.images.front/chunk-000/file-000.mp4",
    ),
    "our own format": (
        lambda folder: convert(MemoryReader([make_episode(0, 4)]), folder),
        "data/train-00000-of-00001.parquet",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_any_file_of_an_episode_counts(tmp_path, name):
    write, file = SOURCES[name]
    write(tmp_path / "in")
    source = age(tmp_path / "in")
    run(source, tmp_path / "out")
    os.utime(source / file, ns=(2 * OLD, 2 * OLD))
    with pytest.raises(FileExistsError, match=rf"1 changed \({file}\)"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_descriptions_of_tfrecords_count(shared, tmp_path, file):
    source = age(shutil.copytree(shared("data/rlds_bridge/1.0.0"), tmp_path / "in"))
    if not (source / file).is_file():
        pytest.skip(f"the sample has no {file}")
    run(source, tmp_path / "out")
    os.utime(source / file, ns=(2 * OLD, 2 * OLD))
    with pytest.raises(FileExistsError, match=rf"1 changed \({file}\)"):
        run(source, tmp_path / "out")


def test_a_table_that_came_later_is_new(tmp_path):
    write_mp4(tmp_path / "in/a.mp4", 4)
    source = age(tmp_path / "in")
    run(source, tmp_path / "out")
    (source / "a.csv").write_text("x\n1\n2\n3\n4\n")
    with pytest.raises(FileExistsError, match=r"1 new \(a.csv\)"):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", update=True)
    assert open_episodes(tmp_path / "out")[0].actions[:, 0].tolist() == [1, 2, 3]


def test_what_no_episode_depends_on_may_change(tmp_path):
    source = make_source(tmp_path / "in")
    run(source, tmp_path / "out")
    (source / "notes.txt").write_text("bought a new camera")
    run(source, tmp_path / "out")


# -- conversions of earlier versions ----------------------------------------------------------------------------------


def make_old(output):
    """What earlier versions left: records without a source, and the episodes' ids in the identity."""
    identity = json.loads((output / ".conversion/conversion.json").read_text())
    (output / ".conversion/conversion.json").write_text(json.dumps({"episodes": "a hash"} | identity))
    for file in (output / ".conversion").glob("train-*.json"):
        content = json.loads(file.read_text())
        for name in ("source", "notes", "rates"):
            content.pop(name)
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("is_finished", [False, True], ids=["unfinished", "finished"])
def test_an_old_conversion_says_that_it_cannot_know(tmp_path, is_finished):
    source = make_source(tmp_path / "in")
    open_conversion(source, tmp_path / "out").run(job=(0, 1 if is_finished else 2))
    make_old(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"earlier versions did not note it.*cannot be known.*--update"):
        run(source, tmp_path / "out")
    write_later(source / "episode_0.npz", 5, seed=10)
    run(source, tmp_path / "out", update=True)
    assert_as_if_new(source, tmp_path / "out")


def test_an_old_conversion_of_episodes_without_files_goes_on(tmp_path):
    reader = MemoryReader([make_episode(index, 4) for index in range(3)])
    convert(reader, tmp_path / "out")
    make_old(tmp_path / "out")
    convert(reader, tmp_path / "out")
    with pytest.raises(FileExistsError, match="differ in episodes"):
        convert(MemoryReader([make_episode(0, 4)]), tmp_path / "out")


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report_says_of_which_state_of_the_source_it_is(tmp_path, capsys):
    source = make_source(tmp_path / "in")
    main(["convert-data", str(source), str(tmp_path / "out"), "--test-fraction", "0", "--num-workers", "1"])
    told = json.loads((tmp_path / "out/report.json").read_text())["source"]
    assert told["num_files"] == 6
    assert told["num_bytes"] == sum(file.stat().st_size for file in source.iterdir())
    assert told["last_change"] == "2001-09-09T01:46:40+00:00"
    assert "source: 6 files" in (tmp_path / "out/README.md").read_text()
    age(source, 2 * OLD)
    main(["convert-data", str(source), str(tmp_path / "out"), "--test-fraction", "0", "--num-workers", "1", "--update"])
    assert json.loads((tmp_path / "out/report.json").read_text())["source"]["digest"] != told["digest"]


def write_notes(count):
    """Episodes whose remarks differ in their numbers, and in their rates."""
    return [
        replace(make_episode(i, 4), fps=30.0 + i % 6, notes=[f"resampled from {30 + i} to 10 fps", "has a cover"])
        for i in range(count)
    ]


def test_notes_and_rates_are_complete_and_grouped_whoever_wrote_the_shards(tmp_path):
    from ivideogpt_hf.data.convert.dataset_report import write_dataset_report

    reader = MemoryReader(write_notes(12))
    for job in range(2):
        statistics = Conversion(reader, tmp_path / "out", ConversionSettings(0.0, num_shards=4), {}).run(
            job=(job, 2), num_workers=1 + job
        )
    text = write_dataset_report(tmp_path / "out", statistics).splitlines()
    assert [line for line in text if line.startswith("note:")] == [
        "note: has a cover (in 12 episodes)",
        "note: resampled from 30 to 10 fps (in 1 episode)",
        "note: resampled from 31 to 10 fps (in 1 episode)",
        "note: resampled from 32 to 10 fps, and the like with other numbers (in 10 episodes)",
    ]
    assert (
        "check: episodes have different rates: 30 fps in 2, 31 in 2, 32 in 2, 33 in 2, others in 4; --fps resamples"
        in text
    )


def test_one_rate_is_no_matter(tmp_path):
    from ivideogpt_hf.data.convert.dataset_report import write_dataset_report

    reader = MemoryReader([replace(make_episode(i, 4), fps=fps) for i, fps in enumerate((29.97, 30000 / 1001, 30.0))])
    statistics = Conversion(reader, tmp_path / "out", ConversionSettings(0.0), {}).run()
    assert "rates" not in write_dataset_report(tmp_path / "out", statistics)
