import numpy as np
import pytest

from ivideogpt_hf.media.numpy_files import read_array


def test_the_key_that_is_there_is_read(tmp_path):
    np.savez(tmp_path / "file.npz", image=np.arange(3), other=np.arange(4))
    assert read_array(tmp_path / "file.npz", ("frames", "image")).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="holds 'image' and 'other'"):
        read_array(tmp_path / "file.npz", ("frames", "image", "other"))
    with pytest.raises(ValueError, match=r"must hold one of \['frames'\], it holds \['image', 'other'\]"):
        read_array(tmp_path / "file.npz", ("frames",))
