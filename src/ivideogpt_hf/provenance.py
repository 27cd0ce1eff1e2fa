"""What made a result, and when: the command, the day, and the versions of packages."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("ivideogpt-hf", "torch", "transformers", "diffusers", "datasets", "safetensors")

# The option whose value is a secret. The command line takes its beginnings, too.
TOKEN_OPTION, HIDDEN = "--token", "HIDDEN"


def describe_command() -> str:
    """The command line that runs, without the token in it: it is kept, and published."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    for index, word in enumerate(words):
        option, is_joined, _ = word.partition("=")
        if len(option) <= len("--") or not TOKEN_OPTION.startswith(option):
            continue
        if is_joined:
            words[index] = f"{option}={HIDDEN}"
        elif index + 1 < len(words):
            words[index + 1] = HIDDEN
    return shlex.join(words)


def describe_date() -> str:
    """The day, by UTC, as in ``2026-01-31``."""
    return datetime.now(UTC).date().isoformat()


def describe_versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that results depend on, and of ``packages``."""
    return {name: version(name) for name in (*PACKAGES, *packages)}
