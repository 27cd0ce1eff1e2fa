"""Which rows of which file are the actions of a clip, in a folder of clips."""

import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from tests.data.files import make_frames, write_mp4


@pytest.fixture
def clips(tmp_path):
    """Videos a.mp4 and s/a.mp4, and the folder of images w.1; each of 5 frames."""
    for name in ("a.mp4", "s/a.mp4"):
        write_mp4(tmp_path / name, 5, (16, 16))
    (tmp_path / "w.1").mkdir()
    for t, frame in enumerate(make_frames(5)):
        Image.fromarray(frame).save(tmp_path / f"w.1/{t}.png")
    return tmp_path


def rows(clip, first, number=5):
    return "".join(f"{clip},{first + t}\n" for t in range(number))


def first_dimension(folder):
    reader = open_episodes(folder)
    return {name: episode.actions[:, 0].tolist() for name, episode in zip(reader.episode_ids, reader, strict=True)}


EXPECTED = {"a.mp4": [0, 1, 2, 3], "s/a.mp4": [10, 11, 12, 13], "w.1": [20, 21, 22, 23]}


def test_a_table_at_the_root_names_clips_in_folders(clips):
    (clips / "actions.csv").write_text("clip,x\n" + rows("s\\a.mp4", 10) + rows("./a", 0) + rows("w.1", 20))
    assert first_dimension(clips) == EXPECTED
    notes = open_episodes(clips)[0].notes
    assert "actions are read from actions.csv, by its column 'clip'" in notes


def test_each_clip_may_have_a_file_of_its_own(clips):
    (clips / "a.csv").write_text("x\n0\n1\n2\n3\n4\n")
    np.save(clips / "s/a.npy", np.arange(10, 15)[:, None])
    (clips / "w.1/actions.jsonl").write_text("".join(f"[{20 + t}]\n" for t in range(5)))
    assert first_dimension(clips) == EXPECTED


def test_tables_of_several_folders_add_up(clips):
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0) + rows("w.1", 20))
    (clips / "s/Actions.CSV").write_text("clip,x\n" + rows("a.mp4", 10))
    assert first_dimension(clips) == EXPECTED


def test_a_clip_with_actions_in_two_places_is_refused(clips):
    (clips / "actions.csv").write_text("clip,x\n" + rows("s/a.mp4", 10) + rows("a.mp4", 0) + rows("w.1", 20))
    (clips / "s/actions.csv").write_text("clip,x\n" + rows("a.mp4", 10))
    (clips / "a.csv").write_text("x\n0\n1\n2\n3\n4\n")
    reader = open_episodes(clips)
    with pytest.raises(EpisodeError, match=r"a\.mp4: a\.csv, actions\.csv"):
        reader[reader.episode_ids.index("a.mp4")]
    with pytest.raises(EpisodeError, match=r"actions\.csv, s/actions\.csv"):
        reader[reader.episode_ids.index("s/a.mp4")]


def test_the_actions_of_a_folder_of_images_have_one_place(clips):
    (clips / "w.1.csv").write_text("x\n0\n1\n2\n3\n4\n")
    with pytest.raises(EpisodeError, match=r"move w\.1\.csv to w\.1/actions\.csv"):
        open_episodes(clips / "w.1")[0]


def test_rows_without_a_clip_are_noted_and_clips_without_rows_refused(clips):
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0) + rows("b.mp4", 10) + rows("S/a.mp4", 10))
    reader = open_episodes(clips)
    assert reader.notes == ["actions.csv has rows of 2 clips that are not there: b.mp4, S/a.mp4"]
    with pytest.raises(EpisodeError, match=r"no rows whose 'clip' is s/a\.mp4, it names a\.mp4, b\.mp4, S/a\.mp4"):
        reader[reader.episode_ids.index("s/a.mp4")]


def test_a_single_clip_that_is_not_there_is_one(clips):
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0) + rows("b.mp4", 10))
    assert open_episodes(clips).notes == ["actions.csv has rows of 1 clip that is not there: b.mp4"]


def test_a_clip_without_a_file_is_refused_where_others_have_one(clips):
    (clips / "a.csv").write_text("x\n0\n1\n2\n3\n4\n")
    (clips / "typo.csv").write_text("x\n0\n1\n2\n3\n4\n")
    (clips / "s/actions.xlsx").write_bytes(b"")
    reader = open_episodes(clips)
    assert reader.notes == ["not read as the actions of a clip: s/actions.xlsx, typo.csv"]
    with pytest.raises(EpisodeError, match=r"a\.mp4 has no actions, while other clips have \(a\.csv\)"):
        reader[reader.episode_ids.index("s/a.mp4")]


