"""Runs of agents compared: success against real steps over seeds, with intervals, and one table.

Scores are summarized as Agarwal et al. (2021) propose: the interquartile mean over runs, and a stratified bootstrap for
its interval. A run has an environment, an agent, a world model and a seed. Runs that differ in nothing but the seed are
a group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation.rendering import CURVES_FILE
from ..evaluation.tables import as_markdown
from ..extras import require_packages
from ..run_folder import RUN_FILE, write_aside, write_json, write_text

EVALUATIONS_FILE, COMPARISON_FILE, TABLE_FILE = "evaluations.jsonl", "comparison.json", "table.md"
SETTINGS = ("environment", "agent", "world_model", "demos", "seed", "num_steps", "label")
MEASURES = ("step", "imagined_steps", "success", "num_episodes", "return", "seconds")
# What a run's record holds beside its settings: two runs of one group may differ in it.
NOT_SETTINGS = {"seed", "command", "versions"}
NUM_LAST = 3  # number of evaluations that "success at the end" is the mean of
THRESHOLDS = (0.5, 0.8)
TRIMMED = 0.25  # share of the runs that an interquartile mean leaves out, on each side
NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles
DIGITS = 4
SAME = 1e-9  # a curve reaches a threshold even where the mean of its runs is rounded down

Interval = tuple[float, float]


# -- runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished run of an agent.

    Attributes:
        folder: folder of the run.
        settings: content of its run.json.
        steps: numbers (E,) int64 of real agent steps before each evaluation, ascending.
        success: success rates (E,) float64 of the evaluations, in [0, 1].
        num_episodes: number of episodes of an evaluation.
        imagined_steps: number of imagined steps at the end.
        seconds: time that the run took.
    """

    folder: Path
    settings: dict[str, Any]
    steps: np.ndarray
    success: np.ndarray
    num_episodes: int
    imagined_steps: int
    seconds: float

    @property
    def environment(self) -> str:
        """The name of the real environment."""
        return str(self.settings["environment"])

    @property
    def success_at_end(self) -> float:
        """The mean success of the last evaluations."""
        return float(self.success[-NUM_LAST:].mean())

    @property
    def area(self) -> float:
        """The area under the success curve from the first evaluation to the last, as a share of what it could be."""
        if len(self.steps) == 1:
            return float(self.success[0])
        return float(np.trapezoid(self.success, self.steps) / (self.steps[-1] - self.steps[0]))


