"""LPIPS: the distance, its weights, and where they are looked for."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ivideogpt_hf.metrics.lpips import LPIPS, WEIGHTS_VARIABLE, lpips_weights


def images(count, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lpips():
    torch.manual_seed(0)
    return LPIPS()


@pytest.fixture(scope="module")
def weights(lpips, tmp_path_factory):
    """A file with random weights."""
    file = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(lpips.state_dict(), file)
    return file


def lpips_by_formula(weights, first, second):
    """The distance as Zhang et al. (2018) and version 0.1 of their package define it, on VGG16's layer numbers."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    x, y = ((2 * pixels - 1 - shift) / scale for pixels in (first, second))
    total = torch.zeros(len(first))
    for stage, convolutions in enumerate([(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]):
        if stage:
            x, y = (F.max_pool2d(features, 2, 2) for features in (x, y))
        for number in convolutions:
            kernel, bias = weights[f"features.{number}.weight"], weights[f"features.{number}.bias"]
            x, y = (F.relu(F.conv2d(features, kernel, bias, padding=1)) for features in (x, y))
        unit_x, unit_y = (features / (torch.sqrt((features**2).sum(1, keepdim=True)) + 1e-10) for features in (x, y))
        total += F.conv2d((unit_x - unit_y) ** 2, weights[f"lin{stage}.weight"]).mean([2, 3])[:, 0]
    return total


def test_equal_images_have_no_distance(lpips):
    assert (lpips(images(2), images(2)) == 0).all()


def test_each_image_has_its_own_distance(lpips):
    first, second = images(3), images(3, seed=1)
    together = lpips(first, second)
    assert together.shape == (3,)
    torch.testing.assert_close(together, torch.cat([lpips(first[i : i + 1], second[i : i + 1]) for i in range(3)]))


def test_images_of_sixteen_pixels_are_large_enough(lpips):
    assert lpips(images(1, size=16), images(1, size=16, seed=1)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_plain_images_give_finite_gradients(shared, value):
    """Where all features of a pixel are zero, the length to which they are scaled has no derivative."""
    lpips = LPIPS.from_weights(shared("weights/lpips_vgg16.safetensors"))
    plain = torch.full((1, 3, 16, 16), value, requires_grad=True)
    lpips(plain, images(1, size=16)).sum().backward()
    assert plain.grad.isfinite().all()


def test_gradient_flows_to_the_images_and_to_nothing_else(lpips):
    first, second = images(1).requires_grad_(), images(1, seed=1).requires_grad_()
    lpips(first, second).sum().backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in lpips.parameters())


def test_it_equals_the_formula(shared):
    file = shared("weights/lpips_vgg16.safetensors")
    lpips, weights = LPIPS.from_weights(file), load_file(file)
    first = images(4, size=64)
    second = torch.cat([images(2, size=64, seed=1), first[2:] * 0.8 + 0.1])
    expected = lpips_by_formula(weights, first, second)
    assert expected.min() > 0.01
    torch.testing.assert_close(lpips(first, second), expected, atol=1e-5, rtol=0)


def test_random_weights_equal_the_formula(lpips):
    first, second = images(2), images(2, seed=1)
    torch.testing.assert_close(lpips(first, second), lpips_by_formula(lpips.state_dict(), first, second))


def test_weights_are_found_by_name(weights, lpips, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, "elsewhere.safetensors")
    loaded = LPIPS.from_weights(weights)
    assert all(value.equal(lpips.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_weights_are_found_by_the_environment(weights, lpips, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights))
    assert LPIPS.from_weights().features[0].weight.equal(lpips.features[0].weight)


@pytest.mark.parametrize("by_environment", [False, True], ids=["argument", "environment"])
@pytest.mark.parametrize("name", ["missing.safetensors", "folder/missing.safetensors"])
def test_a_missing_file_is_named(name, by_environment, monkeypatch):
    if by_environment:
        monkeypatch.setenv(WEIGHTS_VARIABLE, name)
    with pytest.raises(OSError, match=name):
        lpips_weights(None if by_environment else name)


def test_a_missing_file_with_a_whole_path_is_named(tmp_path):
    with pytest.raises(OSError, match=r"missing\.safetensors"):
        lpips_weights(tmp_path / "missing.safetensors")


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"PK\x03\x04 no safetensors at all")
    with pytest.raises(OSError, match=r"other\.safetensors are no readable safetensors file"):
        lpips_weights(tmp_path / "other.safetensors")


@pytest.mark.parametrize("change", ["other names", "other shapes"])
def test_weights_of_another_network_are_named(tmp_path, lpips, change):
    state = lpips.state_dict()
    if change == "other names":
        state = {f"net.{name}": value for name, value in state.items()}
    else:
        state["lin0.weight"] = torch.zeros(1, 8, 1, 1)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(OSError, match=r"other\.safetensors"):
        LPIPS.from_weights(tmp_path / "other.safetensors")


def test_without_any_weights_the_error_says_how_to_get_them(monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    if importlib.util.find_spec("lpips") is not None:
        monkeypatch.setitem(sys.modules, "lpips", None)  # as if it were not installed
    with pytest.raises(OSError, match=rf"lpips_weights.*{WEIGHTS_VARIABLE}.*install the packages lpips"):
        lpips_weights()
