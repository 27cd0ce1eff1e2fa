"""Actions from files and arrays."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import read_numpy

ACTION_KEYS = ("actions", "action")


def read_actions(source: Any) -> Tensor:
    """Read actions.

    Args:
        source: array, tensor or nested list (T, A), or a file: npy, npz (under "actions" or "action"), csv (one row per
            step; a first line without any number is a header) or json (a list of lists).

    Returns:
        Actions (T, A) float32.

    Raises:
        OSError: if a file is missing or corrupt.
        ValueError: if the content is no table of finite numbers.
    """
    name = "actions"
    if isinstance(source, (str, os.PathLike)):
        name, source = str(source), _read_action_file(Path(source))
    if isinstance(source, Tensor):
        source = source.detach().cpu().float()
    try:
        actions = torch.from_numpy(np.array(source, dtype=np.float32))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must hold a table of numbers with rows of one width: {error}") from error
    if actions.ndim != 2 or 0 in actions.shape:
        raise ValueError(f"{name} must have shape (T, A), got {tuple(actions.shape)}")
    invalid_rows = torch.isfinite(actions).all(dim=1).logical_not().nonzero()
    if len(invalid_rows):
        raise ValueError(f"{name} contain NaN or infinite values, first in row {invalid_rows[0].item()}")
    return actions


def _read_action_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        return read_numpy(path, ACTION_KEYS)
    if suffix not in (".csv", ".json"):
        raise ValueError(f"actions are read from npy, npz, csv or json, not from {path.name}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a csv with a byte order mark
        return json.loads(text) if suffix == ".json" else _parse_csv(text)
    except (ValueError, csv.Error) as error:
        raise OSError(f"{path} is not valid {suffix[1:].upper()}: {error}") from error


def _parse_csv(text: str) -> list[list[str]]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    return rows if rows and any(map(_is_number, rows[0])) else rows[1:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_action_names(path: Path) -> list[str] | None:
    """The first line of a csv file of actions, where it is a header; otherwise None."""
    if path.suffix.lower() != ".csv":
        return None
    with path.open(encoding="utf-8-sig", newline="") as lines:
        first = next(csv.reader(lines), [])
    return [name.strip() for name in first] if first and not any(map(_is_number, first)) else None
