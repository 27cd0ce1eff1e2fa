"""From a reader to Parquet: what goes in comes out, and nothing half-written is ever seen."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.clips.dataset import SegmentDataset
from ivideogpt_hf.data.clips.segments import SegmentSpec
from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings, is_held_out, plan_shards
from ivideogpt_hf.data.episodes import FRAMES_PREFIX, SCHEMA_VERSION, decode_frames, episode_features
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.extras import how_to_install
from tests.data.files import MemoryReader, convert, make_episode, write_mp4, write_npz, write_npz_folder
from tests.started import Started

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory, monkeypatch):
    """Arrow files of these tests go where pytest removes them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow"))


# -- round trips with real data ---------------------------------------------------------------------------------------

REAL = ["data/bair_sample.npz", "data/fractal_sample.npz", "data/metaworld/door-lock", "data/rlds_bridge/1.0.0"]


@pytest.mark.parametrize("source", REAL)
def test_real_episodes_survive_parquet_and_load_dataset(shared, tmp_path, source):
    reader = open_episodes(shared(source))
    convert(reader, tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert len(rows) == len(reader)
    for index in {0, len(reader) - 1}:
        episode, row = reader[index], rows[index]
        for camera, frames in episode.frames.items():
            assert (
                np.stack([np.asarray(image) for image in row[FRAMES_PREFIX + camera]]) == decode_frames(frames)
            ).all()
        for name in ("actions", "rewards"):
            expected = getattr(episode, name)
            assert (row[name] is None) if expected is None else (np.float32(row[name]) == expected).all()
        assert row["task"] == episode.task
        assert row["success"] == episode.success


@pytest.mark.parametrize("source", REAL)
@pytest.mark.parametrize("streaming", [False, True], ids=["arrow", "streaming"])
def test_real_clips_are_those_of_the_episode(shared, tmp_path, source, streaming):
    reader = open_episodes(shared(source))
    folder = convert(reader, tmp_path / "out")
    camera = sorted(reader.signature.cameras)[0]
    from ivideogpt_hf.data.clips.mixture import Source

    has_actions = reader.signature.action_dim is not None
    dataset = SegmentDataset(
        Source(str(folder), cameras=[camera]), SegmentSpec(8), actions=has_actions, streaming=streaming
    )
    for index in range(0, len(dataset), max(1, len(dataset) // 5)):
        clip = dataset[3, index]
        episode, frames = reader[clip["episode"]], clip["frame_indices"].numpy()
        assert (clip["frames"].movedim(1, -1).numpy() == decode_frames(episode.frames[camera])[frames]).all()
        if has_actions:
            assert (clip["actions"].numpy() == episode.actions[frames[:-1]]).all()


# -- shape of the result ----------------------------------------------------------------------------------------------


def test_the_output_is_not_inside_the_source(tmp_path):
    source = write_npz_folder(tmp_path / "source", [5, 6])
    with pytest.raises(ValueError, match="outside"):
        convert(open_episodes(source), source / "out")
    assert not (source / "out").exists()


def test_the_columns_are_the_schema(tmp_path):
    convert(MemoryReader([make_episode(0, 5)]), tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows.features == episode_features(["image"])
    assert rows[0]["schema_version"] == SCHEMA_VERSION


def test_all_splits_are_found_by_plain_load_dataset(tmp_path):
    source = write_npz_folder(tmp_path / "in", [4] * 30)
    assert (
        main(["convert-data", str(source), str(tmp_path / "out"), "--test-fraction", "0.3", "--num-workers", "1"]) == 0
    )
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    expected = Counter(
        "test" if is_held_out(name, 0.3) else "train" for name in open_episodes(tmp_path / "in").episode_ids
    )
    assert {split: len(rows) for split, rows in loaded.items()} == dict(expected)
    assert min(expected.values()) > 3


def test_a_folder_that_is_converted_again_is_read_anew(tmp_path):
    """`datasets` caches a folder under its name."""
    import shutil

    output = tmp_path / "out"
    for length in (5, 7):
        shutil.rmtree(output, ignore_errors=True)
        source = write_npz_folder(tmp_path / f"in{length}", [length])
        assert main(["convert-data", str(source), str(output), "--test-fraction", "0", "--num-workers", "1"]) == 0
        assert datasets.load_dataset(str(output), split="train")[0]["num_frames"] == length
        assert SegmentDataset(str(output), SegmentSpec(4)).sources[0].store.num_frames.tolist() == [length]


def test_the_hold_out_of_an_episode_depends_on_its_name_alone():
    few, many = [f"e{i}" for i in range(50)], [f"e{i}" for i in range(500)]
    settings = ConversionSettings(test_fraction=0.2)

    def held_out(ids):
        shards = [shard for shard in plan_shards(ids, settings) if shard.name.startswith("test")]
        return {ids[index] for shard in shards for index in shard.indices}

    assert held_out(few) == held_out(many) & set(few)
    assert 70 < len(held_out(many)) < 130


def test_shards_partition_the_episodes():
    shards = plan_shards([str(i) for i in range(5000)], ConversionSettings())
    assert sorted(index for shard in shards for index in shard.indices) == list(range(5000))
    assert sum(shard.name.startswith("train") for shard in shards) == 64


def test_the_report_says_what_is_there(tmp_path, capsys):
    actions = np.zeros((12, 2), np.float32)
    actions[:, 1] = np.arange(12)
    write_npz_folder(tmp_path / "in", [12, 12, 8], action=None)
    for index, length in enumerate((12, 12, 8)):
        write_npz(tmp_path / f"in/episode_{index}.npz", length, action=actions[:length])
    main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--test-fraction", "0"])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["num_frames"] == 32
    assert report["episode_frames"] == {"min": 8, "median": 12.0, "mean": 10.67, "max": 12}
    stored = np.concatenate([actions[:11], actions[:11], actions[:7]])
    row = report["actions"][1]
    assert row["mean"] == pytest.approx(stored[:, 1].mean())
    assert row["std"] == pytest.approx(stored[:, 1].std(), rel=1e-5)
    assert (row["min"], row["max"]) == (0, 10)
    assert "action 0 is constant" in report["warnings"]
    assert "action 0 is constant" in capsys.readouterr().out
    assert (tmp_path / "out/contact_sheet.png").stat().st_size > 1000


def test_the_report_shows_small_numbers(tmp_path):
    actions = np.zeros((12, 1), np.float32)
    actions[::2] = 2e-8
    write_npz(tmp_path / "in/a.npz", 12, action=actions, reward=actions[:, 0])
    main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--test-fraction", "0"])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["actions"][0]["max"] == report["rewards"]["max"] == pytest.approx(2e-8)


def test_the_report_of_a_single_episode_is_of_one(tmp_path, capsys):
    write_npz(tmp_path / "in/episode_0.npz", 12)
    assert main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--test-fraction", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 episode (1 train), 12 frames"
    assert "in 1 episode" in lines[2]
    assert any(line.startswith("source: 1 file, ") for line in lines)


def test_actions_too_large_to_train_on_are_reported(tmp_path):
    actions = np.zeros((12, 2), np.float32)
    actions[:, 1] = 40 * np.arange(12)  # pixels
    write_npz(tmp_path / "in/episode_0.npz", 12, action=actions)
    main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--test-fraction", "0"])
    report = json.loads((tmp_path / "out/report.json").read_text())
    large = [warning for warning in report["warnings"] if "action_normalization" in warning]
    assert [warning.split(",")[0] for warning in large] == ["action 1 is as large as 400"]


def test_out_of_bounds_actions_and_success_are_reported(shared, tmp_path):
    main(
        ["convert-data", str(shared("data/metaworld/handle-pull-side")), str(tmp_path / "out"), "--test-fraction", "0"]
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["success_rate"] == 0.4
    outside = [row["out_of_bounds"] for row in report["actions"]]
    assert outside[2] > 0.2
    assert outside[3] == 0


def test_resizing(tmp_path):
    write_npz(tmp_path / "in/e.npz")
    arguments = [
        "convert-data",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--test-fraction",
        "0",
        "--resize",
        "8x12",
    ]
    for _ in range(2):  # the second time it is recognised
        assert main(arguments) == 0
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert rows[0]["frames.image"][0].size == (12, 8)


# -- parallel, resumable, split over jobs -----------------------------------------------------------------------------


def contents(folder):
    return {file.name: file.read_bytes() for file in (folder / "data").glob("*")}


@pytest.mark.parametrize("num_workers", [0, -1])
def test_a_number_of_processes_that_write_nothing_is_refused(tmp_path, num_workers):
    reader = open_episodes(write_npz_folder(tmp_path / "in", [5]))
    conversion = Conversion(reader, tmp_path / "out", ConversionSettings(), {})
    with pytest.raises(ValueError, match=f"num_workers must be at least 1, got {num_workers}"):
        conversion.run(num_workers=num_workers)


def test_shards_are_the_same_bytes_whatever_wrote_them(tmp_path):
    source = write_npz_folder(tmp_path / "in", [5] * 40)
    reader = open_episodes(source)
    results = []
    for name, options in {"one": {"num_workers": 1}, "two": {"num_workers": 2}}.items():
        Conversion(reader, tmp_path / name, ConversionSettings(), {}).run(**options)
        results.append(contents(tmp_path / name))
    for job in (2, 0, 1):
        statistics = Conversion(reader, tmp_path / "jobs", ConversionSettings(), {}).run(job=(job, 3))
        assert (statistics is not None) == (job == 1)
        assert (tmp_path / "jobs/data").exists() == (job == 1)
    results.append(contents(tmp_path / "jobs"))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 4


def test_a_killed_conversion_goes_on_where_it_stopped(tmp_path):
    source = write_npz_folder(tmp_path / "in", [40] * 24)
    words = ["convert-data", source, tmp_path / "out", "--num-shards", 24, "--test-fraction", 0, "--num-workers", 1]
    process = Started(*words, log=tmp_path / "log")
    staged = tmp_path / "out/.conversion"
    process.wait_for(lambda: list(staged.glob("train-*.json")))
    process.send(signal.SIGKILL)
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in staged.glob("train-*.json")}
    assert 0 < len(before) < 24
    assert not (tmp_path / "out/data").exists()
    assert Started(*words, log=tmp_path / "log").wait() == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before  # not done again
    convert(open_episodes(source), tmp_path / "whole", num_shards=24)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_conversion_is_not_done_again(tmp_path):
    reader = open_episodes(write_npz_folder(tmp_path / "in", [5] * 3))
    convert(reader, tmp_path / "out")
    before = (tmp_path / "out/data").stat().st_mtime_ns
    convert(reader, tmp_path / "out")
    assert (tmp_path / "out/data").stat().st_mtime_ns == before


def test_another_conversion_does_not_go_into_the_same_folder(tmp_path):
    reader = open_episodes(write_npz_folder(tmp_path / "in", [5] * 3))
    convert(reader, tmp_path / "out")
    with pytest.raises(FileExistsError, match="they differ in num_shards"):
        convert(reader, tmp_path / "out", num_shards=2)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        convert(MemoryReader([make_episode(0, 5)]), tmp_path / "out")


# -- bad episodes -----------------------------------------------------------------------------------------------------


def write_half_bad(folder, num_bad=1):
    write_npz_folder(folder, [5] * 10)
    for index in range(num_bad):
        file = folder / f"episode_{3 + index}.npz"
        file.write_bytes(file.read_bytes()[:100])
    return folder


def test_the_first_bad_episode_stops_the_conversion(tmp_path):
    with pytest.raises(EpisodeError, match=r"episode_3\.npz"):
        convert(open_episodes(write_half_bad(tmp_path / "in")), tmp_path / "out")
    assert not (tmp_path / "out/data").exists()


def test_skipped_episodes_are_listed_and_the_rest_is_kept(tmp_path, capsys):
    source = str(write_half_bad(tmp_path / "in"))
    arguments = ["convert-data", source, str(tmp_path / "out"), "--test-fraction", "0", "--num-workers", "1"]
    assert main([*arguments, "--skip-bad", "--max-skipped", "0.2"]) == 0
    assert "skipped: episode 'episode_3.npz'" in capsys.readouterr().out
    assert len(datasets.load_dataset(str(tmp_path / "out"), split="train")) == 9


def test_what_is_published_does_not_say_where_the_source_lay(tmp_path):
    source = str(write_half_bad(tmp_path / "in"))
    arguments = ["convert-data", source, str(tmp_path / "out"), "--test-fraction", "0", "--num-workers", "1"]
    assert main([*arguments, "--skip-bad", "--max-skipped", "0.2"]) == 0
    for name in ("README.md", "report.json"):
        content = (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in content
        assert "in/episode_3.npz cannot be read" in content


@pytest.mark.parametrize("kind", ["relative", "link"])
def test_no_name_of_the_place_is_published(tmp_path, monkeypatch, kind):
    """However the source was named, and whichever name the library that read it tells."""
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "in/a.npz", 5)
    reader = open_episodes({"relative": "in", "link": tmp_path / "link"}[kind])
    text = f"{tmp_path / 'in'}/a.npz and {reader.path}/a.npz are corrupt"
    assert reader.without_place(text) == "in/a.npz and in/a.npz are corrupt"


def not_utf_8(path):
    """The path with a name that is not UTF-8 in place of its own."""
    other = path.with_name(os.fsdecode(b"\xff") + path.suffix)
    try:
        return path.rename(other)
    except OSError:
        pytest.skip("this file system refuses such names")


def test_a_remark_on_a_file_whose_name_is_not_utf_8_is_written(tmp_path):
    write_mp4(tmp_path / "in/a.mp4", 3)
    (tmp_path / "in/b.gif").write_bytes(b"")
    not_utf_8(tmp_path / "in/b.gif")
    assert main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--test-fraction", "0"]) == 0
    assert "not read as clips: \\udcff.gif" in (tmp_path / "out/README.md").read_text()


def test_a_source_whose_name_is_not_utf_8_is_converted(tmp_path):
    source = not_utf_8(write_npz_folder(tmp_path / "in", [5]))
    out = convert(open_episodes(source), tmp_path / "out")
    assert datasets.load_dataset(str(out), split="train")[0]["source"] == "\\udcff"


def test_too_many_skipped_episodes_fail(tmp_path, capsys):
    source = str(write_half_bad(tmp_path / "in", num_bad=3))
    arguments = ["convert-data", source, str(tmp_path / "out"), "--test-fraction", "0", "--num-workers", "1"]
    assert main([*arguments, "--skip-bad", "--max-skipped", "0.2"]) == 2
    message = capsys.readouterr().err
    assert "3 of 10 episodes could not be read (30.0%, allowed are 20.0%)" in message
    assert "episode_5.npz" in message
    assert not (tmp_path / "out/data").exists()


def test_a_source_that_was_mended_goes_on(tmp_path):
    source = write_half_bad(tmp_path / "in")
    with pytest.raises(EpisodeError):
        convert(open_episodes(source), tmp_path / "out", num_shards=10)
    write_npz(source / "episode_3.npz", 5, seed=3)
    convert(open_episodes(source), tmp_path / "out", num_shards=10)
    assert len(datasets.load_dataset(str(tmp_path / "out"), split="train")) == 10


def test_skipped_episodes_are_tried_again(tmp_path):
    source = write_half_bad(tmp_path / "in", num_bad=3)
    with pytest.raises(ValueError, match="3 of 10"):
        convert(open_episodes(source), tmp_path / "out", num_shards=5, skip_bad=True)
    for index in (3, 4, 5):
        write_npz(source / f"episode_{index}.npz", 5, seed=index)
    convert(open_episodes(source), tmp_path / "out", num_shards=5, skip_bad=True)
    assert len(datasets.load_dataset(str(tmp_path / "out"), split="train")) == 10


@pytest.mark.parametrize(
    ("episode", "reason"),
    [(make_episode(1, 5, width=2), "2-wide actions"), (make_episode(1, 5, width=None), "no actions")],
    ids=["other width", "no actions"],
)
def test_episodes_that_do_not_fit_together(tmp_path, episode, reason):
    with pytest.raises(EpisodeError, match=reason):
        convert(MemoryReader([make_episode(0, 5), episode]), tmp_path / "out")


def test_broken_images_are_found(tmp_path):
    from dataclasses import replace

    episode = make_episode(0, 3)
    with pytest.raises(EpisodeError, match="frame 0: an image cannot be decoded"):
        convert(MemoryReader([replace(episode, frames={"image": [b"no image"] * 3})]), tmp_path / "out")


def test_grey_images_are_refused(tmp_path):
    import io
    from dataclasses import replace

    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    with pytest.raises(EpisodeError, match="mode L, not RGB"):
        convert(MemoryReader([replace(make_episode(0, 3), frames={"image": [file.getvalue()] * 3})]), tmp_path / "out")


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for attempt in (
        lambda: convert(MemoryReader([make_episode(0, 5)]), tmp_path / "out"),
        lambda: SegmentDataset("a/b"),
    ):
        with pytest.raises(ImportError, match=re.escape(how_to_install("data"))):
            attempt()
    assert not (tmp_path / "out").exists()


def test_repeated_episode_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="occurs more than once"):
        convert(MemoryReader([make_episode(0, 5), make_episode(0, 5)]), tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
    ).returncode
    if mounted != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_complete_shards_only(tmp_path, small_disk):
    reader = open_episodes(write_npz_folder(tmp_path / "in", [50] * 20))
    conversion = Conversion(reader, small_disk / "out", ConversionSettings(0.0, num_shards=20), {})
    with pytest.raises(OSError, match=r"No space left.*shards are complete.*goes on from there"):
        conversion.run()
    finished = list((small_disk / "out/.conversion/data").iterdir())
    assert 0 < len(finished) < 20
    for file in finished:
        assert len(datasets.Dataset.from_parquet(str(file))) == 1
    assert not (small_disk / "out/data").exists()


# -- as a new user ----------------------------------------------------------------------------------------------------


def test_a_folder_of_clips_becomes_a_data_set_and_a_picture(tmp_path):
    lines = ["clip,x,y"]
    for name in ("kitchen", "table", "yard"):
        write_mp4(tmp_path / f"clips/{name}.mp4", 20, (90, 160))
        lines += [f"{name}.mp4,{t / 10},{-t / 10}" for t in range(20)]
    (tmp_path / "clips/actions.csv").write_text("\n".join(lines))
    for command in (
        "convert-data clips my-data --resize 64x64 --test-fraction 0",
        "show my-data --clips 3 --augmentation weak --output clips.png",
    ):
        process = Started(*command.split(), log=tmp_path / "log", folder=tmp_path)
        assert process.wait() == 0, process.output
    assert (tmp_path / "clips.png").stat().st_size > 10_000
