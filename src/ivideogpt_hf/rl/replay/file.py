"""The file of a replay buffer: arrays and JSON, in which nothing can be run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...run_folder import parse_json, write_aside

# The key of the JSON text.
RECORD = "record"


def write_buffer(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write a safetensors file. After a kill, it is what it was before, or complete."""
    with write_aside(Path(path)) as aside:
        save_file(dict(arrays), aside, metadata={RECORD: json.dumps(record)})


def read_buffer(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a file by name, and under "record" the object.

    Raises:
        OSError: if the file cannot be read, or holds something else.
    """
    try:
        with safe_open(os.fspath(path), "np") as file:
            metadata = file.metadata() or {}
            state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be read as a safetensors file: {error}") from error
    record = parse_json(metadata.get(RECORD, "null"), str(path))
    if not isinstance(record, dict):
        raise OSError(f"{path} holds no replay buffer")
    return state | {RECORD: record}


def check_table(name: str, rows: Any, *, width: int) -> list[list[int]]:
    """Rows of whole numbers, as a record should hold them.

    Raises:
        ValueError: if they are something else.
    """
    is_table = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == width and all(type(number) is int and number >= -1 for number in row)
        for row in rows
    )
    if not is_table:
        raise ValueError(f"{name} of a saved buffer must be rows of {width} whole numbers, got {repr(rows)[:80]}")
    return rows
