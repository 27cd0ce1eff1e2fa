"""What is asked of all formats alike: size, rate, alignment, names and bounds of actions."""

from fractions import Fraction

import numpy as np
import pytest

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.fitting import fit_frames
from ivideogpt_hf.data.readers import EpisodeError, open_episodes
from ivideogpt_hf.media.pixels import resize_pixels
from ivideogpt_hf.media.video import read_video
from tests.data.files import make_actions, make_frames, write_mp4, write_npz


def write_uneven_mp4(path, times):
    """A video whose frame at ``times`` (milliseconds) has the brightness of its number."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=30, options={"crf": "0", "bf": "0"})
        stream.width = stream.height = 32
        stream.pix_fmt, stream.codec_context.time_base = "rgb24", Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# -- which row belongs to which frame ---------------------------------------------------------------------------------


def test_dreamers_rows_led_to_their_frames(tmp_path):
    actions, rewards = make_actions(6), np.arange(6, dtype=np.float32)
    actions[0] = 0
    write_npz(tmp_path / "e.npz", 6, action=actions, reward=rewards, is_first=np.arange(6) == 0)
    episode = open_episodes(tmp_path)[0]
    assert (episode.actions == actions[1:]).all()
    assert (episode.rewards == rewards[1:]).all()
    assert any("led to frame t (as the format says)" in note for note in episode.notes)


@pytest.mark.parametrize(("alignment", "rows"), [("before", slice(1, None)), ("after", slice(None, -1))])
def test_the_alignment_can_be_said(tmp_path, alignment, rows):
    write_npz(tmp_path / "e.npz", 6, action=make_actions(6), is_first=np.arange(6) == 0)
    episode = open_episodes(tmp_path, action_alignment=alignment)[0]
    assert (episode.actions == make_actions(6)[rows]).all()
    assert any("as action_alignment says" in note for note in episode.notes)


def test_is_first_with_an_action_before_the_first_frame_is_not_guessed(tmp_path):
    write_npz(tmp_path / "e.npz", 6, action=make_actions(6), is_first=np.arange(6) == 0)
    with pytest.raises(EpisodeError, match="--action-alignment"):
        open_episodes(tmp_path)[0]


def test_several_episodes_in_a_file_are_refused(tmp_path):
    write_npz(tmp_path / "e.npz", 6, is_first=np.arange(6) % 3 == 0)
    with pytest.raises(EpisodeError, match="true in row 3"):
        open_episodes(tmp_path)[0]


def test_an_assumed_alignment_is_told(tmp_path):
    assert any("(assumed)" in note for note in open_episodes(write_npz(tmp_path / "e.npz", 6))[0].notes)


def test_rows_between_frames_have_one_place(tmp_path):
    write_npz(tmp_path / "e.npz", 6, action=make_actions(5))
    episode = open_episodes(tmp_path, action_alignment="before")[0]
    assert (episode.actions == make_actions(5)).all()


# -- size -------------------------------------------------------------------------------------------------------------


def test_crop_is_the_middle_resized():
    frames = np.concatenate([make_frames(2, 20), make_frames(2, 20, seed=1)], axis=2)  # 20 x 40
    assert (fit_frames(frames, (10, 10), "crop") == resize_pixels(frames[:, :, 10:30], (10, 10))).all()


def test_pad_is_the_whole_with_black_bars():
    frames = np.concatenate([make_frames(2, 20), make_frames(2, 20, seed=1)], axis=2)
    padded = fit_frames(frames, (16, 16), "pad")
    assert (padded[:, 4:12] == resize_pixels(frames, (8, 16))).all()
    assert not padded[:, :4].any()
    assert not padded[:, 12:].any()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_video_is_fitted_as_its_frames_are(tmp_path, fit):
    path = write_mp4(tmp_path / "a.mp4", 3)
    frames = read_video(path).movedim(1, -1).numpy()
    assert (
        open_episodes(tmp_path, size=(16, 16), fit=fit)[0].frames["image"] == fit_frames(frames, (16, 16), fit)
    ).all()


def test_squashing_is_told(tmp_path):
    write_mp4(tmp_path / "a.mp4", 3, (48, 64))
    assert "camera image: squashed from 48x64 to 16x16" in open_episodes(tmp_path, size=(16, 16))[0].notes
    assert not open_episodes(tmp_path, size=(24, 32))[0].notes


def test_mixed_aspects_need_a_choice(tmp_path):
    for name, size in (("a", (48, 64)), ("b", (96, 128)), ("c", (64, 48))):
        write_mp4(tmp_path / f"{name}.mp4", 3, size)
    reader = open_episodes(tmp_path, size=(16, 16))
    assert reader[1].frames["image"].shape == (3, 16, 16, 3)
    with pytest.raises(EpisodeError, match=r"another aspect \(64x48\) than the first episode's \(48x64\).*--fit"):
        reader[2]
    assert open_episodes(tmp_path, size=(16, 16), fit="pad")[2].frames["image"].shape == (3, 16, 16, 3)


# -- rate -------------------------------------------------------------------------------------------------------------


def test_video_is_resampled(tmp_path):
    write_uneven_mp4(tmp_path / "a.mp4", range(0, 1000, 50))
    episode = open_episodes(tmp_path, fps=10)[0]
    assert episode.frames["image"][:, 0, 0, 0].tolist() == list(range(0, 20, 2))
    assert episode.fps == 10
    assert "resampled from 20 frames per second to 10" in episode.notes


def test_an_uneven_clip_is_told_and_has_no_rate(tmp_path):
    write_uneven_mp4(tmp_path / "a.mp4", [0, 100, 200, 1200, 1300])
    episode = open_episodes(tmp_path)[0]
    assert episode.fps is None
    assert any(note.startswith("uneven: 0.1 to 1 s") for note in episode.notes)
    even = open_episodes(tmp_path, fps=10)[0].frames["image"][:, 0, 0, 0].tolist()
    assert even == [0, 1, *[2] * 10, 3, 4]


def test_frames_with_actions_are_not_resampled(tmp_path):
    write_mp4(tmp_path / "a.mp4", 5)
    np.save(tmp_path / "a.npy", make_actions(5))
    with pytest.raises(EpisodeError, match="train with a stride"):
        open_episodes(tmp_path, fps=5)[0]


def test_frames_without_times_are_not_resampled(tmp_path):
    with pytest.raises(EpisodeError, match="does not say when its frames were taken"):
        open_episodes(write_npz(tmp_path / "e.npz", action=None), fps=5)[0]


def test_a_cut_off_end_is_found_at_any_rate(tmp_path):
    file = write_uneven_mp4(tmp_path / "a.mkv", range(0, 2000, 40))
    file.write_bytes(file.read_bytes()[:-900])
    for fps in (None, 5, 7):
        with pytest.raises(EpisodeError, match="cut off"):
            open_episodes(file, fps=fps)[0]


def test_different_rates_are_told(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, fps in (("a", 10), ("b", 30)):
        write_mp4(tmp_path / f"in/{name}.mp4", 5, fps=fps)
    pytest.importorskip("datasets")
    assert main(["convert-data", str(tmp_path / "in"), str(tmp_path / "out"), "--test-fraction", "0"]) == 0
    assert "check: episodes have different rates: 10 fps in 1, 30 in 1" in capsys.readouterr().out


# -- actions ----------------------------------------------------------------------------------------------------------


def test_bounds_replace_those_of_the_format(shared):
    path = shared("data/metaworld/plate-slide")
    episode = open_episodes(path, action_low=[-2] * 4, action_high=[2] * 4)[0]
    assert (episode.action_low, episode.action_high) == ([-2] * 4, [2] * 4)


def test_bounds_of_another_width_are_refused(tmp_path):
    reader = open_episodes(write_npz(tmp_path / "e.npz"), action_low=[-1], action_high=[1])
    with pytest.raises(EpisodeError, match="1 numbers, its actions have 3 dimensions"):
        reader[0]


def test_actions_can_be_named(tmp_path):
    write_npz(tmp_path / "e.npz", 6, joints=make_actions(6, seed=5))
    assert (open_episodes(tmp_path, action_key="joints")[0].actions == make_actions(6, seed=5)[:-1]).all()
    with pytest.raises(EpisodeError, match="no actions 'other'; there are"):
        open_episodes(tmp_path, action_key="other")[0]


def test_two_names_of_actions_need_a_choice(tmp_path):
    write_npz(tmp_path / "e.npz", 6, actions=make_actions(6, seed=5))
    with pytest.raises(EpisodeError, match="actions and action: choose"):
        open_episodes(tmp_path)[0]


def test_a_format_without_names_of_actions_says_so(tmp_path):
    write_mp4(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="leave out action_key"):
        open_episodes(tmp_path, action_key="x")
