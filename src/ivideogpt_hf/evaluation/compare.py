"""Several evaluations side by side, with what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import FVD
from ..run_folder import RESULTS_FILE, read_object
from .measures import PREDICTED_ONLY, WITH_CONTEXT
from .rendering import SHOWN_METRICS


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results of an evaluation.

    Args:
        folder: folder of the evaluation, or a copy of its results.json.

    Raises:
        FileNotFoundError: if there is no evaluation, or it is not finished.
        OSError, ValueError: if the file holds something else.
    """
    file = folder if folder.suffix == ".json" else folder / RESULTS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no finished evaluation ({RESULTS_FILE} is missing)")
    results = read_object(file)
    try:
        _check_results(results)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{file} is not what `ivideogpt evaluate` writes: {error!r}") from error
    return results


def _check_results(results: Mapping[str, Any]) -> None:
    """Look at all that a comparison shows."""
    for key in ("protocol", "data", "seed", "checkpoint", "num_clips", "num_samples"):
        results[key]
    for rule in (PREDICTED_ONLY, WITH_CONTEXT):
        for value in results.get("frechet", {}).values():
            float(value[rule])
        for metric in SHOWN_METRICS:
            float(results["best_of_samples"][rule][metric]["value"])


def comparison(runs: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table, each with a name, numbers of clips and samples, the rule of counting frames, and metrics.

    Args:
        runs: results of evaluations with one protocol and the same data.
        published: rows with "name" and some of "fvd", "psnr", "ssim" and "lpips". They count context frames.

    Raises:
        ValueError: without runs, or if they were not measured on the same clips.
    """
    if not runs:
        raise ValueError("there is nothing to compare: name at least one folder of an evaluation")
    first = runs[0]
    for run in runs[1:]:
        for key in ("protocol", "data", "seed"):
            if run[key] != first[key]:
                raise ValueError(f"{first['checkpoint']} and {run['checkpoint']} were measured with different {key}")
    rows = []
    for run in runs:
        for rule in (PREDICTED_ONLY, WITH_CONTEXT):
            distances = {name: value[rule] for name, value in run.get("frechet", {}).items()}
            best = {metric: run["best_of_samples"][rule][metric]["value"] for metric in SHOWN_METRICS}
            counts = f"{run['num_clips']} x {run['num_samples']}"
            rows.append({"name": run["checkpoint"], "clips x samples": counts, "counted": rule} | distances | best)
    for row in published:
        values = {FVD if name == "fvd" else name: value for name, value in row.items()}
        rows.append({"clips x samples": "published", "counted": WITH_CONTEXT} | values)
    return rows


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown, with columns in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: name in SHOWN_METRICS)  # the metrics last, the other columns as they come
    cells = [columns] + [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
