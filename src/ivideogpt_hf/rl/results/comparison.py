"""Runs of agents compared: success against real steps over seeds, with intervals, as numbers, tables and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.rendering import CURVES_FILE
from ...evaluation.tables import as_markdown
from ...extras import require_packages
from ...run_folder import check_folder, make_folder, write_aside, write_json, write_text
from .finished_runs import NUM_LAST, PPO_NAME, Group, Run, group_runs, read_run
from .statistics import DIGITS, NUM_RESAMPLES, bootstrap_intervals, interquartile_mean, steps_to_reach

COMPARISON_FILE, TABLE_FILE = "comparison.json", "table.md"
THRESHOLDS = (0.5, 0.8)


def compare_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Compare runs of agents, as JSON.

    Returns:
        "groups": for each group its environment, name, settings, seeds and folders; "success_at_end" and "area", each
        with "value", "low" and "high"; "steps_to_50" and "steps_to_80" of the curve, None where it never gets there;
        these and those of the curve are real steps, but imagined ones of the agent "ppo", which "notes" tell;
        "imagined_steps" and "seconds", means over the runs; and the "curve".
        "all_environments": the first two scores of all groups with the same name and settings in several environments,
        each environment a stratum. Bounds are None for a single run. "num_last" and "num_resamples" tell how these were
        computed, and "notes" what a reader should know.

    Raises:
        ImportError: without scipy; names the extra.
        ValueError: if the runs cannot be compared, see `group_runs`.
    """
    require_packages("scipy", purpose="a comparison of agents")
    groups = group_runs(runs)
    notes = [
        f"{group.runs[0].environment}: {group.name} has one seed, and no interval"
        for group in groups
        if len(group.runs) == 1
    ]
    notes += [
        f"{group.runs[0].environment}: the steps of {group.name} are imagined ones, it took no real step"
        for group in groups
        if group.runs[0].dreams
    ]
    environments = list(dict.fromkeys(group.runs[0].environment for group in groups))
    if len(environments) > 1:
        notes.append(f"runs in {len(environments)} environments: {', '.join(environments)}; curves are drawn for each")
    return {
        "num_last": NUM_LAST,
        "num_resamples": NUM_RESAMPLES,
        "groups": [_summary(group) for group in groups],
        "all_environments": _over_environments(groups, environments),
        "notes": notes,
    }


def _summary(group: Group) -> dict[str, Any]:
    runs = group.runs
    steps, success = runs[0].steps, np.stack([run.success for run in runs])
    curve = interquartile_mean(success)
    low, high = _bounds([success])
    return {
        "environment": runs[0].environment,
        "name": group.name,
        "settings": runs[0].method,
        "seeds": [run.settings["seed"] for run in runs],
        "folders": [str(run.folder) for run in runs],
        "success_at_end": _score([np.array([run.success_at_end for run in runs])]),
        "area": _score([np.array([run.area for run in runs])]),
        **{f"steps_to_{round(100 * level)}": steps_to_reach(level, steps, curve) for level in THRESHOLDS},
        "imagined_steps": round(float(np.mean([run.imagined_steps for run in runs])), 1),
        "seconds": round(float(np.mean([run.seconds for run in runs])), 1),
        "curve": {"steps": steps.tolist(), "success": curve.round(DIGITS).tolist(), "low": low, "high": high},
    }


def _bounds(strata: Sequence[np.ndarray]) -> tuple[Any, Any]:
    if all(len(scores) == 1 for scores in strata):
        return None, None
    low, high = bootstrap_intervals(strata)
    return low.round(DIGITS).tolist(), high.round(DIGITS).tolist()


def _score(strata: Sequence[np.ndarray]) -> dict[str, Any]:
    low, high = _bounds(strata)
    value = round(float(interquartile_mean(np.concatenate(strata))), DIGITS)
    return {"value": value, "low": low, "high": high}


def _over_environments(groups: Sequence[Group], environments: Sequence[str]) -> list[dict[str, Any]]:
    """Scores of what was run in every environment, where there are several."""
    by_method: dict[str, list[Group]] = {}
    for group in groups:
        settings = group.runs[0].method
        method = {key: value for key, value in settings.items() if key not in ("environment", "num_steps")}
        by_method.setdefault(json.dumps([group.name, method], sort_keys=True), []).append(group)
    return [
        {
            "name": members[0].name,
            "num_runs": sum(len(group.runs) for group in members),
            "success_at_end": _score([np.array([run.success_at_end for run in group.runs]) for group in members]),
            "area": _score([np.array([run.area for run in group.runs]) for group in members]),
        }
        for members in by_method.values()
        if 1 < len(members) == len(environments)
    ]


