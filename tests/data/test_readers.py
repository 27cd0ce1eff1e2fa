"""Every reader, value by value, on real episodes and on files written with the formats' own libraries."""

import json
import re

import numpy as np
import pytest

from ivideogpt_hf.data.episodes import decode_frames
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.data.readers.npz import original_datasets
from ivideogpt_hf.extras import how_to_install
from ivideogpt_hf.media.video import read_video
from tests.conftest import hide_package
from tests.data.files import make_actions, make_frames, write_lerobot, write_mp4, write_npz, write_npz_folder

# -- the original's npz -----------------------------------------------------------------------------------------------


def test_bairs_cameras_and_actions_are_those_of_the_file(shared):
    path = shared("data/bair_sample.npz")
    episode = open_episodes(path)[0]
    with np.load(path) as arrays:
        for camera in ("image", "aux1_image"):
            assert (episode.frames[camera] == arrays[camera]).all()
        assert (episode.actions == arrays["action"][:-1].astype(np.float32)).all()


def test_fractal_has_frames_and_no_actions(shared):
    path = shared("data/fractal_sample.npz")
    episode = open_episodes(path)[0]
    with np.load(path) as arrays:
        assert (episode.frames["image"] == arrays["image"]).all()
    assert episode.actions is None


@pytest.mark.parametrize("key", sorted({"image", *original_datasets()["image_keys"].values()}))
def test_every_image_key_of_the_original_is_a_camera(tmp_path, key):
    frames = make_frames(5)
    reader = open_episodes(write_npz(tmp_path / "e.npz", 5, **{"image": None, key: frames.astype(np.int64)}))
    assert (reader[0].frames[key] == frames).all()


def test_episodes_come_in_natural_order(tmp_path):
    write_npz_folder(tmp_path, [4] * 11)
    assert open_episodes(tmp_path).episode_ids == [f"episode_{i}.npz" for i in range(11)]


@pytest.mark.parametrize("num_rows", [4, 5])
def test_a_row_after_the_last_frame_is_dropped(tmp_path, num_rows):
    actions = make_actions(num_rows)
    episode = open_episodes(write_npz(tmp_path / "e.npz", 5, action=actions))[0]
    assert (episode.actions == actions[:4]).all()


def test_a_single_frame_has_no_action(tmp_path):
    write_npz_folder(tmp_path, [1, 5])
    with pytest.raises(EpisodeError, match=r"'episode_0\.npz'.*a single frame.* leave it out, as skip_bad"):
        open_episodes(tmp_path)[0]


def test_integers_that_float32_does_not_hold_are_refused(tmp_path):
    actions = np.zeros((5, 2), np.int64)
    actions[3, 1] = 2**24 + 1
    path = write_npz(tmp_path / "e.npz", 5, action=actions)
    with pytest.raises(EpisodeError, match="the integer 16777217 in row 3, column 1, which float32 cannot hold"):
        open_episodes(path)[0]


def test_actions_of_no_width_are_refused(tmp_path):
    path = write_npz(tmp_path / "e.npz", 5, action=make_actions(5, 0))
    with pytest.raises(EpisodeError, match="actions have no columns: leave them out"):
        open_episodes(path)[0]


def test_the_original_table_has_the_papers_strides():
    table = original_datasets()
    assert table["strides"]["asu_table_top_converted_externally_to_rlds"] == 12.5
    assert table["image_keys"]["bair_robot_pushing"] == "aux1_image"


# -- stacked frames ---------------------------------------------------------------------------------------------------


def test_metaworld_rows_are_aligned_to_the_frames_that_they_leave(shared):
    folder = shared("data/metaworld/plate-slide")
    reader = open_episodes(folder)
    episode = reader[0]
    with np.load(folder / reader.episode_ids[0]) as arrays:
        assert (episode.frames["image"] == arrays["observation"][:, 6:].transpose(0, 2, 3, 1)).all()
        assert (episode.actions == arrays["action"][1:]).all()
        assert (episode.rewards == arrays["reward"][1:, 0]).all()
    assert episode.task == "plate slide"


def test_27_of_30_demonstrations_succeed(shared):
    failed = [episode.episode_id for episode in open_episodes(shared("data/metaworld")) if not episode.success]
    assert len(failed) == 3
    assert all(name.startswith("handle-pull-side") for name in failed)


