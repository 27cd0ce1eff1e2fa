"""What is an episode, and what is not."""

import numpy as np
import pytest

from ivideogpt_hf.data.episodes import decode_frames
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
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


def test_covers_beside_videos_are_no_clip(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3)
    write_images(tmp_path, "cover.jpg")
    write_images(tmp_path / "thumbnails", "a.jpg", "b.jpg")
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["a.mp4"]
    assert len(reader.notes) == 2


def test_a_picture_above_the_clips_is_no_clip(tmp_path):
    write_images(tmp_path, "preview.png")
    write_images(tmp_path / "left", "0.png", "1.png")
    assert open_episodes(tmp_path).episode_ids == ["left"]


def test_clips_inside_clips_are_refused(tmp_path):
    write_images(tmp_path / "a", "0.png", "1.png")
    write_images(tmp_path / "a/right", "0.png", "1.png")
    with pytest.raises(ValueError, match="holds 2 images, and there are images in folders below it"):
        open_episodes(tmp_path)


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
