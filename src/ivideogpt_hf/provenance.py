"""What made a result, and when: the command, the day, and the versions of packages."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("ivideogpt-hf", "torch", "transformers", "diffusers", "datasets", "safetensors")


def describe_command() -> str:
    """The command line that runs."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_date() -> str:
    """The day, by UTC, as in ``2026-01-31``."""
    return datetime.now(UTC).date().isoformat()


def describe_versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that results depend on, and of ``packages``."""
    return {name: version(name) for name in (*PACKAGES, *packages)}