# -- HDF5 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


def test_robomimic_demonstrations(tmp_path, h5py):
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for index in (0, 1, 10, 2):
            group = file.create_group(f"data/demo_{index}")
            group["obs/agentview_image"] = make_frames(6, seed=index)
            group["obs/eye_in_hand_image"] = make_frames(6, seed=100 + index)
            group["obs/joints"] = np.zeros((6, 7))
            group["actions"] = make_actions(6, seed=index).astype(np.float64)
            group["rewards"] = np.array([0, 0, 0, 0, 0, index == 2], dtype=float)
    reader = open_episodes(tmp_path)
    assert [name.split("_")[-1] for name in reader.episode_ids] == ["0", "1", "2", "10"]
    episode = reader[3]
    assert (episode.frames["agentview"] == make_frames(6, seed=10)).all()
    assert (episode.frames["eye_in_hand"] == make_frames(6, seed=110)).all()
    assert (episode.actions == make_actions(6, seed=10)[:5]).all()
    assert [reader[i].success for i in range(4)] == [False, False, True, False]


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_robonet_mp4(tmp_path, h5py, image_format):
    video = write_mp4(tmp_path / "clip.mp4", 7)
    with h5py.File(tmp_path / "trajectory.hdf5", "w") as file:
        data = np.frombuffer(video.read_bytes(), np.uint8)
        file.create_dataset("env/cam0_video/frames", data=data).attrs["image_format"] = image_format
        file["policy/actions"] = make_actions(6)
    episode = open_episodes(tmp_path / "trajectory.hdf5")[0]
    expected = read_video(video).movedim(1, -1).numpy()
    assert (episode.frames["cam0"] == (expected if image_format == "RGB" else expected[..., ::-1])).all()
    assert (episode.actions == make_actions(6)).all()


