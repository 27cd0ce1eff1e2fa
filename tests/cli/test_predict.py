import re

import numpy as np
import pytest

from ivideogpt_hf import EXAMPLE_EPISODE, IVideoGPTPipeline, Sampling, WorldModel
from ivideogpt_hf.cli import main
from ivideogpt_hf.media import video as video_module
from ivideogpt_hf.media.actions import read_actions
from ivideogpt_hf.media.video import read_video, write_video
from ivideogpt_hf.metrics.frames import psnr
from tests.conftest import build_world, random_actions, random_frames

SIZE, LINE = 16, 2  # pixels of a frame's side, and of the line between frames


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    world.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def action_free(tmp_path_factory):
    folder = tmp_path_factory.mktemp("free")
    build_world(num_trained_frames=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """2000 frames."""
    frames = random_frames(4).repeat(500, 1, 1, 1)
    return str(write_video(frames, tmp_path_factory.mktemp("film") / "film.mp4"))


@pytest.fixture
def num_decoded(monkeypatch):
    """A list that becomes as long as the number of frames that were decoded of video files."""
    decoded, iterate = [], video_module.iterate_video

    def counted(*args, **options):
        for frame in iterate(*args, **options):
            decoded.append(None)
            yield frame

    monkeypatch.setattr(video_module, "iterate_video", counted)
    return decoded


def predict(*argv):
    assert main(["predict", *map(str, argv)]) == 0


def test_no_more_frames_are_decoded_than_there_are_actions(film, checkpoint, tmp_path, num_decoded):
    np.save(tmp_path / "actions.npy", random_actions(3, 3).numpy())
    predict(
        film,
        "--checkpoint",
        checkpoint,
        "--actions",
        tmp_path / "actions.npy",
        "--num-frames",
        3,
        "--output",
        tmp_path / "p.gif",
        "--fps",
        5,
    )
    assert len(num_decoded) == 2 + 3


@pytest.mark.parametrize("with_clip", [False, True])
def test_a_clips_file_conditions_from_the_last_context_frame_on(checkpoint, tmp_path, capsys, with_clip):
    """With or without the column "clip", as an array that begins there does."""
    frames, actions = random_frames(6), random_actions(6, 3).numpy().round(2)
    (tmp_path / "s").mkdir()
    clip = write_video(frames, tmp_path / "s/clip.gif")
    lines = ["clip,x,y,z"] + [f"s/clip.gif,{x},{y},{z}" for x, y, z in actions] + ["s/b.gif,9,9,9"] * 3
    if not with_clip:
        lines = [line.partition(",")[2] for line in lines if "s/b" not in line]
    (tmp_path / "actions.csv").write_text("\n".join(lines))
    argv = ["--checkpoint", checkpoint, "--greedy"]
    predict(clip, *argv, "--actions", tmp_path / "actions.csv", "--output", tmp_path / "p.gif")
    assert "rows 1 to 4, counted from 0" in capsys.readouterr().out
    np.save(tmp_path / "future.npy", actions[1:5])
    predict(clip, *argv, "--num-frames", 4, "--actions", tmp_path / "future.npy", "--output", tmp_path / "e.gif")
    assert read_video(tmp_path / "p.gif").equal(read_video(tmp_path / "e.gif"))


def test_rows_of_another_number_than_the_frames_are_never_guessed_at(checkpoint, tmp_path, capsys):
    clip = write_video(random_frames(6), tmp_path / "clip.gif")
    np.save(tmp_path / "actions.npy", random_actions(4, 3).numpy())
    argv = ["predict", str(clip), "--checkpoint", checkpoint, "--actions", str(tmp_path / "actions.npy")]
    assert main(argv) == 2
    assert "has 4 rows for the 6 frames of clip.gif" in capsys.readouterr().err
    np.save(tmp_path / "actions.npy", random_actions(5, 3).numpy())
    assert main([*argv, "--num-frames", "5"]) == 2
    assert "4 lead to frames after the context, not 5" in capsys.readouterr().err


def test_no_more_frames_are_decoded_than_are_asked_for(film, action_free, tmp_path, num_decoded):
    predict(film, "--checkpoint", action_free, "--num-frames", 3, "--output", tmp_path / "p.gif")
    assert len(num_decoded) == 2 + 3


def test_a_film_is_predicted_as_far_as_one_context_reaches(film, action_free, tmp_path, num_decoded, capsys):
    predict(film, "--checkpoint", action_free, "--output", tmp_path / "p.gif")
    assert len(num_decoded) == 2 + 4
    assert "1 predicted, 4 frames each" in capsys.readouterr().out


def test_a_short_clip_is_predicted_to_its_end(action_free, tmp_path, capsys):
    clip = write_video(random_frames(5), tmp_path / "clip.gif")
    predict(clip, "--checkpoint", action_free, "--output", tmp_path / "p.gif")
    assert "1 predicted, 3 frames each" in capsys.readouterr().out


def test_it_prints_the_psnr_that_an_evaluation_would(checkpoint, tmp_path, capsys):
    """The mean over frames, of the best sample."""
    frames = (random_frames(6) // 128) * 255  # few colours, which a gif keeps
    frames[2], frames[3], frames[4] = 128, 0, 126  # some of which are far easier than others
    clip = write_video(frames, tmp_path / "clip.gif")
    np.save(tmp_path / "actions.npy", random_actions(4, 3).numpy())
    argv = [clip, "--checkpoint", checkpoint, "--actions", tmp_path / "actions.npy", "--num-samples", 2]
    argv += ["--num-frames", 4]
    world = WorldModel.from_pretrained(checkpoint)
    pipeline = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    predicted = pipeline(
        frames,
        actions=tmp_path / "actions.npy",
        num_frames=4,
        num_samples=2,
        sampling=Sampling(seed=0),
        output_type="pt",
    ).frames[0]
    predict(*argv, "--output", tmp_path / "p.gif")
    shown, repeated = map(float, re.search(r"PSNR (\S+) dB .* (\S+) dB\)", capsys.readouterr().out).groups())
    assert shown == pytest.approx(max(psnr(sample, frames[2:]).mean().item() for sample in predicted), abs=0.005)
    assert repeated == pytest.approx(psnr(frames[1:2].expand(4, -1, -1, -1), frames[2:]).mean().item(), abs=0.005)


def test_the_embedded_episode_is_predicted_by_its_own_actions(tmp_path, capsys):
    """Its actions begin at its first frame, and the model follows them: other rows would give another video."""
    predict("--num-frames", 2, "--greedy", "--output", tmp_path / "p.gif")
    assert "1 predicted, 2 frames each" in capsys.readouterr().out
    world, frames, actions = WorldModel.default(), read_video(EXAMPLE_EPISODE), read_actions(EXAMPLE_EPISODE)
    rollout = world.rollout(frames[None, :2], actions[None, 1:3], sampling=Sampling(greedy=True))
    expected = write_video(video_module.side_by_side(frames[2:4], rollout.frames[0]), tmp_path / "e.gif", scale=4)
    assert read_video(tmp_path / "p.gif").equal(read_video(expected))


def test_no_frames_at_all_cannot_be_asked_for(action_free, tmp_path, capsys):
    clip = write_video(random_frames(5), tmp_path / "clip.gif")
    assert main(["predict", str(clip), "--checkpoint", action_free, "--num-frames", "0"]) == 2
    assert "--num-frames must be at least 1, got 0" in capsys.readouterr().err


def test_missing_actions_are_told_by_the_name_of_their_option(checkpoint, tmp_path, capsys):
    clip = write_video(random_frames(5), tmp_path / "clip.gif")
    assert main(["predict", str(clip), "--checkpoint", checkpoint]) == 2
    assert "actions of width 3 are missing, give them by --actions FILE" in capsys.readouterr().err


def test_a_prediction_that_starts_later_is_that_of_the_clip_without_its_first_frames(checkpoint, tmp_path):
    frames, actions = random_frames(8), random_actions(8, 3).numpy()
    np.savez(tmp_path / "clip.npz", frames=frames.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "cut.npz", frames=frames[3:].permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "actions.npy", actions)
    np.save(tmp_path / "cut.npy", actions[3:])
    argv = ["--checkpoint", checkpoint, "--greedy"]
    files = tmp_path / "clip.npz", tmp_path / "actions.npy"
    predict(files[0], *argv, "--actions", files[1], "--start", 3, "--output", tmp_path / "p.gif")
    predict(tmp_path / "cut.npz", *argv, "--actions", tmp_path / "cut.npy", "--output", tmp_path / "e.gif")
    assert read_video(tmp_path / "p.gif").equal(read_video(tmp_path / "e.gif"))


@pytest.mark.parametrize(
    ("start", "message"),
    [(-1, "--start must be 0 or more, got -1"), (4, "has 5 frames, and a context of 2 that begins")],
)
def test_a_start_that_the_clip_does_not_have_is_refused(action_free, tmp_path, capsys, start, message):
    clip = write_video(random_frames(5), tmp_path / "clip.gif")
    assert main(["predict", str(clip), "--checkpoint", action_free, "--num-frames", "2", "--start", str(start)]) == 2
    assert message in capsys.readouterr().err