def read_run(folder: Path) -> Run:
    """Read a run of ``ivideogpt rl``: its run.json and evaluations.jsonl.

    An evaluation that was written again, after the run was resumed, counts as it was written last.

    Raises:
        FileNotFoundError: if the folder holds no run, or no evaluation of it.
        ValueError: if the run is not finished, its files lack something, or its environment does not tell success.
    """
    for name in (RUN_FILE, EVALUATIONS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no run of an agent with evaluations ({name} is missing)")
    settings = next(_parsed((folder / RUN_FILE).read_text(encoding="utf-8")), {})
    _check_keys(folder / RUN_FILE, settings, SETTINGS)
    evaluations = read_evaluations(folder)
    reached = evaluations[-1]["step"] if evaluations else 0
    if not evaluations or reached < settings["num_steps"]:
        raise ValueError(
            f"{folder} is not finished: its last evaluation is at step {reached} of {settings['num_steps']}; let it "
            "end first, or leave it out"
        )
    if any(evaluation["success"] is None for evaluation in evaluations):
        raise ValueError(f"{folder} cannot be compared: its environment does not tell whether the task is solved")
    success = np.array([evaluation["success"] for evaluation in evaluations], dtype=np.float64)
    if not ((success >= 0) & (success <= 1)).all():
        raise ValueError(f"success in {folder / EVALUATIONS_FILE} must be in [0, 1], got {success}")
    counts = sorted({evaluation["num_episodes"] for evaluation in evaluations})
    if len(counts) != 1:
        raise ValueError(f"evaluations of {folder} have different numbers of episodes: {counts}")
    last = evaluations[-1]
    steps = np.array([evaluation["step"] for evaluation in evaluations], dtype=np.int64)
    return Run(folder, settings, steps, success, counts[0], int(last["imagined_steps"]), float(last["seconds"]))


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, by their steps; see `read_run`.

    Raises:
        ValueError: if an evaluation lacks something.
    """
    by_step: dict[int, dict[str, Any]] = {}
    # A kill may tear a line. The run that went on has written the evaluation again.
    for line in (folder / EVALUATIONS_FILE).read_text(encoding="utf-8").splitlines():
        for evaluation in _parsed(line):
            _check_keys(folder / EVALUATIONS_FILE, evaluation, MEASURES)
            by_step[evaluation["step"]] = evaluation
    return [by_step[step] for step in sorted(by_step)]


def _parsed(text: str) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        yield content


def _check_keys(file: Path, content: dict[str, Any], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{file} is not what a run of an agent writes: it lacks {', '.join(missing)}")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        name: name of the group, which no other group in its environment has.
        runs: the runs, ordered by their seeds.
    """

    name: str
    runs: tuple[Run, ...]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs together that differ in nothing but the seed. Groups come in the order of their first runs.

    A group is named after its runs' label, or else after agent, world model and demonstrations. To this are added the
    settings in which it differs from another group with the same name.

    Raises:
        ValueError: without runs, if two runs of a group have the same seed, or if runs in the same environment were
            evaluated at different steps or in different numbers of episodes.
    """
    if not runs:
        raise ValueError("there is nothing to compare: name at least one folder of a run")
    by_environment: dict[str, Run] = {}
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        first = by_environment.setdefault(run.environment, run)
        if not np.array_equal(run.steps, first.steps) or run.num_episodes != first.num_episodes:
            raise ValueError(
                f"{first.folder} and {run.folder} were evaluated differently, and cannot be compared: "
                f"{_grid(first)}, and {_grid(run)}"
            )
        members = by_settings.setdefault(json.dumps(_settings(run), sort_keys=True), [])
        for other in members:
            if other.settings["seed"] == run.settings["seed"]:
                raise ValueError(
                    f"{other.folder} and {run.folder} have the same settings and the seed {run.settings['seed']}: "
                    "leave one of them out"
                )
        members.append(run)
    groups = list(by_settings.values())
    return [Group(_name(group, groups), tuple(sorted(group, key=lambda r: r.settings["seed"]))) for group in groups]


def _settings(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in NOT_SETTINGS}


def _grid(run: Run) -> str:
    return f"at {len(run.steps)} steps from {run.steps[0]} to {run.steps[-1]} in {run.num_episodes} episodes"


def _base_name(run: Run) -> str:
    settings = run.settings
    if settings["label"]:
        return str(settings["label"])
    model = settings["world_model"]
    parts = [settings["agent"], "no world model" if model in (None, "none") else f"world model {model}"]
    return ", ".join([*parts, f"{settings['demos']} demonstrations"])


def _name(group: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    run, name = group[0], _base_name(group[0])
    others = [other[0] for other in groups if other[0] is not run and other[0].environment == run.environment]
    namesakes = [other.settings for other in others if _base_name(other) == name]
    names = [
        key
        for key in dict.fromkeys(key for settings in (run.settings, *namesakes) for key in settings)
        if key not in NOT_SETTINGS and any(run.settings.get(key) != other.get(key) for other in namesakes)
    ]
    return ", ".join([name, *(f"{key} {run.settings.get(key)}" for key in names)])


# -- statistics -------------------------------------------------------------------------------------------------------


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """The mean over runs without the lowest and the highest quarter of them, each rounded down.

    Args:
        scores: scores (R, ...) of R runs.

    Returns:
        The means (...) float64.

    Example:
        >>> import numpy as np
        >>> from ivideogpt_hf.rl.curves import interquartile_mean
        >>> float(interquartile_mean(np.array([0.0, 0.1, 0.2, 0.6, 1.0])))
        0.3
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.asarray(scores, dtype=np.float64), TRIMMED, axis=0))


