"""Trials of controllers in the same instances of a task, and their summary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..extras import require_packages
from ..media.video import side_by_side, write_video
from ..provenance import describe_command, describe_date
from ..run_folder import RESULTS_FILE, RUN_FILE, claim, lock, parse_json, read_text, write_json
from ..settings import fill
from .controllers import Controller
from .replanning import derived_seed
from .tasks import PlanningTask

TRIALS_FILE = "trials.jsonl"
SIMULATOR = "simulator"  # name of the controller that the others are compared with
NUM_INSTANCES_DRAWN = 3
# Columns of the table for a terminal: heading and width.
TABLE_COLUMNS = {
    "success": 9,
    "95 % interval": 16,
    "of simulator": 14,
    "reward": 11,
    "steps": 8,
    "seconds": 10,
    "plans/s": 9,
}


@dataclass(frozen=True)
class Trial:
    """One controller in one instance.

    Attributes:
        controller: name of the controller.
        seed: seed of the instance.
        success: whether the task was solved after any action.
        num_steps: number of actions until the task was solved or the trial ended.
        reward: sum of the rewards.
        num_plans: number of plans that the controller made.
        seconds: time that the controller took for its decisions.
    """

    controller: str
    seed: int
    success: bool
    num_steps: int
    reward: float
    num_plans: int
    seconds: float


def require_trial_packages() -> None:
    """Raise ImportError unless trials can be summarized: better now than after hours of trials."""
    require_packages("scipy", purpose="an interval of success rates")


class Trials:
    """A series of trials, in a folder. Each trial is written as it ends, so that the same call goes on after a kill.

    Args:
        task: task in which the controllers act.
        controllers: controllers by name.
        seeds: seeds of the instances, the same for all controllers.
        num_steps: number of actions in a trial. A trial ends earlier if the task is solved.
        output: folder to write.
        description: settings that determine the results, by which the run is recognised.

    Raises:
        ImportError: if scipy is missing, which the results' intervals need; names the extra.
        FileExistsError: if the folder holds other trials.
    """

    def __init__(
        self,
        task: PlanningTask,
        controllers: Mapping[str, Controller],
        seeds: Sequence[int],
        num_steps: int,
        output: Path,
        description: Mapping[str, Any],
    ) -> None:
        require_trial_packages()
        self.task, self.controllers, self.seeds, self.num_steps = task, controllers, seeds, num_steps
        self.output = Path(output)
        run = {"task": task.name, "action_repeat": task.action_repeat, "num_steps": num_steps, **description}
        self.description = claim(self.output, RUN_FILE, run, noun="series of trials")

    def done(self) -> list[Trial]:
        """The trials that were run. A line that a kill cut off is left out.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if a line holds something else than a trial.
        """
        file = self.output / TRIALS_FILE
        if not file.is_file():
            return []
        lines = enumerate(read_text(file).split("\n"), start=1)
        return [trial for number, line in lines for trial in _parsed(line, f"{file}, line {number}")]

    def run(self) -> dict[str, Any]:
        """Run the trials that are missing. Returns the results, which are also written as results.json.

        Raises:
            BlockingIOError: if another process runs the same trials.
        """
        with lock(self.output):
            return self._run_missing()

    def _run_missing(self) -> dict[str, Any]:
        from tqdm import tqdm

        finished = {(trial.controller, trial.seed) for trial in self.done()}
        wanted = [(name, seed) for seed in self.seeds for name in self.controllers]
        missing = [trial for trial in wanted if trial not in finished]
        kept = len(wanted) - len(missing)  # from an earlier call
        for name, seed in tqdm(missing, desc="trials", unit="trial", initial=kept, total=len(wanted)):
            trial = self._run(name, seed)
            with (self.output / TRIALS_FILE).open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(asdict(trial))}")
        trials = [trial for trial in self.done() if trial.controller in self.controllers and trial.seed in self.seeds]
        results = {
            "command": describe_command(),
            "date": describe_date(),
            **self.description,
            "num_instances": len(self.seeds),
            "controllers": summarize_trials(trials),
        }
        write_json(self.output / RESULTS_FILE, results)
        return results

    def _run(self, name: str, seed: int) -> Trial:
        controller = self.controllers[name]
        frame = self.task.reset(seed)
        controller.reset(self.task, derived_seed(seed, name))
        frames, reward, seconds, success, num_steps = [frame], 0.0, 0.0, False, 0
        while num_steps < self.num_steps and not success:
            start = time.perf_counter()
            action = controller.act(frame)
            seconds += time.perf_counter() - start
            transition = self.task.step(action)
            num_steps, reward, success = num_steps + 1, reward + transition.reward, bool(transition.success)
            frame = self.task.frame()
            frames.append(frame)
            if transition.done:
                break
        if seed in self.seeds[:NUM_INSTANCES_DRAWN]:
            self._draw(name, seed, torch.stack(frames))
        return Trial(name, seed, success, num_steps, reward, controller.num_plans, seconds)

    def _draw(self, name: str, seed: int, frames: Tensor) -> None:
        goal = [] if self.task.goal is None else [self.task.goal.expand_as(frames)]
        scale = max(1, 192 // frames.shape[-1])
        write_video(side_by_side(frames, *goal), self.output / "videos" / f"{name}-{seed}.gif", fps=5, scale=scale)


def wilson_interval(num_successes: int, num_trials: int) -> tuple[float, float]:
    """Wilson's interval of 95 % of a success rate, each bound in [0, 1]."""
    from scipy.stats import binomtest

    interval = binomtest(num_successes, num_trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def summarize_trials(trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Summarize the trials of each controller: success rate with Wilson's interval of 95 %, the rate as a share of the
    simulator's, rewards, steps and time."""
    results: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(trial.controller for trial in trials):
        rows = [trial for trial in trials if trial.controller == name]
        num_trials, num_successes = len(rows), sum(trial.success for trial in rows)
        low, high = wilson_interval(num_successes, num_trials)
        num_plans, seconds = sum(trial.num_plans for trial in rows), sum(trial.seconds for trial in rows)
        results[name] = {
            "num_trials": num_trials,
            "success_rate": round(num_successes / num_trials, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "mean_reward": round(sum(trial.reward for trial in rows) / num_trials, 4),
            "mean_num_steps": round(sum(trial.num_steps for trial in rows) / num_trials, 2),
            "seconds": round(seconds, 1),
            "plans_per_second": round(num_plans / seconds, 3) if num_plans else None,
        }
    simulator_rate = results.get(SIMULATOR, {}).get("success_rate")
    for values in results.values():
        values["of_simulator"] = round(values["success_rate"] / simulator_rate, 4) if simulator_rate else None
    return results


def trials_as_text(results: Mapping[str, Any]) -> str:
    """The results as a table for a terminal. Seconds are the time that the decisions of all trials took."""
    lines = [_line("controller", TABLE_COLUMNS)]
    for name, values in results["controllers"].items():
        share, speed = values["of_simulator"], values["plans_per_second"]
        cells = [
            f"{values['success_rate']:.2f}",
            f"[{values['low']:.2f}, {values['high']:.2f}]",
            "-" if share is None else f"{share:.2f}",
            f"{values['mean_reward']:.2f}",
            f"{values['mean_num_steps']:.1f}",
            f"{values['seconds']:.1f}",
            "-" if speed is None else f"{speed:.2f}",
        ]
        lines.append(_line(name, cells))
    return "\n".join(lines)


def _line(name: str, cells: Iterable[str]) -> str:
    return name.ljust(12) + "".join(
        cell.rjust(width) for cell, width in zip(cells, TABLE_COLUMNS.values(), strict=True)
    )


def _parsed(line: str, name: str) -> Iterator[Trial]:
    try:
        content = parse_json(line, name)
    except OSError:
        return
    yield fill(Trial, content, name)
