"""One crop and one colour draw per clip; colour changes against Pillow's and the standard library's."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from ivideogpt_hf.data.clips.augment import (
    AUGMENTATIONS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    draw_crop,
    recolour,
    transform_clip,
)
from tests.conftest import random_frames


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("adjust", "enhancer"),
    [
        (adjust_brightness, ImageEnhance.Brightness),
        (adjust_contrast, ImageEnhance.Contrast),
        (adjust_saturation, ImageEnhance.Color),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_colour_changes_are_pillows(adjust, enhancer, factor):
    frame = random_frames(1)[0]
    ours = adjust(frame.float() / 255, factor).mul(255).round()
    theirs = np.asarray(enhancer(Image.fromarray(frame.movedim(0, -1).numpy())).enhance(factor))
    assert np.abs(ours.movedim(0, -1).numpy() - theirs).max() <= 2  # Pillow rounds the grey, and cuts off fractions


@pytest.mark.parametrize("turns", [-0.5, -0.05, 0.0, 0.3])
def test_hue_turns_in_hsv(turns):
    frame = random_frames(1)[0].float() / 255
    frame[:, 0, 0] = 0.5  # grey has no hue
    turned = adjust_hue(frame, turns)
    for row, column in ((0, 0), (1, 2), (7, 7), (15, 3)):
        hue, saturation, value = colorsys.rgb_to_hsv(*frame[:, row, column].tolist())
        expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
        assert turned[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_all_frames_of_a_clip_are_changed_alike(name):
    clip = random_frames(1).repeat(4, 1, 1, 1)
    changed = transform_clip(clip, (16, 16), AUGMENTATIONS[name], rng())
    assert changed.shape == clip.shape
    assert (changed == changed[:1]).all()
    assert not changed.equal(clip)


def test_draws_follow_the_generator():
    clip, strong = random_frames(2), AUGMENTATIONS["strong"]
    first, again, other = (transform_clip(clip, (16, 16), strong, rng(seed)) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("name", ["weak", "strong"])
@pytest.mark.parametrize("size", [(64, 64), (48, 100), (240, 64)])
def test_crops_have_the_papers_areas_and_aspects(name, size):
    augmentation, side = AUGMENTATIONS[name], min(size)
    for seed in range(300):
        top, left, height, width = draw_crop(*size, augmentation, rng(seed))
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width
        low, high = augmentation.crop_area
        assert low * 0.95 <= height * width / side**2 <= high * 1.05
        low, high = augmentation.crop_aspect
        assert low * 0.95 <= width / height <= high * 1.05


def test_without_augmentation_only_the_size_changes():
    clip = random_frames(3)
    assert transform_clip(clip, None, None, rng()).equal(clip)
    assert transform_clip(clip, (8, 8), None, rng()).shape == (3, 3, 8, 8)


def test_recolouring_stays_in_range():
    frames = recolour(random_frames(4), AUGMENTATIONS["strong"], rng())
    assert frames.dtype == torch.uint8
