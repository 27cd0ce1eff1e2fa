"""Metrics of frames against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from ivideogpt_hf.metrics.frames import lpips, psnr, squared_error, ssim
from tests.conftest import random_frames


def near(frames, seed=5):
    """The same frames with a little noise."""
    noise = torch.randint(-20, 21, frames.shape, generator=torch.Generator().manual_seed(seed))
    return (frames.int() + noise).clamp(0, 255).to(torch.uint8)


def ssim_by_definition(one, other):
    """Window of 11, sigma 1.5, K = (0.01, 0.03), where the window fits: (M, 3, H, W) in [0, 1] to (M,)."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    kernel = torch.exp(-offsets.square() / (2 * 1.5**2))
    kernel = torch.outer(kernel / kernel.sum(), kernel / kernel.sum()).expand(3, 1, 11, 11)
    blur = lambda x: F.conv2d(x, kernel, groups=3)  # noqa: E731
    one, other = one.double(), other.double()
    m1, m2 = blur(one), blur(other)
    v1, v2, cov = blur(one * one) - m1 * m1, blur(other * other) - m2 * m2, blur(one * other) - m1 * m2
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * m1 * m2 + c1) * (2 * cov + c2) / ((m1 * m1 + m2 * m2 + c1) * (v1 + v2 + c2))
    return values.mean((1, 2, 3))


def test_psnr_is_its_definition():
    truth = random_frames(2, 3, size=24)
    predicted = near(truth)
    error = ((predicted.double() - truth.double()) / 255).square().mean((2, 3, 4))
    torch.testing.assert_close(psnr(predicted, truth), (-10 * (error + 1e-8).log10()).float())
    torch.testing.assert_close(squared_error(predicted, truth), error.float())
    assert (psnr(truth, truth) == 80).all()


def test_ssim_is_its_definition():
    pytest.importorskip("skimage")
    truth = random_frames(2, 3, size=24)
    predicted = near(truth)
    expected = ssim_by_definition(*(x.flatten(0, 1).double() / 255 for x in (predicted, truth)))
    torch.testing.assert_close(ssim(predicted, truth), expected.view(2, 3).float(), atol=1e-4, rtol=0)


def test_lpips_is_asked_in_chunks_and_in_order():
    truth = random_frames(5, 30)
    sizes = []

    def network(one, other):
        sizes.append(len(one))
        return (one - other).abs().mean((1, 2, 3))

    values = lpips(near(truth), truth, network)
    expected = ((near(truth).float() - truth.float()) / 255).abs().mean((2, 3, 4))
    torch.testing.assert_close(values, expected)
    assert sizes == [64, 64, 22]


def test_several_videos_may_share_one_truth():
    pytest.importorskip("skimage")
    truth, videos = random_frames(4, size=24), near(random_frames(2, 3, 4, size=24))
    alone = truth.expand_as(videos).contiguous()

    def network(one, other):
        return (one - other).abs().mean((1, 2, 3))

    for metric in (squared_error, psnr, ssim, lambda one, other: lpips(one, other, network)):
        torch.testing.assert_close(metric(videos, truth), metric(videos, alone))


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (random_frames(2, 2), "same shape"),
        (random_frames(2, 3).float(), "must be uint8"),
        (torch.zeros(2, 3, 1, 16, 16, dtype=torch.uint8), "must be uint8 of shape"),
    ],
)
def test_videos_that_do_not_fit_are_refused(predicted, message):
    with pytest.raises(ValueError, match=message):
        psnr(predicted, random_frames(2, 3))
