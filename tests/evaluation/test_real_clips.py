"""Metrics on a hundred pairs of real clips, against other implementations of the same definitions."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ivideogpt_hf.metrics.frames import lpips, psnr, ssim
from ivideogpt_hf.metrics.lpips import LPIPS
from tests.metrics.test_frames import ssim_by_definition
from tests.metrics.test_lpips import lpips_by_formula

LATER = 5  # frames that the second clip of a pair begins after the first one


@pytest.fixture(scope="module")
def pairs(shared):
    """Two videos (100, 2, 3, 64, 64) uint8: clips of simulated and real robots, and what came after each."""
    episodes = [(np.load(shared("data/bair_sample.npz"))["image"].astype(np.uint8).transpose(0, 3, 1, 2), 2)]
    for file in sorted(shared("data/metaworld").glob("*/*.npz")):
        episodes.append((np.load(file)["observation"][:, -3:], 10))
    starts = [(frames, start) for frames, every in episodes for start in range(0, len(frames) - LATER - 1, every)][:100]
    first, second = (
        torch.from_numpy(np.stack([frames[start + offset : start + offset + 2] for frames, start in starts]))
        for offset in (0, LATER)
    )
    assert first.shape == (100, 2, 3, 64, 64)
    assert not first.equal(second)
    return first, second


def test_psnr_is_that_of_scikit_image(pairs):
    metrics = pytest.importorskip("skimage.metrics")
    frames = [video.flatten(0, 1).numpy() for video in pairs]
    expected = [
        metrics.peak_signal_noise_ratio(truth, image, data_range=255) for image, truth in zip(*frames, strict=True)
    ]
    # The definition adds 1e-8 to the squared error, which scikit-image does not.
    error = 10 ** (-torch.tensor(expected) / 10)
    torch.testing.assert_close(psnr(*pairs).flatten().double(), -10 * (error + 1e-8).log10(), atol=1e-4, rtol=0)


def test_ssim_is_its_definition(pairs):
    pytest.importorskip("skimage")
    expected = ssim_by_definition(*(video.flatten(0, 1) / 255 for video in pairs))
    torch.testing.assert_close(ssim(*pairs).flatten().double(), expected, atol=1e-4, rtol=0)


def test_lpips_is_its_formula(pairs, shared):
    file = shared("weights/lpips_vgg16.safetensors")
    network, weights = LPIPS.from_weights(file), load_file(file)
    first_frames = [video[:, :1] for video in pairs]  # the network takes its time
    expected = lpips_by_formula(weights, *(video.flatten(0, 1) / 255 for video in first_frames))
    torch.testing.assert_close(lpips(*first_frames, network).flatten(), expected, atol=1e-4, rtol=0)
