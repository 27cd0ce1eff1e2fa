"""What checkpoints a training began from: noted where their names still mean something, and handed on from run to run.

A folder's name says nothing on another machine, and "my/folder" looks like an id of the Hub. So a training notes which
of its names were ids, and a folder that a training wrote hands on what stands in its own record.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..run_folder import read_object
from .layout import TRAINING_FILE, find_embedded


def read_training(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of its training; empty where it says nothing.

    Raises:
        OSError: if its file is not valid JSON.
    """
    file = Path(folder) / TRAINING_FILE
    return read_object(file) if file.is_file() else {}


def is_own_folder(name: str) -> bool:
    """Whether a checkpoint is named by a folder of this machine, whose name means nothing elsewhere."""
    return os.path.isdir(name) and find_embedded(name) is None


def origins_of(checkpoints: Iterable[str | None]) -> list[str]:
    """The published checkpoints that a training began from.

    Args:
        checkpoints: folders, Hub ids or names of embedded checkpoints, as they are given to the training; None:
            a new network.

    Returns:
        Hub ids and names of embedded checkpoints, each once.
    """
    names = []
    for name in checkpoints:
        if name is None:
            continue
        if is_own_folder(name):
            names += read_training(name).get("origins", [])
        else:
            names.append(name)
    return list(dict.fromkeys(names))
