import numpy as np
import pytest

from ivideogpt_hf.media.files import natural_key, read_numpy


def test_digits_are_sorted_as_numbers():
    names = ["frame_10", "frame_2", "b", "10", "9", "frame_2_10", "frame_2_9", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "b", "frame_2", "frame_2_9", "frame_2_10", "frame_10"]


def test_the_first_key_that_is_there_is_read(tmp_path):
    np.savez(tmp_path / "file.npz", image=np.arange(3), other=np.arange(4))
    assert read_numpy(tmp_path / "file.npz", ("frames", "image", "other")).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"must hold one of \['frames'\], it holds \['image', 'other'\]"):
        read_numpy(tmp_path / "file.npz", ("frames",))
