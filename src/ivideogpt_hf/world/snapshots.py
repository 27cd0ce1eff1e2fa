"""Files of a `WorldState`, and what their parts must be for each other, whoever wrote them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..run_folder import parse_json, write_aside

# Fields of a `WorldState` that hold one number per row.
PER_ROW = ("context_of_row", "num_frames", "num_steps", "streams")


def write_tensors(tensors: Mapping[str, Tensor], file: str | os.PathLike[str], header: Any = None) -> None:
    """Write tensors, and a header as JSON, to a safetensors file.

    Raises:
        OSError: if it cannot be written; a file that was there is then unchanged.
    """
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with write_aside(file) as aside:
            save_file(content, aside, {"state": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise OSError(f"the state could not be written to {file}: {error}") from error


def read_tensors(file: str | os.PathLike[str], device: torch.device | str) -> tuple[Any, dict[str, Tensor]]:
    """The header and the tensors of a file by `write_tensors`.

    Raises:
        OSError: if there is no such file, or it is damaged.
        ValueError: if a number is not finite.
    """
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            header = parse_json((opened.metadata() or {}).get("state", "null"), f"the header of {file}")
            # Copied, since kernels round differently where memory does not begin at a multiple of 64 bytes, and in the
            # file it begins anywhere.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise OSError(f"the snapshot {file} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{file} is no snapshot of a WorldState: {name} holds something else than finite numbers")
    return header, tensors


def problem_of_snapshot(header: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
    """What is wrong with the content of a snapshot, or None.

    Args:
        header: content of its header.
        tensors: its tensors, by name.
    """
    missing = [name for name in PER_ROW if not _are_counts(header.get(name))]
    if missing:
        return f"{missing[0]} must be a list of whole numbers in [0, 2**63), got {header.get(missing[0])!r:.60}"
    num_rows, num_frames = len(header["num_frames"]), max(header["num_frames"], default=0)
    if not num_rows or any(len(header[name]) != num_rows for name in PER_ROW):
        return f"it states different numbers of rows: {[len(header[name]) for name in PER_ROW]}"
    needed = ["frames", "last_tokens", "prefix", "tokens", *(["tail"] if num_frames else [])]
    num_memories = sum(name.startswith("memory.") for name in tensors) // 2
    pairs = [f"memory.{number}.{part}" for number in range(num_memories) for part in ("key", "value")]
    if set(tensors) != {*needed, *pairs}:
        different = sorted(set(tensors) ^ {*needed, *pairs})
        return f"its tensors are not those of a state, which differ in {', '.join(different)[:80]}"
    if tensors["prefix"].ndim != 6 or tensors["tokens"].ndim != 3 or tensors["frames"].ndim != 5:
        return "prefix, tokens or frames do not have 6, 3 and 5 dimensions"
    layers, two, num_contexts, heads, _, head_dim = tensors["prefix"].shape
    block_length, floating = tensors["tokens"].shape[2] + 1, tensors["prefix"].dtype
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "frames": (torch.uint8, (num_contexts, *tensors["frames"].shape[1:])),
        "last_tokens": (torch.int64, (num_contexts,)),
        "tokens": (torch.int64, (num_rows, num_frames, block_length - 1)),
        "tail": (floating, (layers, 2, num_rows, heads, num_frames * block_length, head_dim)),
    }
    for name in needed:
        dtype, shape = expected.get(name, (floating, tuple(tensors["prefix"].shape)))
        if (tensors[name].dtype, tensors[name].shape) != (dtype, shape):
            got = f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            return f"{name} must be {dtype} {shape}, by the header and the other tensors, it is {got}"
    if two != 2 or max(header["context_of_row"]) >= num_contexts:
        return f"its rows continue contexts up to {max(header['context_of_row'])}, of {num_contexts}"
    memories = [tensors[name] for name in pairs]
    if any(memory.ndim != 4 or len(memory) != num_contexts for memory in memories):
        return f"the keys and values of the context are not 4-dimensional, for {num_contexts} contexts"
    if len({memory.dtype for memory in memories}) > 1:
        return "the keys and values of the context have different dtypes"
    if not all(tensor.is_floating_point() for tensor in (tensors["prefix"], *memories)):
        return "prefix, or keys and values of the context, are no floating-point numbers"
    return None


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
