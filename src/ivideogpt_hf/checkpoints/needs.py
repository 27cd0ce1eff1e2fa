"""What a config asks for, compared with what the files of weights hold, before memory is taken for either."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from ..run_folder import naming
from .layout import CONFIG_FILE

PACKED_PER_BYTE = 2  # weights of 4 bits
LAYERS = ("num_hidden_layers", "layers_per_block")  # numbers of layers in configs
Shapes = Mapping[str, tuple[int, ...]]


def check_needs(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, *, is_packed: bool = False
) -> None:
    """Refuse a network with more weights than a folder's files hold. A smaller one is loaded, which tells what differs.

    Args:
        model_class: class of the network.
        config: its config.
        folder: folder with its safetensors files, which can be read.
        is_packed: whether several weights may be in one number of the files, whose shapes then tell nothing.

    Raises:
        ValueError: naming what the files lack, or the config, where no network can be made of it.
    """
    held = _shapes_in(folder)
    num_layers = max(getattr(config, name, 0) for name in LAYERS)
    if num_layers > len(held):  # a network without memory takes time, too
        raise ValueError(
            f"the weights in {folder} do not fit: the config asks for {num_layers} layers, they are {len(held)}"
        )
    with naming(folder / CONFIG_FILE), torch.device("meta"):
        network = model_class(config)
    expected = {name: tuple(weight.shape) for name, weight in network.named_parameters()}  # shared ones once
    num_weights = sum(map(prod, expected.values()))
    if is_packed:
        num_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if num_weights > PACKED_PER_BYTE * num_bytes:
            raise ValueError(
                f"the weights in {folder} do not fit: the config asks for {num_weights}, and the files have "
                f"{num_bytes} bytes"
            )
    elif num_weights > sum(map(prod, held.values())):
        raise ValueError(f"the weights in {folder} do not fit: " + "; ".join(problems_of(expected, held)))


def problems_of(expected: Shapes, held: Shapes) -> list[str]:
    """What differs between the shapes of two sets of weights, by their names."""
    missing = [f"missing: {name}" for name in sorted(set(expected) - set(held))]
    unused = [f"not used by this model: {name}" for name in sorted(set(held) - set(expected))]
    wrong = [
        f"wrong shape: {name} is {held[name]}, the config asks for {expected[name]}"
        for name in sorted(set(expected) & set(held))
        if expected[name] != held[name]
    ]
    return missing + unused + wrong


def _shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as content:
            names: Any = content.keys()
            shapes |= {name: tuple(content.get_slice(name).get_shape()) for name in names}
    return shapes
