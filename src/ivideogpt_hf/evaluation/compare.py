"""Several evaluations side by side, with what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import FVD, REPEAT
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
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} is not what `ivideogpt evaluate` writes: {reason}") from error
    return results


def _check_results(results: Mapping[str, Any]) -> None:
    """Look at all that a comparison shows."""
    for key in ("protocol", "data", "seed", "checkpoint", "num_clips", "num_samples"):
        results[key]
    for rule in (PREDICTED_ONLY, WITH_CONTEXT):
        for value in results.get("frechet", {}).values():
            float(value[rule])
        for metric in _shown(results):
            for key in ("value", "low", "high"):
                float(results["best_of_samples"][rule][metric][key])
    for metric in _shown(results):
        float(results["mean"][REPEAT][metric])


def _shown(results: Mapping[str, Any]) -> list[str]:
    """The metrics that are shown, of those that were measured."""
    return [metric for metric in SHOWN_METRICS if metric in results["best_of_samples"][PREDICTED_ONLY]]


def comparison(runs: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table, each with a name, numbers of clips and samples, the rule of counting frames, and metrics.

    A run's metrics are those of the best of its samples, each with its interval of 95 %. More samples give better ones:
    compare runs with as many. The first row repeats the last context frame.

    Args:
        runs: results of evaluations with one protocol and the same data.
        published: rows with "name" and some of "fvd", "psnr", "ssim" and "lpips". They count context frames.

    Raises:
        ValueError: without runs, or if they were not measured on the same clips and with the same weights of LPIPS.
    """
    if not runs:
        raise ValueError("there is nothing to compare: name at least one folder of an evaluation")
    first = runs[0]
    for run in runs[1:]:
        for key in ("protocol", "data", "seed"):
            if run[key] != first[key]:
                raise ValueError(
                    f"{first['checkpoint']} and {run['checkpoint']} were measured with different {key}: "
                    f"{_difference(first[key], run[key])}"
                )
        weights = (first.get("lpips"), run.get("lpips"))
        if None not in weights and weights[0] != weights[1]:
            raise ValueError(
                f"{first['checkpoint']} and {run['checkpoint']} were measured with different weights of LPIPS: "
                f"evaluate one of them anew with the other's --lpips-weights"
            )
    repeated = {metric: first["mean"][REPEAT][metric] for metric in _shown(first)}
    rows = [{"name": REPEAT, "clips x samples": f"{first['num_clips']} x 1", "counted": PREDICTED_ONLY} | repeated]
    for run in runs:
        for rule in (PREDICTED_ONLY, WITH_CONTEXT):
            distances = {name: value[rule] for name, value in run.get("frechet", {}).items()}
            best = {metric: _with_interval(run["best_of_samples"][rule][metric]) for metric in _shown(run)}
            counts = f"{run['num_clips']} x best of {run['num_samples']}"
            rows.append({"name": run["checkpoint"], "clips x samples": counts, "counted": rule} | distances | best)
    for row in published:
        values = {FVD if name == "fvd" else name: value for name, value in row.items()}
        rows.append({"clips x samples": "published", "counted": WITH_CONTEXT} | values)
    return rows


def _difference(first: Any, other: Any) -> str:
    """What differs, with both values; of the data, the sources that only one has."""
    if isinstance(first, dict) and isinstance(other, dict):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        return "; ".join(f"{name} {first.get(name)!r} against {other.get(name)!r}" for name in names)
    if isinstance(first, list) and isinstance(other, list):
        pairs = [_difference(*pair) for pair in zip(first, other, strict=False) if pair[0] != pair[1]]
        if len(first) != len(other):
            pairs.append(f"{len(first)} sources against {len(other)}")
        return "; ".join(pairs)
    return f"{first!r} against {other!r}"


def _with_interval(best: Mapping[str, float]) -> str:
    return f"{best['value']:.4g} [{best['low']:.4g}, {best['high']:.4g}]"
