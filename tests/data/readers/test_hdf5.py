"""HDF5: layouts, encoded images, and nothing from other files."""

import io

import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf.data.episodes import decode_frames
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from tests.data.files import make_actions, make_frames

h5py = pytest.importorskip("h5py")


def write_demo(path, **observations):
    with h5py.File(path, "w") as file:
        group = file.create_group("data/demo_0")
        group["actions"] = make_actions(6)
        for name, array in observations.items():
            group[f"obs/{name}"] = array
    return path


def padded_jpgs(frames):
    files = []
    for frame in frames:
        files.append(io.BytesIO())
        Image.fromarray(frame).save(files[-1], "JPEG")
    longest = max(file.tell() for file in files)
    return np.stack([np.frombuffer(file.getvalue().ljust(longest, b"\0"), np.uint8) for file in files])


def test_depth_beside_an_image_is_no_camera(tmp_path):
    path = write_demo(tmp_path / "a.hdf5", front_image=make_frames(6), front_depth=np.zeros((6, 16, 16, 1), np.float32))
    episode = open_episodes(path)[0]
    assert list(episode.frames) == ["front"]
    assert "not taken for cameras: front_depth" in episode.notes
    with pytest.raises(EpisodeError, match="'front_depth' holds no RGB pictures"):
        open_episodes(path, cameras=["front_depth"])[0]


@pytest.mark.parametrize("place", ["data/demo_0/obs/front_image", "observations/images/front"])
def test_encoded_images_with_zeros_behind_them(tmp_path, place):
    jpgs = padded_jpgs(make_frames(6))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file[place] = jpgs
    frames = open_episodes(tmp_path)[0].frames["front"]
    assert (decode_frames(frames)[2] == np.asarray(Image.open(io.BytesIO(jpgs[2].tobytes())))).all()


def test_aloha(tmp_path):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["action"], file["observations/images/cam_high"] = make_actions(6), make_frames(6)
    episode = open_episodes(tmp_path)[0]
    assert (episode.frames["cam_high"] == make_frames(6)).all()
    assert (episode.actions == make_actions(6)[:-1]).all()


def test_links_into_other_files_are_refused(tmp_path):
    write_demo(tmp_path / "other.h5x", front_image=make_frames(6))
    with h5py.File(write_demo(tmp_path / "a.hdf5"), "a") as file:
        file["data/demo_0/obs/front_image"] = h5py.ExternalLink("other.h5x", "data/demo_0/obs/front_image")
    with pytest.raises(EpisodeError, match=r"is a link into 'other\.h5x'"):
        open_episodes(tmp_path)[0]


@pytest.mark.parametrize("kind", ["external storage", "virtual"])
def test_arrays_stored_in_other_files_are_refused(tmp_path, kind):
    shape = (6, 16, 16, 3)
    with h5py.File(write_demo(tmp_path / "a.hdf5"), "a") as file:
        if kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource("other.h5x", "x", shape, np.uint8)
            file.create_virtual_dataset("data/demo_0/obs/front_image", layout)
        else:
            storage = [(str(tmp_path / "raw"), 0, int(np.prod(shape)))]
            file.create_dataset("data/demo_0/obs/front_image", shape, np.uint8, external=storage)
    with pytest.raises(EpisodeError, match="stored in other files"):
        open_episodes(tmp_path)[0]


def test_missing_groups_are_named(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/demo_0/states"] = make_actions(6)
        file.create_group("data/demo_1")
    reader = open_episodes(tmp_path)
    with pytest.raises(EpisodeError, match="no group 'obs' with images"):
        reader[0]
    with pytest.raises(EpisodeError, match="demo_1 is empty"):
        reader[1]


def test_cameras_whose_names_would_be_one_are_refused(tmp_path):
    write_demo(tmp_path / "e.hdf5", wrist=make_frames(6), wrist_image=make_frames(6, seed=1))
    with pytest.raises(EpisodeError, match="two cameras have the name 'wrist'"):
        open_episodes(tmp_path)[0]
    write_demo(tmp_path / "e.hdf5", _image=make_frames(6))
    with pytest.raises(EpisodeError, match="a camera has no name"):
        open_episodes(tmp_path)[0]
