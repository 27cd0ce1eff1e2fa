"""What a run hangs on its agent: a call between steps, a progress bar, and a writer of metrics."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...extras import require_packages

require_packages("stable_baselines3", purpose="reinforcement learning")

from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.logger import KVWriter  # noqa: E402


class Steps(Protocol):
    """The part of a run that is asked between steps.

    Attributes:
        successes: outcomes of the last episodes that it trained on.
        last_success: success rate of the last evaluation; None before it.
    """

    successes: deque[bool]
    last_success: float | None

    @property
    def num_imagined(self) -> int:
        """Number of imagined steps so far."""

    def between_steps(self) -> None:
        """Do what is to be done where a run can go on."""


class BetweenSteps(BaseCallback):
    """Calls the run between two steps, and shows where it is.

    Args:
        run: run of the agent.
        bar: progress bar that counts steps.
    """

    def __init__(self, run: Steps, bar: Any) -> None:
        super().__init__()
        self.run, self.bar = run, bar

    def _on_rollout_start(self) -> None:
        self.run.between_steps()

    def _on_step(self) -> bool:
        run = self.run
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if done and "is_success" in info:
                run.successes.append(bool(info["is_success"]))
        shown: dict[str, Any] = {"imagined": run.num_imagined}
        if run.successes:
            shown["success"] = f"{sum(run.successes) / len(run.successes):.2f}"
        if run.last_success is not None:
            shown["evaluated"] = f"{run.last_success:.2f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(len(self.locals["dones"]))
        return True


class MetricsWriter(KVWriter):
    """Writes what an agent logs to a file of JSON lines, and to the tracker.

    Args:
        file: file to append to.
        accelerator: accelerator whose trackers get the metrics.
    """

    def __init__(self, file: Path, accelerator: Any) -> None:
        self.file, self.accelerator = file, accelerator

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write an entry."""
        entry = {name: float(value) for name, value in key_values.items() if isinstance(value, (int, float, np.number))}
        self.accelerator.log(entry, step=step)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": step} | entry) + "\n")

    def close(self) -> None:
        """Do nothing: the file is closed after each entry."""
