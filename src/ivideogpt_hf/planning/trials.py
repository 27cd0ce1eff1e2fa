"""Trials of controllers in the same instances of a task, and what they say together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..extras import require_packages
from ..media.video import side_by_side, write_video
from ..run_folder import claim, lock, write_json
from .controllers import Controller
from .replanning import derived_seed
from .tasks import PlanningTask

RUN_FILE, TRIALS_FILE, RESULTS_FILE = "run.json", "trials.jsonl", "results.json"
CEILING = "simulator"
NUM_VIDEOS = 3


@dataclass(frozen=True)
class Trial:
    """One controller in one instance.

    Attributes:
        controller: its name.
        seed: of the instance.
        success: whether the task was solved after any action.
        num_steps: actions until then, or all.
        reward: their sum.
        num_plans: made on the way.
        seconds: spent on deciding.
    """

    controller: str
    seed: int
    success: bool
    num_steps: int
    reward: float
    num_plans: int
    seconds: float


def require_trial_packages() -> None:
    """Raise ImportError unless trials can be summed up, which happens after hours of them."""
    require_packages("scipy", purpose="an interval of success rates")


class Trials:
    """Runs what is missing, and keeps each trial as it ends: after a kill, the same call goes on.

    Args:
        task: where.
        controllers: who, by name.
        seeds: of the instances, the same for everyone.
        num_steps: actions of a trial; it ends before, if the task is solved.
        output: folder to write.
        description: what else determines the results, to recognise the run again.

    Raises:
        ImportError: without scipy, which the results' intervals need; names the extra.
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
        """What has been run; a line that a kill cut off is none."""
        file = self.output / TRIALS_FILE
        if not file.is_file():
            return []
        return [Trial(**content) for line in file.read_text(encoding="utf-8").splitlines() for content in _parsed(line)]

    def run(self) -> dict[str, Any]:
        """Run what is missing; returns the results, which are also written as results.json.

        Raises:
            BlockingIOError: if another process runs the same trials.
        """
        with lock(self.output):
            return self._run_missing()

    def _run_missing(self) -> dict[str, Any]:
        from tqdm import tqdm

        done = {(trial.controller, trial.seed) for trial in self.done()}
        missing = [(name, seed) for seed in self.seeds for name in self.controllers if (name, seed) not in done]
        for name, seed in tqdm(missing, desc="trials", unit="trial"):
            trial = self._run(name, seed)
            with (self.output / TRIALS_FILE).open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(asdict(trial))}")
        wanted = [trial for trial in self.done() if trial.controller in self.controllers and trial.seed in self.seeds]
        results = {**self.description, "num_instances": len(self.seeds), "controllers": summarize(wanted)}
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
        if seed in self.seeds[:NUM_VIDEOS]:
            self._draw(name, seed, torch.stack(frames))
        return Trial(name, seed, success, num_steps, reward, controller.num_plans, seconds)

    def _draw(self, name: str, seed: int, frames: Tensor) -> None:
        goal = [] if self.task.goal is None else [self.task.goal.expand_as(frames)]
        scale = max(1, 192 // frames.shape[-1])
        write_video(side_by_side(frames, *goal), self.output / "videos" / f"{name}-{seed}.gif", fps=5, scale=scale)


def summarize(trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Of each controller: success rate with Wilson's interval of 95 %, share of the simulator's rate, and cost."""
    from scipy.stats import binomtest

    results: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(trial.controller for trial in trials):
        own = [trial for trial in trials if trial.controller == name]
        solved, seconds = sum(trial.success for trial in own), sum(trial.seconds for trial in own)
        interval = binomtest(solved, len(own)).proportion_ci(method="wilson")
        plans = sum(trial.num_plans for trial in own)
        results[name] = {
            "num_trials": len(own),
            "success_rate": round(solved / len(own), 4),
            "low": round(float(interval.low), 4),
            "high": round(float(interval.high), 4),
            "mean_reward": round(sum(trial.reward for trial in own) / len(own), 4),
            "mean_num_steps": round(sum(trial.num_steps for trial in own) / len(own), 2),
            "seconds": round(seconds, 1),
            "plans_per_second": round(plans / seconds, 3) if plans else None,
        }
    ceiling = results.get(CEILING, {}).get("success_rate")
    for values in results.values():
        values["of_simulator"] = round(values["success_rate"] / ceiling, 4) if ceiling else None
    return results


def as_text(results: Mapping[str, Any]) -> str:
    """A table for a terminal; seconds are what all trials spent on deciding."""
    headings = ("success", 9), ("95 % interval", 16), ("of simulator", 14), ("reward", 11), ("steps", 8)
    headings += ("seconds", 10), ("plans/s", 9)
    lines = ["controller  " + "".join(heading.rjust(width) for heading, width in headings)]
    for name, values in results["controllers"].items():
        interval = f"[{values['low']:.2f}, {values['high']:.2f}]"
        share = "-" if values["of_simulator"] is None else f"{values['of_simulator']:.2f}"
        speed = "-" if values["plans_per_second"] is None else f"{values['plans_per_second']:.2f}"
        lines.append(
            f"{name:12}{values['success_rate']:9.2f}{interval:>16}{share:>14}{values['mean_reward']:11.2f}"
            f"{values['mean_num_steps']:8.1f}{values['seconds']:10.1f}{speed:>9}"
        )
    return "\n".join(lines)


def _parsed(line: str) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(line)
    except ValueError:
        return
    yield content
