"""What is an episode, and what is not."""

import os

import numpy as np
import pytest

from ivideogpt_hf.data.episodes import decode_frames
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.media.video import read_video
from tests.data.files import make_dataset, make_frames, write_mp4, write_npz


def write_images(folder, *names):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(make_frames(1, seed=index)[0]).save(folder / name)


@pytest.mark.parametrize("name", ["._e.npz", ".ipynb_checkpoints/e.npz", "__MACOSX/e.npz", "@eaDir/e.npz"])
def test_hidden_files_are_no_episodes(tmp_path, name):
    write_npz(tmp_path / "e.npz")
    write_npz(tmp_path / name)
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["e.npz"]
    assert reader.notes == [f"hidden files are no episodes: {name}"]


def test_a_source_may_lie_in_a_hidden_folder(tmp_path):
    write_npz(tmp_path / ".cache/e.npz")
    assert open_episodes(tmp_path / ".cache").episode_ids == ["e.npz"]


def test_linked_folders_are_read_once(tmp_path):
    write_npz(tmp_path / "elsewhere/e.npz")
    write_npz(tmp_path / "source/day1/e.npz")
    (tmp_path / "source/day2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source/all").symlink_to(tmp_path / "source")
    (tmp_path / "source/a_latest").symlink_to("day1")
    assert open_episodes(tmp_path / "source").episode_ids == ["day1/e.npz", "day2/e.npz"]


def test_a_link_to_nothing_is_an_episode_that_cannot_be_read(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3)
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone.mp4")
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["a.mp4", "b.mp4"]
    with pytest.raises(EpisodeError, match=r"b\.mp4.*No such file"):
        reader[1]


def test_a_link_to_nothing_is_a_frame_that_cannot_be_read(tmp_path):
    write_images(tmp_path, "0.png", "2.png")
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(OSError, match=r"1\.png"):
        read_video(tmp_path)


def test_covers_beside_videos_are_no_clip(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3)
    write_images(tmp_path, "cover.jpg")
    write_images(tmp_path / "thumbnails", "a.jpg", "b.jpg")
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["a.mp4"]
    assert len(reader.notes) == 2


@pytest.mark.parametrize("name", ["thumbs", "_thumbs", "Thumbs_"])
def test_thumbnails_in_a_clips_folder_are_no_clip(tmp_path, name):
    write_images(tmp_path / "walk", "0.png", "1.png")
    write_images(tmp_path / "walk" / name, "0.png", "1.png")
    assert open_episodes(tmp_path).episode_ids == ["walk"]


@pytest.mark.parametrize("name", ["b.MPG", "day/b.3gp", "b.gif", "walk/0.heic"])
def test_clips_of_kinds_that_are_not_read_are_told(tmp_path, name):
    write_mp4(tmp_path / "a.mp4", 3)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"0")
    assert [note for note in open_episodes(tmp_path).notes if note.startswith(f"not read as clips: {name};")]


def test_files_that_may_be_actions_of_clips_elsewhere_are_told(tmp_path):
    write_mp4(tmp_path / "videos/a.mp4", 3)
    (tmp_path / "actions").mkdir()
    for index in range(5):
        (tmp_path / f"actions/{index}.csv").write_text("x\n1\n2\n")
    names = ", ".join(f"actions/{index}.csv" for index in range(3))
    assert open_episodes(tmp_path).notes == [f"not read as the actions of a clip: {names} and 2 more"]


def test_a_picture_above_the_clips_is_no_clip(tmp_path):
    write_images(tmp_path, "preview.png")
    write_images(tmp_path / "left", "0.png", "1.png")
    assert open_episodes(tmp_path).episode_ids == ["left"]


def test_clips_inside_clips_are_refused(tmp_path):
    write_images(tmp_path / "a", "0.png", "1.png")
    write_images(tmp_path / "a/right", "0.png", "1.png")
    with pytest.raises(ValueError, match="holds 2 images, and there are images in folders below it"):
        open_episodes(tmp_path)


@pytest.mark.parametrize("source", [".", ".."])
def test_a_clip_may_be_the_current_folder(tmp_path, monkeypatch, source):
    write_images(tmp_path / "walk", "0.png", "1.png")
    (tmp_path / "walk/below").mkdir()
    monkeypatch.chdir(tmp_path / "walk" / ("below" if source == ".." else "."))
    reader = open_episodes(source)
    assert reader.episode_ids == ["walk"]
    assert reader[0].num_frames == 2


def test_an_empty_source_is_not_the_current_folder(tmp_path, monkeypatch):
    write_images(tmp_path, "0.png", "1.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        open_episodes("")
    with pytest.raises(ValueError, match="empty"):
        read_video("")


def test_hidden_images_are_no_frames_and_gaps_are_told(tmp_path):
    write_images(tmp_path / "a", "0.png", "1.png", "5.png", ".2.png")
    episode = open_episodes(tmp_path)[0]
    assert (decode_frames(episode.frames["image"]) == np.concatenate([make_frames(1, seed=i) for i in range(3)])).all()
    assert "the numbers of frames have 1 gap, the first from 1 to 5" in episode.notes


def test_frames_without_a_clear_order_are_refused(tmp_path):
    write_images(tmp_path / "a", "left_0.png", "right_0.png")
    with pytest.raises(EpisodeError, match="the order of the images"):
        open_episodes(tmp_path)[0]


def test_two_data_sets_of_the_schema_are_named(tmp_path):
    pytest.importorskip("datasets")
    for name in ("a", "b"):
        make_dataset(tmp_path / name, [4])
    with pytest.raises(ValueError, match=r"several data sets: .*a/data, .*b/data"):
        open_episodes(tmp_path)


def test_a_data_set_of_the_schema_below_other_data_is_not_all_that_is_read(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3)
    make_dataset(tmp_path / "converted", [4])
    with pytest.raises(ValueError, match="several formats"):
        open_episodes(tmp_path)


def test_a_column_of_another_type_is_named(tmp_path):
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    make_dataset(tmp_path, [4])
    file = next(tmp_path.rglob("*.parquet"))
    table = pq.read_table(file)
    column = table.column_names.index("num_frames")
    pq.write_table(table.set_column(column, "num_frames", pa.array(["4"])), file)
    with pytest.raises(ValueError, match=r"column 'num_frames' of .* has the type string"):
        open_episodes(tmp_path)


def test_a_data_set_of_paths_of_images_says_so(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = next((make_dataset(tmp_path / "set", [4]) / "data").iterdir())
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["frames.image"] = [{"bytes": None, "path": "0.png"}] * 4
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    with pytest.raises(EpisodeError, match="paths of images"):
        open_episodes(tmp_path / "set")[0]


@pytest.mark.parametrize("kind", ["gif", "jpg"])
def test_a_picture_with_the_name_of_a_video_is_refused(tmp_path, kind):
    write_images(tmp_path, f"a.{kind}")
    (tmp_path / f"a.{kind}").rename(tmp_path / "a.mp4")
    with pytest.raises(EpisodeError, match="is a picture"):
        open_episodes(tmp_path)[0]


def test_an_episode_whose_name_is_not_utf_8_cannot_be_read(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3)
    try:
        (tmp_path / "a.mp4").rename(tmp_path / os.fsdecode(b"\xff.mp4"))
    except OSError:
        pytest.skip("this file system refuses such names")
    write_mp4(tmp_path / "b.mp4", 3)
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["b.mp4", "\\udcff.mp4"]
    with pytest.raises(EpisodeError, match=r"udcff.mp4.*not UTF-8.*rename"):
        reader[1]