@pytest.mark.parametrize(("number", "message"), [(3, "3 rows for the 5 frames"), (6, "6 rows for the 5 frames")])
def test_rows_that_fit_no_frames_are_refused(clips, number, message):
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0, number) + rows("s/a.mp4", 10) + rows("w.1", 20))
    with pytest.raises(EpisodeError, match=rf"actions\.csv has {message} of a\.mp4"):
        open_episodes(clips)[0]


def test_a_lost_row_is_not_taken_for_the_last_one(clips):
    """Wherever the clips stand that have a row for each frame."""
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0, 4) + rows("s/a.mp4", 10, 4) + rows("w.1", 20))
    with pytest.raises(EpisodeError, match=r"4 rows for the 5 frames of a\.mp4, while w\.1 has a row for each"):
        open_episodes(clips)[0]
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0, 4) + rows("s/a.mp4", 10, 4) + rows("w.1", 20, 4))
    assert first_dimension(clips) == EXPECTED


def test_a_column_of_frames_binds_shuffled_rows(clips):
    lines = [f"{clip},{first + t},{t}" for clip, first in (("a", 0), ("s/a", 10), ("w.1", 20)) for t in range(5)]
    lines.remove("w.1,24,4")
    np.random.default_rng(0).shuffle(lines)
    (clips / "actions.csv").write_text("\n".join(["clip,x,frame", *lines]))
    assert first_dimension(clips) == EXPECTED
    lines.remove("a,2,2")
    (clips / "actions.csv").write_text("\n".join(["clip,x,frame", *lines]))
    with pytest.raises(EpisodeError, match=r"no row for frame 2 of a\.mp4"):
        open_episodes(clips)[0]


def test_a_table_without_the_column_clip_is_refused(clips):
    (clips / "actions.csv").write_text("x\n0\n1\n2\n3\n4\n")
    with pytest.raises(ValueError, match=r"actions\.csv must have a column 'clip'"):
        open_episodes(clips)


def test_columns_in_another_order_are_refused(clips):
    (clips / "a.csv").write_text("x,y\n" + "1,2\n" * 5)
    (clips / "s/a.csv").write_text("y,x\n" + "2,1\n" * 5)
    with pytest.raises(EpisodeError, match=r"columns \('y', 'x'\), while other clips have \('x', 'y'\)"):
        open_episodes(clips)[1]


def test_a_file_that_may_belong_to_two_videos_is_refused(clips):
    write_mp4(clips / "b.mp4", 5, (16, 16)).rename(clips / "a.mov")
    (clips / "a.csv").write_text("x\n0\n1\n2\n3\n4\n")
    with pytest.raises(EpisodeError, match=r"a\.csv may belong to a\.mov or a\.mp4"):
        open_episodes(clips)[0]


def test_clips_with_actions_are_not_resampled(clips):
    (clips / "actions.csv").write_text("clip,x\n" + rows("a.mp4", 0) + rows("s/a.mp4", 10) + rows("w.1", 20))
    with pytest.raises(EpisodeError, match="cannot be resampled"):
        open_episodes(clips, fps=5)[0]


def test_the_report_tells_how_a_table_was_read(clips, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    lines = ("clip,x\n" + rows("a.mp4", 0) + rows("s/a.mp4", 10) + rows("w.1", 20) + rows("b.mp4", 0)).splitlines()
    (clips / "actions.csv").write_text("\n".join(["," + lines[0], *(f"{i},{row}" for i, row in enumerate(lines[1:]))]))
    assert main(["convert-data", str(clips), str(output), "--test-fraction", "0", "--resize", "16x16"]) == 0
    report = (output / "report.json").read_text()
    assert "the first column has no name and counts rows" in report
    assert "by its column 'clip' (in 3 episodes)" in report


def test_a_clips_own_dreamer_file_is_read_by_its_flag(tmp_path):
    write_mp4(tmp_path / "a.mp4", 5, (16, 16))
    np.savez(tmp_path / "a.npz", action=np.arange(5)[:, None], is_first=np.arange(5) == 0)
    assert open_episodes(tmp_path, reader="video-folder")[0].actions[:, 0].tolist() == [1, 2, 3, 4]
