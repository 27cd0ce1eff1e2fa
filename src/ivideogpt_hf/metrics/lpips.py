"""LPIPS, the perceptual distance of Zhang et al. (2018), version 0.1 on VGG16: a loss in training, a metric afterwards.

It is written here because the `lpips` package needs torchvision, for the network alone. The weights are not part of
this package. The docstring of `lpips_weights` says where they are looked for.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..hub.download import find_file

WEIGHTS_VARIABLE = "IVIDEOGPT_LPIPS_WEIGHTS"
# Channels of VGG16's convolutions up to relu5_3; features are read before each "pool", and at the end.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Distance of images in the feature space of VGG16. Its weights never train, and it is always in eval mode.

    Parameter names are torchvision's (``features.N.weight`` and ``features.N.bias``) and those of the LPIPS heads
    (``lin0.weight`` to ``lin4.weight``).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends = []
        channels = 3
        for stage, widths in enumerate(VGG16_STAGES):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        for stage, widths in enumerate(VGG16_STAGES):
            setattr(self, f"lin{stage}", nn.Conv2d(widths[-1], 1, 1, bias=False))
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    @classmethod
    def from_weights(cls, weights: str | os.PathLike[str] | None = None) -> LPIPS:
        """Load the network with the weights that `lpips_weights` finds.

        Raises:
            OSError: if there are no weights, or they are not those of LPIPS on VGG16.
        """
        model = cls()
        state = lpips_weights(weights)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            name = os.fspath(weights or os.environ.get(WEIGHTS_VARIABLE, "")) or "of the package lpips"
            raise OSError(f"the LPIPS weights {name} are not those of LPIPS on VGG16: {error}") from error
        return model

    def features_of(self, images: Tensor) -> list[Tensor]:
        """The five feature maps of images (N, 3, H, W) in [0, 1], each of unit length along its channels."""
        x = (2 * images - 1 - self.shift) / self.scale
        maps, start = [], 0
        for end in self.ends:
            x = self.features[start:end](x)
            maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
            start = end
        return maps

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distance of each image from its target.

        Args:
            images: images (N, 3, H, W) float in [0, 1], of at least 16 pixels each side.
            targets: images of the same shape.

        Returns:
            Distances (N,) float, at least 0.
        """
        with torch.no_grad():
            expected = self.features_of(targets)
        distance = images.new_zeros(len(images))
        for stage, (features, target) in enumerate(zip(self.features_of(images), expected, strict=True)):
            weighted = F.conv2d((features - target).square(), getattr(self, f"lin{stage}").weight)
            distance = distance + weighted.mean((1, 2, 3))
        return distance


def lpips_weights(weights: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Find the weights of LPIPS in the first of these places that is given. If it fails, no other one is tried:

    1. ``weights``: a safetensors file, or ``owner/name/file.safetensors`` on the Hub;
    2. the environment variable ``IVIDEOGPT_LPIPS_WEIGHTS``, which may hold the same;
    3. the package `lpips` with torchvision, where both are installed.

    Raises:
        OSError: if no place is given, or the weights cannot be read.
    """
    name = os.fspath(weights or os.environ.get(WEIGHTS_VARIABLE, ""))
    if name:
        try:
            return load_file(find_file(name))
        except SafetensorError as error:
            raise OSError(f"the LPIPS weights {name} are no readable safetensors file: {error}") from error
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        raise OSError(
            f"LPIPS weights are missing. Set lpips_weights or {WEIGHTS_VARIABLE} to a safetensors file, or to "
            f"owner/name/file.safetensors on the Hub, or install the packages lpips and torchvision ({error})"
        ) from error
    return _from_package(lpips.LPIPS(net="vgg", verbose=False).state_dict())


def _from_package(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the `lpips` package, such as ``net.slice1.0.weight`` and ``lin0.model.1.weight``."""
    weights = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "net":
            weights[".".join(["features", *parts[2:]])] = value
        elif parts[0].startswith("lin") and parts[0] != "lins":
            weights[f"{parts[0]}.weight"] = value
    return weights