def comparison_as_text(comparison: dict[str, Any]) -> str:
    """The comparison as tables in Markdown, with what the numbers mean."""
    rows = []
    several = len({group["environment"] for group in comparison["groups"]}) > 1
    for group in comparison["groups"]:
        row = {"environment": group["environment"]} if several else {}
        row |= {"agent": group["name"], "seeds": len(group["seeds"])}
        row |= {"success at the end": _cell(group["success_at_end"]), "area under the curve": _cell(group["area"])}
        for level in THRESHOLDS:
            steps = group[f"steps_to_{round(100 * level)}"]
            reached: int | str = "never" if steps is None else round(steps)
            if steps is not None and _dreams(group):
                reached = f"{reached} imagined"
            row[f"real steps to {level:.0%}"] = reached
        rows.append(row | {"imagined steps": round(group["imagined_steps"]), "minutes": f"{group['seconds'] / 60:.1f}"})
    parts = [as_markdown(rows)]
    if comparison["all_environments"]:
        total = [
            {
                "all environments": row["name"],
                "runs": row["num_runs"],
                "success at the end": _cell(row["success_at_end"]),
                "area under the curve": _cell(row["area"]),
            }
            for row in comparison["all_environments"]
        ]
        parts.append(as_markdown(total))
    parts.append(
        "Interquartile means over seeds, with 95 % intervals of a bootstrap over the seeds of each environment. "
        f"Success at the end: the mean of a run's last {comparison['num_last']} evaluations, or of all if there are "
        "fewer. Area: from the first evaluation to the last, 1 if all succeed. Real steps: of the mean curve, with "
        "straight lines between evaluations. Imagined steps and minutes: means over seeds."
    )
    parts += comparison["notes"]
    return "\n\n".join(parts)


def _cell(score: dict[str, Any]) -> str:
    if score["low"] is None:
        return f"{score['value']:.2f}"
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _dreams(group: dict[str, Any]) -> bool:
    """Whether the steps of a group are imagined ones."""
    return group["settings"]["agent"] == PPO_NAME


def draw_comparison(comparison: dict[str, Any], path: Path) -> None:
    """Draw success against steps as png, with a panel for each environment and a line for each group."""
    from matplotlib.figure import Figure

    environments = list(dict.fromkeys(group["environment"] for group in comparison["groups"]))
    figure = Figure(figsize=(max(6.4, 5.2 * len(environments)), 4.4), layout="constrained")
    axes = dict(zip(environments, figure.subplots(1, len(environments), squeeze=False)[0], strict=True))
    names = list(dict.fromkeys(group["name"] for group in comparison["groups"]))
    for group in comparison["groups"]:
        axis, curve, colour = axes[group["environment"]], group["curve"], f"C{names.index(group['name'])}"
        axis.plot(curve["steps"], curve["success"], marker=".", color=colour, label=group["name"])
        if curve["low"] is not None:
            axis.fill_between(curve["steps"], curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
    lines: dict[str, Any] = {}
    for environment, axis in axes.items():
        axis.set_title(environment, parse_math=False)
        kinds = {_dreams(group) for group in comparison["groups"] if group["environment"] == environment}
        steps = ("imagined" if kinds.pop() else "real") if len(kinds) == 1 else "real or imagined"
        axis.set(xlabel=f"{steps} steps", ylabel="success", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        handles, labels = axis.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    legend = figure.legend(
        handles=list(lines.values()), labels=list(lines), loc="outside lower center", ncols=2, fontsize=8
    )
    for text in legend.get_texts():  # a dollar in a label begins no formula
        text.set_parse_math(False)
    with write_aside(path) as aside:
        figure.savefig(aside, dpi=110, format="png")


def write_comparison(folders: Sequence[Path], output: Path) -> str:
    """Compare runs and write comparison.json, curves.png and table.md.

    Args:
        folders: folders of the runs.
        output: folder to write, which is new or holds another comparison. That is replaced.

    Returns:
        The tables, as text.

    Raises:
        ImportError: without scipy or matplotlib; names the extra.
        FileExistsError: if the output holds something else.
        OSError: if a folder holds no run of an agent.
        ValueError: if a run is not finished, or the runs cannot be compared.
    """
    require_packages("scipy", "matplotlib", purpose="a comparison of agents")
    check_folder(output)
    if output.exists() and any(output.iterdir()) and not (output / COMPARISON_FILE).is_file():
        raise FileExistsError(f"{output} holds something else than a comparison; give a new folder")
    comparison = compare_runs([read_run(folder) for folder in folders])
    text = comparison_as_text(comparison)
    make_folder(output)
    write_json(output / COMPARISON_FILE, comparison)
    write_text(output / TABLE_FILE, f"{text}\n")
    draw_comparison(comparison, output / CURVES_FILE)
    return text
