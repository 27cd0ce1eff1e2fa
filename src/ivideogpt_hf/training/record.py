"""What a checkpoint says of its making: arguments, data, versions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..provenance import describe_command, describe_versions
from ..run_folder import write_json

TRAINING_FILE = "training.json"


def describe_training(arguments: tuple[Any, ...], data: list[dict[str, Any]]) -> dict[str, Any]:
    """All that can be said before a training: its command, every resolved argument, the data, the versions."""
    resolved: dict[str, Any] = {}
    for part in arguments:
        resolved |= asdict(part)
    return {
        "command": describe_command(),
        "arguments": resolved,
        "data": data,
        "versions": describe_versions("accelerate"),
    }


def write_training(folder: Path, training: dict[str, Any]) -> None:
    """Put it into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TRAINING_FILE, training)