def test_robonet_jpg_in_opencvs_order_of_channels(tmp_path, h5py):
    import io

    from PIL import Image

    def jpg(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        return np.frombuffer(file.getvalue(), np.uint8)

    images = [jpg(frame) for frame in make_frames(11)]
    with h5py.File(tmp_path / "trajectory.hdf5", "w") as file:
        for t, image in enumerate(images):
            file.create_dataset(f"env/cam1_video/frame{t}", data=image).attrs["image_format"] = "BGR"
        file["policy/actions"] = make_actions(10)
    episode = open_episodes(tmp_path)[0]
    assert [bytes(frame) for frame in episode.frames["cam1"]] == [image.tobytes() for image in images]


# -- LeRobot ----------------------------------------------------------------------------------------------------------


def test_lerobot_episodes_in_one_video_file(tmp_path):
    lengths = [7, 12, 5]
    actions = write_lerobot(tmp_path, lengths)
    video = read_video(next(tmp_path.rglob("*.mp4"))).movedim(1, -1).numpy()
    reader = open_episodes(tmp_path)
    assert len(reader) == 3
    first = 0
    for index, length in enumerate(lengths):
        episode = reader[index]
        assert (episode.frames["front"] == video[first : first + length]).all()
        assert (decode_frames(episode.frames["wrist"]) == make_frames(length, 8, seed=index)).all()
        assert (episode.actions == actions[index][:-1]).all()
        assert episode.rewards.tolist() == list(range(length - 1))
        first += length
    assert episode.task == "push the block"
    assert episode.fps == 10
    assert list(episode.action_names) == ["pan", "tilt"]
    assert [reader[i].success for i in range(3)] == [True, False, False]


def test_lerobot_cameras_can_be_chosen(tmp_path):
    write_lerobot(tmp_path, [4])
    assert list(open_episodes(tmp_path, cameras=["wrist"])[0].frames) == ["wrist"]


def test_older_lerobot_formats_are_refused(tmp_path):
    write_lerobot(tmp_path, [4])
    info = tmp_path / "meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"codebase_version": "v2.1"}))
    with pytest.raises(ValueError, match=r"v2\.1"):
        open_episodes(tmp_path)


# -- TFRecord ---------------------------------------------------------------------------------------------------------


def test_bridge_tfrecords_keep_the_encoded_images(shared):
    pytest.importorskip("tfrecord")
    reader = open_episodes(shared("data/rlds_bridge/1.0.0"))
    episode = reader[0]
    assert len(reader) == 50
    assert sorted(episode.frames) == ["image_0", "image_1", "image_2", "image_3"]
    assert episode.frames["image_0"][0][:3] == b"\xff\xd8\xff"
    assert episode.actions.shape == (9, 7)
    assert episode.task == "put cup from counter or drying rack into sink"
    assert episode.source == "rlds_bridge"


def test_bridge_agrees_with_the_tfrecord_packages_own_loader(shared):
    tfrecord = pytest.importorskip("tfrecord")
    folder = shared("data/rlds_bridge/1.0.0")
    file = next(folder.glob("*train*"))
    reader = open_episodes(file)
    for index, record in enumerate(tfrecord.reader.example_loader(str(file), None)):
        episode = reader[index]
        assert (episode.actions == record["steps/action"].reshape(10, 7)[:9]).all()
        # that loader makes numpy bytes, which lose zeros at their end
        ours, theirs = episode.frames["image_1"], record["steps/observation/image_1"].tolist()
        assert [image.rstrip(b"\0") for image in ours] == theirs
    assert index == 24


def write_bair_tfrecord(path, num_episodes=2, num_frames=4):
    writer_module = pytest.importorskip("tfrecord.writer")
    writer = writer_module.TFRecordWriter(str(path))
    for index in range(num_episodes):
        frames, actions = make_frames(num_frames, 64, seed=index), make_actions(num_frames, 4, seed=index)
        record = {}
        for t in range(num_frames):
            record[f"{t}/image_aux1/encoded"] = (frames[t].tobytes(), "byte")
            record[f"{t}/action"] = (actions[t].tolist(), "float")
        writer.write(record)
    writer.close()


def test_bairs_original_tfrecords(tmp_path):
    write_bair_tfrecord(tmp_path / "traj_0_to_1.tfrecords")
    reader = open_episodes(tmp_path)
    assert len(reader) == 2
    assert (reader[1].frames["aux1"] == make_frames(4, 64, seed=1)).all()
    assert (reader[1].actions == make_actions(4, 4, seed=1)[:3]).all()


def test_a_changed_byte_in_a_record_is_noticed(tmp_path):
    file = tmp_path / "traj.tfrecords"
    write_bair_tfrecord(file)
    data = bytearray(file.read_bytes())
    data[2000] ^= 1
    file.write_bytes(data)
    with pytest.raises(EpisodeError, match="checksum"):
        open_episodes(file)[0]


# -- videos and images ------------------------------------------------------------------------------------------------


def test_a_folder_of_videos_with_a_table_of_actions(tmp_path):
    lines = ["clip,x,y"]
    for name, length in (("a", 5), ("b", 6)):
        write_mp4(tmp_path / f"{name}.mp4", length, fps=15)
        lines += [f"{name}.mp4,{t},{-t}" for t in range(length)]
    (tmp_path / "actions.csv").write_text("\n".join(lines))
    reader = open_episodes(tmp_path)
    episode = reader[1]
    assert (episode.frames["image"] == read_video(tmp_path / "b.mp4").movedim(1, -1).numpy()).all()
    assert episode.actions[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert list(episode.action_names) == ["x", "y"]
    assert episode.fps == 15


def test_actions_beside_each_video(tmp_path):
    write_mp4(tmp_path / "a.mp4", 5)
    np.save(tmp_path / "a.npy", make_actions(4))
    assert (open_episodes(tmp_path)[0].actions == make_actions(4)).all()


def test_a_folder_of_folders_of_images(tmp_path):
    from PIL import Image

    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for t, frame in enumerate(make_frames(11, seed=len(name))):
            Image.fromarray(frame).save(tmp_path / name / f"{t}.png")
    reader = open_episodes(tmp_path)
    assert reader.episode_ids == ["left", "right"]
    assert (decode_frames(reader[1].frames["image"]) == make_frames(11, seed=5)).all()


def test_videos_are_upright_as_their_rotation_says(tmp_path):
    """A phone held upright stores lying frames and a matrix; here it is put into the file's track header."""
    path = write_mp4(tmp_path / "phone.mp4", 3, (32, 48))
    lying = read_video(path)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter_turn = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter_turn)
    path.write_bytes(data)
    assert read_video(path).equal(lying.rot90(-1, dims=(2, 3)))


def test_resizing_while_reading_equals_resizing_afterwards(tmp_path):
    import torch

    from ivideogpt_hf.models.resizing import resize_frames

    path = write_mp4(tmp_path / "a.mp4", 4)
    small = open_episodes(tmp_path, size=(16, 16))[0].frames["image"]
    assert torch.from_numpy(small).movedim(-1, 1).equal(resize_frames(read_video(path), (16, 16)))


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_an_empty_source_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no episodes"):
        open_episodes(tmp_path)


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no data set .* here, and it is no Hub id"):
        open_episodes(tmp_path / "a" / "b" / "missing")


def test_several_formats_need_a_name(tmp_path):
    write_npz(tmp_path / "e.npz")
    write_mp4(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="--reader"):
        open_episodes(tmp_path)
    assert len(open_episodes(tmp_path, reader="npz")) == 1


def test_an_unknown_camera_is_named_with_those_that_exist(tmp_path):
    with pytest.raises(EpisodeError, match=r"no camera 'wrist'; there are \['image'\]"):
        open_episodes(write_npz(tmp_path / "e.npz"), cameras=["wrist"])[0]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"action": make_actions(3)}, "5 frames do not match 3 actions"),
        ({"action": np.full((5, 2), np.nan, np.float32)}, "NaN or infinite values, first in row 0"),
        ({"image": make_frames(5)[..., :1]}, "3 colour channels"),
        ({"image": make_frames(5).astype(np.int64) + 200}, "0 ... 255"),
        ({"image": None}, "no camera images"),
        ({"aux1_image": make_frames(4)}, "different numbers of frames"),
    ],
    ids=["too few actions", "NaN actions", "grey frames", "pixels out of range", "no frames", "unequal cameras"],
)
def test_bad_episodes_say_what_and_where(tmp_path, arrays, reason):
    with pytest.raises(EpisodeError, match=reason) as caught:
        open_episodes(write_npz(tmp_path / "e.npz", 5, **arrays))[0]
    assert "e.npz" in str(caught.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 5])


