"""What a checkpoint's record of its training, ``training.json``, tells its card."""

from __future__ import annotations

from typing import Any

from ..checkpoints.layout import EMBEDDED
from .text import counted


def base_models_of(training: dict[str, Any]) -> list[str]:
    """The Hub ids that the training began from."""
    return [name for name in training.get("origins", []) if name not in EMBEDDED]


def sources_of(training: dict[str, Any]) -> list[dict[str, str]]:
    """The data sets of the training, each with a "name", its "path" in the training, and its "id" where it is on the
    Hub."""
    data = training.get("data")
    sources = data.get("data") if isinstance(data, dict) else data  # of tokens, the record of their making
    on_hub = training.get("hub_datasets", [])
    return [
        {"name": source["name"], "path": source["path"]} | ({"id": source["path"]} if source["path"] in on_hub else {})
        for source in sources or []
    ]


def origins_sentence(training: dict[str, Any]) -> str | None:
    """What the training began from, as a sentence; None where its record does not name anything that others know."""
    names = [f"[{name}](https://huggingface.co/{name})" for name in base_models_of(training)]
    embedded = [name for name in training.get("origins", []) if name in EMBEDDED]
    names += [f'the checkpoint "{name}" that is embedded in ivideogpt-hf' for name in embedded]
    return f"The training began from {' and '.join(names)}." if names else None


def updates_sentence(training: dict[str, Any]) -> str | None:
    """How long the training was, as a sentence; None where there is no record."""
    arguments = training.get("arguments", {})
    if not {"num_updates", "batch_size"} <= set(arguments):
        return None
    updates = f"{arguments['num_updates']:,} updates of {counted(arguments['batch_size'], 'clip')}"
    return f"{updates}; `training.json` has every argument."
