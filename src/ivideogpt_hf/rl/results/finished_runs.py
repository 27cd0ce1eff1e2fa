"""Finished runs of agents, as their folders tell them, and groups of runs that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...run_folder import RUN_FILE, parse_json, read_object, read_text

EVALUATIONS_FILE = "evaluations.jsonl"
LARGEST = 2**53  # up to here, whole numbers are exact in JSON of any program
Check = tuple[Callable[[Any], bool], str]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


TEXT: Check = (lambda value: isinstance(value, str) and value.isprintable(), "text in one line")
TEXT_OR_NONE: Check = (lambda value: value is None or TEXT[0](value), "text in one line, or null")
WHOLE: Check = (_is_whole, "a whole number below 2**53")
COUNT: Check = (lambda value: _is_whole(value) and value >= 0, "a whole number from 0 to 2**53")
POSITIVE: Check = (lambda value: _is_whole(value) and value >= 1, "a whole number from 1 to 2**53")
NUMBER: Check = (_is_finite, "a finite number below 2**53")
RATE_OR_NONE: Check = (lambda value: value is None or (_is_finite(value) and 0 <= value <= 1), "in [0, 1], or null")
# What a comparison, or a card, shows of a run.
SETTINGS = {
    "environment": TEXT,
    "agent": TEXT,
    "world_model": TEXT_OR_NONE,
    "demos": COUNT,
    "seed": WHOLE,
    "num_steps": POSITIVE,
    "num_stack": POSITIVE,
    "label": TEXT_OR_NONE,
}
MEASURES = {
    "step": COUNT,
    "imagined_steps": COUNT,
    "success": RATE_OR_NONE,
    "low": RATE_OR_NONE,
    "high": RATE_OR_NONE,
    "num_episodes": POSITIVE,
    "return": NUMBER,
    "seconds": NUMBER,
}
# What a run's record holds beside its settings: two runs of one group may differ in it.
NOT_SETTINGS = {"seed", "command", "versions"}
PPO_NAME = "ppo"  # name of the agent that takes no real step: all steps of its runs are imagined
NUM_LAST = 3  # number of evaluations that "success at the end" is the mean of


@dataclass(frozen=True)
class Run:
    """A finished run of an agent.

    Attributes:
        folder: folder of the run.
        settings: content of its run.json.
        steps: numbers (E,) int64 of real agent steps before each evaluation, ascending; of imagined ones, if `dreams`.
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
    def dreams(self) -> bool:
        """Whether the agent took no real step."""
        return self.settings["agent"] == PPO_NAME

    @property
    def method(self) -> dict[str, Any]:
        """The settings without the seed: runs of one group have the same.

        What is not set is left out, since a later version may have more settings.
        """
        return {name: value for name, value in self.settings.items() if name not in NOT_SETTINGS and value is not None}

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
        OSError: if a file is not JSON.
        ValueError: if the run is not finished, its files lack something or hold other values than a run writes, or its
            environment does not tell success.
    """
    for name in (RUN_FILE, EVALUATIONS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no run of an agent with evaluations ({name} is missing)")
    settings = read_object(folder / RUN_FILE)
    _check(settings, SETTINGS, folder / RUN_FILE)
    return make_run(folder, settings, read_evaluations(folder))


def make_run(folder: Path, settings: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> Run:
    """Make a run of what its files hold.

    Args:
        folder: folder of the run.
        settings: content of run.json.
        evaluations: lines of evaluations.jsonl, by their steps.

    Raises:
        ValueError: if the run is not finished, or its environment does not tell success.
    """
    reached = evaluations[-1]["step"] if evaluations else 0
    if not evaluations or reached < settings["num_steps"]:
        raise ValueError(
            f"{folder} is not finished: its last evaluation is at step {reached} of {settings['num_steps']}; let it "
            "end first, or leave it out"
        )
    if any(evaluation[name] is None for evaluation in evaluations for name in ("success", "low", "high")):
        raise ValueError(f"{folder} cannot be compared: its environment does not tell whether the task is solved")
    success = np.array([evaluation["success"] for evaluation in evaluations], dtype=np.float64)
    counts = sorted({evaluation["num_episodes"] for evaluation in evaluations})
    if len(counts) != 1:
        raise ValueError(f"evaluations of {folder} have different numbers of episodes: {counts}")
    last = evaluations[-1]
    steps = np.array([evaluation["step"] for evaluation in evaluations], dtype=np.int64)
    return Run(folder, settings, steps, success, counts[0], int(last["imagined_steps"]), float(last["seconds"]))


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, by their steps; see `read_run`.

    Raises:
        OSError: if a line is no JSON object.
        ValueError: if an evaluation lacks something, or a value is not what a run writes.
    """
    file = folder / EVALUATIONS_FILE
    by_step: dict[int, dict[str, Any]] = {}
    for line in read_text(file).splitlines(keepends=True):
        if not line.endswith("\n"):  # a kill tore it, and the run is not finished
            break
        evaluation = parse_json(line, f"a line of {file}")
        if not isinstance(evaluation, dict):
            raise OSError(f"a line of {file} is no JSON object: {line.rstrip()[:80]!r}")
        _check(evaluation, MEASURES, file)
        by_step[evaluation["step"]] = evaluation
    return [by_step[step] for step in sorted(by_step)]


def _check(content: Mapping[str, Any], checks: Mapping[str, Check], file: Path) -> None:
    missing = [name for name in checks if name not in content]
    if missing:
        raise ValueError(f"{file} is not what a run of an agent writes: it lacks {', '.join(missing)}")
    for name, (is_right, allowed) in checks.items():
        if not is_right(content[name]):
            raise ValueError(
                f"{file} is not what a run of an agent writes: {name} must be {allowed}, got {repr(content[name])[:80]}"
            )


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
            evaluated at different steps or in different numbers of episodes. Real and imagined steps are not compared.
    """
    if not runs:
        raise ValueError("there is nothing to compare: name at least one folder of a run")
    first_runs: dict[str, Run] = {}
    first_by_kind: dict[tuple[str, bool], Run] = {}
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        any_kind = first_runs.setdefault(run.environment, run)
        same_kind = first_by_kind.setdefault((run.environment, run.dreams), run)
        for first, is_alike in (
            (any_kind, run.num_episodes == any_kind.num_episodes),
            (same_kind, np.array_equal(run.steps, same_kind.steps)),
        ):
            if not is_alike:
                raise ValueError(
                    f"{first.folder} and {run.folder} were evaluated differently, and cannot be compared: "
                    f"{_grid(first)}, and {_grid(run)}"
                )
        members = by_settings.setdefault(json.dumps(run.method, sort_keys=True), [])
        for other in members:
            if other.settings["seed"] == run.settings["seed"]:
                raise ValueError(
                    f"{other.folder} and {run.folder} have the same settings and the seed {run.settings['seed']}: "
                    "leave one of them out"
                )
        members.append(run)
    groups = list(by_settings.values())
    return [Group(_name(group, groups), tuple(sorted(group, key=lambda r: r.settings["seed"]))) for group in groups]


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
