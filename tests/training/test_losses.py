"""The VQ model's losses, each against its formula."""

import pytest
import torch
from torch import nn

from ivideogpt_hf.metrics.lpips import LPIPS
from ivideogpt_hf.training.losses import (
    MAX_ADAPTIVE_WEIGHT,
    Discriminator,
    adaptive_weight,
    hinge_loss,
    motion_weights,
    perceptual_loss,
    weighted_absolute_error,
    weighted_squared_error,
)


def clips(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lpips():
    """The real network with random weights, whose heads count every channel equally."""
    torch.manual_seed(0)
    model = LPIPS()
    for stage in range(5):
        nn.init.constant_(getattr(model, f"lin{stage}").weight, 0.1)
    return model


def test_pixels_that_move_count_more():
    frames = torch.full((2, 3, 3, 4, 4), 0.5)
    frames[0, 2, 1, 1, 3] = 0.7  # one channel, in one frame of the first clip
    frames[1, 0, 0, 2, 2] = 0.53  # less than what rendering flickers
    weights = motion_weights(frames, 4.0)
    assert weights.shape == (2, 1, 1, 4, 4)
    assert weights[0, 0, 0, 1, 3] == 5
    assert weights.sum() == 2 * 16 + 4


def test_without_a_weight_all_pixels_count_alike():
    assert (motion_weights(clips(2, 3, 3, 4, 4), 0.0) == 1).all()


def test_absolute_error_is_a_weighted_mean():
    reconstruction, frames = clips(2, 3, 3, 4, 4), clips(2, 3, 3, 4, 4, seed=1)
    weights = clips(2, 1, 1, 4, 4, seed=2)
    plain = weighted_absolute_error(reconstruction, frames, torch.ones(()))
    torch.testing.assert_close(plain, nn.functional.l1_loss(reconstruction, frames))
    expected = sum(
        (reconstruction[b, t, c] - frames[b, t, c]).abs().mul(weights[b, 0, 0]).mean()
        for b in range(2)
        for t in range(3)
        for c in range(3)
    )
    torch.testing.assert_close(weighted_absolute_error(reconstruction, frames, weights), expected / 18)


def test_squared_error_is_a_weighted_mean():
    reconstruction, frames = clips(2, 3, 3, 4, 4), clips(2, 3, 3, 4, 4, seed=1)
    plain = weighted_squared_error(reconstruction, frames, torch.ones(()))
    torch.testing.assert_close(plain, nn.functional.mse_loss(reconstruction, frames))
    halves = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1, 1)
    first = nn.functional.mse_loss(reconstruction[0], frames[0])
    torch.testing.assert_close(weighted_squared_error(reconstruction, frames, halves), first)


def test_perceptual_loss_is_the_mean_over_context_plus_the_mean_over_future(lpips):
    reconstruction, frames = clips(2, 5, 3, 16, 16), clips(2, 5, 3, 16, 16, seed=1)
    each = torch.stack([lpips(reconstruction[b], frames[b]) for b in range(2)])
    expected = each[:, :2].mean() + each[:, 2:].mean()
    torch.testing.assert_close(perceptual_loss(lpips, reconstruction, frames, 2, None), expected)
    torch.testing.assert_close(perceptual_loss(lpips, reconstruction, frames, 2, 5), expected)


@pytest.mark.parametrize("num_chosen", [1, 2])
def test_a_random_choice_of_frames_has_the_same_expectation_as_all(lpips, num_chosen):
    """Frames are made unequally wrong, so that wrong shares would show."""
    frames = clips(1, 3, 3, 16, 16).repeat(32, 1, 1, 1, 1)
    wrong = torch.tensor([0.6, 0.05, 0.3])[:, None, None, None]
    reconstruction = frames + wrong * (clips(1, 3, 3, 16, 16, seed=1) - 0.5)
    expected = perceptual_loss(lpips, reconstruction[:1], frames[:1], 1, None)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([perceptual_loss(lpips, reconstruction, frames, 1, num_chosen) for _ in range(8)])
    error = draws.std() / len(draws) ** 0.5
    assert error < 0.1 * expected
    assert (draws.mean() - expected).abs() < 3 * error


def test_a_choice_of_frames_costs_only_these(lpips):
    seen = []
    hook = lpips.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    perceptual_loss(lpips, clips(3, 5, 3, 16, 16), clips(3, 5, 3, 16, 16, seed=1), 2, 2)
    hook.remove()
    assert seen == [6]


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    first, second = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([[3.0]]))
    perceptual = 3 * first.sum() + 4 * second.sum()  # gradient (3, 3, 4)
    adversarial = 2 * first[0] + second.sum()  # gradient (2, 0, 1)
    weight = adaptive_weight(perceptual, adversarial, [first, second])
    torch.testing.assert_close(weight, torch.tensor(34**0.5 / (5**0.5 + 1e-4)))
    assert not weight.requires_grad
    (perceptual + weight * adversarial).backward()  # both graphs are still there
    assert first.grad is not None


def test_the_adaptive_weight_is_bounded():
    layer = nn.Parameter(torch.tensor([1.0]))
    assert adaptive_weight(1e6 * layer.sum(), 0 * layer.sum(), [layer]) == MAX_ADAPTIVE_WEIGHT


def test_hinge_loss():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.5, 1.0])
    expected = (0 + 0.5 + 2) / 3 + (0 + 0.5 + 2) / 3
    assert hinge_loss(real, fake).item() == pytest.approx(expected)


@pytest.mark.parametrize(("depth", "side"), [(4, 2), (2, 8)])
def test_the_discriminator_judges_patches(depth, side):
    torch.manual_seed(0)
    discriminator = Discriminator(depth=depth, hidden=16)
    logits = discriminator(clips(3, 3, 32, 32))
    assert logits.shape == (3, 1, side, side)
    assert not logits[0].equal(logits[1])


def test_the_discriminators_gain_is_bounded():
    """Spectral norm: however large its weights, each convolution has a largest singular value of about one."""
    discriminator = Discriminator(depth=2, hidden=8)
    with torch.no_grad():
        for layer in discriminator.layers:
            if hasattr(layer, "parametrizations"):
                layer.parametrizations.weight.original.mul_(100)
    discriminator.train()
    for _ in range(50):  # power iterations
        discriminator(clips(1, 3, 16, 16))
    discriminator.eval()
    for layer in discriminator.layers:
        if hasattr(layer, "parametrizations"):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)
