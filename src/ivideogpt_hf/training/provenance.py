"""What a checkpoint says of its making: arguments, data, versions."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..data.dataset import SegmentDataset

TRAINING_FILE = "training.json"
PACKAGES = ("ivideogpt-hf", "torch", "transformers", "diffusers", "accelerate", "datasets", "safetensors")


def describe_data(dataset: SegmentDataset) -> list[dict[str, Any]]:
    """Each source with its settings, its size and a fingerprint of its content."""
    described = []
    for source in dataset.sources:
        settings = asdict(source.spec)
        sizes = {"num_episodes": len(source.store.num_frames), "num_windows": source.windows.num_windows}
        described.append(settings | sizes | {"fingerprint": source.store.fingerprint()})
    return described


def describe_training(arguments: tuple[Any, ...], data: list[dict[str, Any]]) -> dict[str, Any]:
    """All that can be said before a training: its command, every resolved argument, the data, the versions."""
    resolved: dict[str, Any] = {}
    for part in arguments:
        resolved |= asdict(part)
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "arguments": resolved,
        "data": data,
        "versions": {name: version(name) for name in PACKAGES},
    }


def write_training(folder: Path, training: dict[str, Any]) -> None:
    """Put it into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