def test_a_truncated_npz(tmp_path):
    truncate(write_npz(tmp_path / "e.npz"))
    with pytest.raises(EpisodeError, match=r"e\.npz"):
        open_episodes(tmp_path)[0]


def test_a_truncated_mp4(tmp_path):
    truncate(write_mp4(tmp_path / "a.mp4", 30))
    with pytest.raises(EpisodeError, match=r"a\.mp4"):
        open_episodes(tmp_path)[0]


def test_a_truncated_hdf5(tmp_path, h5py):
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["data/demo_0/obs/front_image"] = make_frames(30)
    truncate(tmp_path / "demo.hdf5")
    with pytest.raises(EpisodeError, match=r"demo\.hdf5"):
        open_episodes(tmp_path)[0]


def test_a_truncated_tfrecord(tmp_path):
    write_bair_tfrecord(tmp_path / "traj.tfrecords")
    truncate(tmp_path / "traj.tfrecords")
    with pytest.raises(EpisodeError, match="truncated"):
        list(open_episodes(tmp_path))


def test_images_of_mixed_sizes(tmp_path):
    from PIL import Image

    for t, size in enumerate((16, 16, 12)):
        Image.fromarray(make_frames(1, size)[0]).save(tmp_path / f"{t}.png")
    with pytest.raises(ValueError, match="frame 2 is"):
        decode_frames(open_episodes(tmp_path)[0].frames["image"])


def test_a_table_of_actions_without_the_clip(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3)
    (tmp_path / "actions.csv").write_text("clip,x\nb.mp4,1\n")
    with pytest.raises(EpisodeError, match=r"no rows whose 'clip' is a\.mp4"):
        open_episodes(tmp_path)[0]


@pytest.mark.parametrize(("package", "extra", "file"), [("h5py", "hdf5", "a.hdf5"), ("tfrecord", "rlds", "a.tfrecord")])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, extra, file):
    (tmp_path / file).write_bytes(b"")
    hide_package(monkeypatch, package)
    with pytest.raises(ImportError, match=re.escape(how_to_install(extra))):
        open_episodes(tmp_path)


def test_without_pyarrow_other_formats_are_read(tmp_path, monkeypatch):
    write_mp4(tmp_path / "a.mp4", 3)
    for package in ("pyarrow", "datasets"):
        hide_package(monkeypatch, package)
    assert len(open_episodes(tmp_path)[0].frames["image"]) == 3