def bootstrap_intervals(strata: Sequence[np.ndarray], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of the interquartile mean over the runs of all strata, by a stratified bootstrap.

    A resample draws, in each stratum, as many of its runs as it has, with replacement. The interval is that of the
    percentiles of the resamples' means.

    Args:
        strata: scores (R, ...) of the R runs in each stratum, such as an environment. R may differ.
        seed: seed of the draws.

    Returns:
        The lower and the upper bounds (...) float64.

    Raises:
        ValueError: if no stratum has two runs, so that resamples would not differ.
    """
    from scipy.stats import trim_mean

    if not any(len(scores) > 1 for scores in strata):
        raise ValueError("an interval over seeds needs at least two runs that differ in the seed")
    generator = np.random.default_rng(seed)
    resamples = []
    for scores in strata:
        values = np.asarray(scores, dtype=np.float64)
        resamples.append(values[generator.integers(len(values), size=(NUM_RESAMPLES, len(values)))])
    means = trim_mean(np.concatenate(resamples, axis=1), TRIMMED, axis=1)
    low, high = np.percentile(means, INTERVAL, axis=0)
    return low, high


def steps_to_reach(threshold: float, steps: ArrayLike, success: ArrayLike) -> float | None:
    """The number of real steps after which a curve first reaches a threshold.

    Between two evaluations the curve is a straight line. A curve that begins at or above the threshold reaches it at
    its first evaluation.

    Args:
        threshold: success rate.
        steps: numbers (E,) of real steps, ascending.
        success: success rates (E,) at these steps.

    Returns:
        The number of steps, or None if the curve never reaches the threshold.

    Example:
        >>> from ivideogpt_hf.rl.curves import steps_to_reach
        >>> steps_to_reach(0.5, [0, 1000, 2000], [0.0, 0.2, 0.6])
        1750.0
    """
    points = list(zip(np.asarray(steps).tolist(), np.asarray(success).tolist(), strict=True))
    threshold -= SAME
    if points[0][1] >= threshold:
        return float(points[0][0])
    for (step, value), (next_step, next_value) in pairwise(points):
        if next_value >= threshold:
            share = (threshold + SAME - value) / (next_value - value)
            return round(step + min(share, 1.0) * (next_step - step), DIGITS)
    return None


# -- comparison -------------------------------------------------------------------------------------------------------


def compare_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Compare runs of agents, as JSON.

    Returns:
        "groups": for each group its environment, name, settings, seeds and folders; "success_at_end" and "area", each
        with "value", "low" and "high"; "steps_to_50" and "steps_to_80" of the curve, None where it never gets there;
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
        "settings": _settings(runs[0]),
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
        settings = _settings(group.runs[0])
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
    for group in comparison["groups"]:
        row = {"environment": group["environment"], "agent": group["name"], "seeds": len(group["seeds"])}
        row |= {"success at the end": _cell(group["success_at_end"]), "area under the curve": _cell(group["area"])}
        for level in THRESHOLDS:
            steps = group[f"steps_to_{round(100 * level)}"]
            row[f"real steps to {level:.0%}"] = "never" if steps is None else round(steps)
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


def draw_comparison(comparison: dict[str, Any], path: Path) -> None:
    """Draw success against real steps as png, with a panel for each environment and a line for each group."""
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
        axis.set(title=environment, xlabel="real steps", ylabel="success", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        handles, labels = axis.get_legend_handles_labels()
        lines |= dict(zip(labels, handles, strict=True))
    figure.legend(handles=list(lines.values()), labels=list(lines), loc="outside lower center", ncols=2, fontsize=8)
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
    if output.exists() and any(output.iterdir()) and not (output / COMPARISON_FILE).is_file():
        raise FileExistsError(f"{output} holds something else than a comparison; give a new folder")
    comparison = compare_runs([read_run(folder) for folder in folders])
    text = comparison_as_text(comparison)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / COMPARISON_FILE, comparison)
    write_text(output / TABLE_FILE, f"{text}\n")
    draw_comparison(comparison, output / CURVES_FILE)
    return text
