"""What a checkpoint says of its making: arguments, data, versions. A run that goes on is known by it to be the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoints.layout import TRAINING_FILE
from ..checkpoints.origins import origins_of
from ..provenance import describe_command, describe_versions
from ..run_folder import make_folder, write_json

# Arguments that may be others when a run goes on: how long it is, where and on what it runs, what it reports.
MAY_CHANGE = frozenset(
    {
        *("num_updates", "output_dir", "resume", "run_name", "tracker", "push_to_hub", "hub_private"),
        *("num_processes", "num_workers", "micro_batch_size", "compile", "gradient_checkpointing"),
        *("log_every", "validate_every", "sample_every", "sample_frames", "save_every", "keep_checkpoints"),
    }
)
# Arguments that name files. The files may lie elsewhere: what is in them is compared.
NAMES_OF_FILES = frozenset({"data", "data_root", "tokens", "vq_model", "transformer", "lpips_weights"})
# What describes a source beside its settings. The loader compares the files themselves.
NAMES_OF_DATA = frozenset({"path", "name", "fingerprint", "num_episodes", "num_windows"})
DIFFERENCES_SHOWN = 5


def describe_training(
    arguments: tuple[Any, ...], data: list[dict[str, Any]] | dict[str, Any], **parts: Any
) -> dict[str, Any]:
    """All that can be said before a training: its command, every argument, the data, the versions, and what it began
    from.

    Args:
        arguments: dataclasses of arguments, as `parse` fills them.
        data: description of the data, as `SegmentDataset.describe` gives it; of tokens, the record of their making.
        parts: descriptions of the networks that take part, as JSON, by their names in the record.
    """
    settings: dict[str, Any] = {}
    for part in arguments:
        settings |= asdict(part)
    return {
        "command": describe_command(),
        "arguments": settings,
        "data": data,
        "origins": origins_of(settings.get(name) for name in ("vq_model", "transformer")),
        "hub_datasets": _hub_datasets(data),
        **parts,
        "versions": describe_versions("accelerate"),
    }


def _hub_datasets(data: list[dict[str, Any]] | dict[str, Any]) -> list[str]:
    """The ids of the data sets that are on the Hub; others are folders here."""
    if isinstance(data, dict):
        return data.get("hub_datasets", [])
    return [source["path"] for source in data if not Path(source["path"]).exists()]


def resumed_training(before: dict[str, Any], training: dict[str, Any], checkpoint: Path, update: int) -> dict[str, Any]:
    """The record of a training that goes on from a checkpoint.

    Args:
        before: record in the checkpoint.
        training: record of the training that goes on, as `describe_training` gives it.
        checkpoint: folder of the checkpoint, for errors.
        update: number of updates that the checkpoint has done.

    Returns:
        The record of the training, whose "resumed" lists what was otherwise before some update.

    Raises:
        ValueError: if anything that shapes the result differs.
    """
    training = json.loads(json.dumps(training, default=str))
    old, new = _shaping_settings(before), _shaping_settings(training)
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    # What an earlier version did not have or note is not compared. Of a model, only what is not the default is noted.
    names = [name for name in names if name in old or (name.startswith("model: ") and "model" in before)]
    names = [name for name in names if name in new or not name.startswith("arguments: ")]  # nor what is no more
    if names:
        shown = [f"{name} is {_written(old.get(name))} there, {_written(new.get(name))} here" for name in names]
        shown = [*shown[:DIFFERENCES_SHOWN], *(["..."] if len(names) > DIFFERENCES_SHOWN else [])]
        shown = [text.removeprefix("arguments: ") for text in shown]
        raise ValueError(
            f"{checkpoint} is of another run: {'; '.join(shown)}. Give what was given then, or start again in another "
            f"output_dir"
        )
    changed = {
        name: before["arguments"].get(name)
        for name, value in training["arguments"].items()
        if name != "resume" and before["arguments"].get(name) != value
    }
    versions = {name: value for name, value in before["versions"].items() if training["versions"].get(name) != value}
    history = list(before.get("resumed", []))
    if changed or versions:
        history.append({"update": update, "arguments_before": changed, "versions_before": versions})
    return training | {"resumed": history}


def _shaping_settings(training: dict[str, Any]) -> dict[str, Any]:
    """All that shapes the result, by names such as "arguments: learning_rate"."""
    settings = {
        f"arguments: {name}": value
        for name, value in training["arguments"].items()
        if name not in MAY_CHANGE | NAMES_OF_FILES
    }
    for part, content in training.items():
        if part == "model":
            settings |= {f"{part}: {name}": value for name, value in content.items()}
        elif part.endswith("_hash"):
            settings[part] = content
    if isinstance(training["data"], list):  # of tokens, the loader knows all
        for number, source in enumerate(training["data"], start=1):
            named = {name: value for name, value in source.items() if name not in NAMES_OF_DATA}
            settings |= {f"data: source {number}, {name}": value for name, value in named.items()}
    return settings


def _written(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_training(folder: Path, training: dict[str, Any]) -> None:
    """Write what `describe_training` gave into a folder."""
    make_folder(folder)
    write_json(folder / TRAINING_FILE, training)
