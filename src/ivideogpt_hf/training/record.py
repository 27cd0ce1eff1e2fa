"""What a checkpoint says of its making: arguments, data, versions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..provenance import describe_command, describe_versions
from ..run_folder import write_json

TRAINING_FILE = "training.json"


def describe_training(arguments: tuple[Any, ...], data: list[dict[str, Any]]) -> dict[str, Any]:
    """All that can be said before a training: its command, every argument, the data, the versions.

    Args:
        arguments: dataclasses of arguments, as `parse` fills them.
        data: description of the data, as `SegmentDataset.describe` gives it.
    """
    settings: dict[str, Any] = {}
    for part in arguments:
        settings |= asdict(part)
    return {
        "command": describe_command(),
        "arguments": settings,
        "data": data,
        "versions": describe_versions("accelerate"),
    }


def write_training(folder: Path, training: dict[str, Any]) -> None:
    """Write what `describe_training` gave into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TRAINING_FILE, training)
