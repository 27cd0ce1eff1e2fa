"""npz: which arrays are needed, and which of them are cameras."""

import numpy as np
import pytest

from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from tests.data.files import make_frames, write_npz


def test_pickles_are_refused_only_where_they_are_needed(tmp_path):
    pickled = np.array({"a": 1}, dtype=object)
    assert open_episodes(write_npz(tmp_path / "a.npz", info=pickled))[0].action_dim == 3
    with pytest.raises(EpisodeError, match="'action' holds pickled Python objects, which are never loaded"):
        open_episodes(write_npz(tmp_path / "b.npz", action=pickled))[0]


def test_success_of_each_step(tmp_path):
    assert open_episodes(write_npz(tmp_path / "a.npz", 3, success=np.array([False, False, True])))[0].success
    with pytest.raises(EpisodeError, match="success must be true or false"):
        open_episodes(write_npz(tmp_path / "b.npz", 3, success=np.array([0.2, 0.5, 0.9])))[0]


def test_single_actions_are_one_wide(tmp_path):
    episode = open_episodes(write_npz(tmp_path / "e.npz", 4, action=np.arange(4)))[0]
    assert episode.actions.tolist() == [[0], [1], [2]]
    assert any("single integers" in note for note in episode.notes)


@pytest.mark.parametrize("name", ["next_image", "depth", "mask_0"])
def test_images_that_are_no_cameras_are_told(tmp_path, name):
    episode = open_episodes(write_npz(tmp_path / "e.npz", 4, **{name: make_frames(4, seed=1)}))[0]
    assert list(episode.frames) == ["image"]
    assert f"not taken for cameras: {name}" in episode.notes


def test_other_images_are_read_if_they_are_asked_for(tmp_path):
    frames = make_frames(4)
    write_npz(tmp_path / "e.npz", 4, image=None, obs=(frames / 255).astype(np.float32))
    with pytest.raises(EpisodeError, match=r"\['obs'\] may be: choose with cameras"):
        open_episodes(tmp_path)[0]
    assert (open_episodes(tmp_path, cameras=["obs"])[0].frames["obs"] == frames).all()
