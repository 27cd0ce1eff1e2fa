"""Pictures hold the pixels that they show."""

import re

import numpy as np
import pytest
from PIL import Image

from ivideogpt_hf.cli import main
from ivideogpt_hf.data.clips.dataset import SegmentDataset
from ivideogpt_hf.data.clips.mixture import Source
from ivideogpt_hf.data.clips.segments import SegmentSpec
from ivideogpt_hf.data.drawing import TILE_PIXELS, TITLE_PIXELS
from ivideogpt_hf.data.show import clip_strips
from ivideogpt_hf.media.video import read_video
from tests.data.files import make_dataset

pytest.importorskip("datasets")

SIZE = 16
SCALE = TILE_PIXELS // SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_dataset(tmp_path_factory.mktemp("data") / "arm", [12, 9, 20]))


def tiles(picture):
    """The frames of the first strip of a picture, at their own size."""
    strip = picture[TITLE_PIXELS : TITLE_PIXELS + TILE_PIXELS : SCALE]
    lefts = range(0, picture.shape[1], TILE_PIXELS + 2)
    return np.stack([strip[:, left : left + TILE_PIXELS : SCALE] for left in lefts])


def test_a_contact_sheet_shows_the_clip_as_the_model_sees_it(folder, tmp_path):
    output = tmp_path / "clips.png"
    arguments = ["--clips", "1", "--num-frames", "6", "--stride", "2", "--augmentation", "strong", "--epoch", "3"]
    assert main(["show", folder, *arguments, "--seed", "5", "--output", str(output)]) == 0
    dataset = SegmentDataset(Source(folder, stride=2), SegmentSpec(6), augmentation="strong", seed=5)
    expected = dataset[3, 0]["frames"].movedim(1, -1).numpy()
    assert (tiles(np.asarray(Image.open(output))) == expected).all()


@pytest.mark.parametrize(("number", "said"), [(1, "1 clip;"), (2, "2 clips;")])
def test_clips_are_counted_in_the_singular_and_plural(folder, tmp_path, capsys, number, said):
    arguments = ["--clips", str(number), "--num-frames", "6", "--output", str(tmp_path / "clips.png")]
    assert main(["show", folder, *arguments]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("stride", "said"), [(1, r"frames \d+-\d+$"), (2, r"frames \d+-\d+ in steps of 2$")])
def test_a_title_names_the_frames(folder, stride, said):
    (strip,) = clip_strips(SegmentDataset(Source(folder, stride=stride), SegmentSpec(4)), 1)
    assert re.search(said, strip.title)


def test_actions_are_drawn_as_bars(folder, tmp_path):
    """The first dimension counts up from zero: its bar grows from frame to frame."""
    output = tmp_path / "episode.png"
    assert main(["show", folder, "--episodes", "1", "--output", str(output)]) == 0
    picture = np.asarray(Image.open(output)).astype(int)
    below = picture[TITLE_PIXELS + TILE_PIXELS :]
    blue = (abs(below - np.array([31, 119, 180])).sum(axis=-1) == 0).sum(axis=0)
    heights = [blue[left : left + TILE_PIXELS].max() for left in range(0, picture.shape[1], TILE_PIXELS + 2)]
    assert heights[:7] == sorted(heights[:7])
    assert heights[6] > heights[0]
    assert heights[-1] == 0  # no action leads away from the last frame


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_a_moving_picture_has_a_frame_for_each(folder, tmp_path, suffix):
    output = tmp_path / f"clips.{suffix}"
    assert main(["show", folder, "--clips", "2", "--num-frames", "6", "--output", str(output)]) == 0
    assert len(read_video(output)) == 6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--episodes", "3"], "no episode 3"),
        (["--clips", "500"], "clips, 500 were asked for"),
        (["--output", "picture.bmp"], "not as picture.bmp"),
        (["--cameras", "wrist"], "no camera 'wrist'"),
    ],
)
def test_mistakes_are_named(folder, capsys, arguments, reason):
    assert main(["show", folder, *arguments]) == 2
    assert reason in capsys.readouterr().err
