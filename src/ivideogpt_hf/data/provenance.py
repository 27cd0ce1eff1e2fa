"""What made a result: command, data, versions."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .dataset import SegmentDataset

PACKAGES = ("ivideogpt-hf", "torch", "transformers", "diffusers", "datasets", "safetensors")


def describe_data(dataset: SegmentDataset) -> list[dict[str, Any]]:
    """Each source with its settings, its size and a fingerprint of its content."""
    described = []
    for source in dataset.sources:
        settings = asdict(source.spec)
        sizes = {"num_episodes": len(source.store.num_frames), "num_windows": source.windows.num_windows}
        described.append(settings | sizes | {"fingerprint": source.store.fingerprint()})
    return described


def describe_command() -> str:
    """The command line that runs."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_versions(*more: str) -> dict[str, str]:
    """Of the packages that results depend on, and of ``more``."""
    return {name: version(name) for name in (*PACKAGES, *more)}
