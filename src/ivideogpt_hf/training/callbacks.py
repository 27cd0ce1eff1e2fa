"""What happens besides the updates: progress, metrics, validation, sample videos, checkpoints, uploads."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor
from tqdm import tqdm

from ..checkpoints.layout import EPISODE_FILE
from ..data.drawing import Strip, moving_strips
from ..hub.upload import create_repository, upload_in_background
from ..run_folder import (
    PARTIAL,
    as_json,
    parse_json,
    read_object,
    read_text,
    recover_folder,
    replace_folder,
    write_text,
)
from . import run_checkpoints
from .loop import Callback, Loop

logger = get_logger(__name__)

TRAINING_LOG_FILE = "metrics.jsonl"
CHECKPOINTS, BEST, SAMPLES = "checkpoints", "best", "samples"
VALIDATION_FILE = "validation.json"
SAMPLES_FPS = 5
# What is printed of a validation, in this order; the rest is in the metrics file.
PRINTED = ("loss", "context_psnr", "future_psnr", "perceptual", "cross_entropy", "reward_mse")


def tell(text: str) -> None:
    """Print a line where the progress bar is, which stays below it."""
    tqdm.write(text, file=sys.stderr)


def is_due(loop: Loop, every: int) -> bool:
    """Whether something is due after this update: its turn has come, or the run ends.

    Args:
        loop: loop that has just done an update.
        every: number of updates between two turns.
    """
    return loop.update % every == 0 or loop.update == loop.num_updates


@dataclass
class Metrics(Callback):
    """Means of the metrics since the last entry, over all processes: to a JSON-lines file, the trackers and the bar.

    Attributes:
        accelerator: processes over which means are taken.
        every: number of updates between two entries.
        batch_size: number of clips of an update, over all processes.
    """

    accelerator: Accelerator
    every: int
    batch_size: int
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _start_time: float = 0.0
    _updates: int = 0
    _bar: tqdm | None = None

    def on_start(self, loop: Loop) -> None:
        if loop.accelerator.is_main_process:
            drop_entries_after(loop.output_dir / TRAINING_LOG_FILE, loop.update)
        self._bar = tqdm(
            total=loop.num_updates,
            initial=loop.update,
            unit="update",
            smoothing=0.05,
            disable=not loop.accelerator.is_main_process,
        )
        self._start_time = time.perf_counter()

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        self._bar.update()
        self._updates += 1
        for name, value in metrics.items():
            value = value.detach().to(loop.accelerator.device, torch.float32)
            self._sums[name] = value + self._sums.get(name, 0)
            self._counts[name] = self._counts.get(name, 0) + 1
        if is_due(loop, self.every) or loop.interrupted:
            self._write(loop)

    def state_dict(self) -> dict[str, Any]:
        sums = {name: self.accelerator.reduce(value, "mean").item() for name, value in sorted(self._sums.items())}
        return {"sums": sums, "counts": self._counts, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {
            name: torch.tensor(value, device=self.accelerator.device) for name, value in state["sums"].items()
        }
        self._counts, self._updates = state["counts"], state["updates"]

    def _write(self, loop: Loop) -> None:
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = loop.accelerator.reduce(means, "mean").tolist()
        seconds = time.perf_counter() - self._start_time
        entry = dict(zip(names, means, strict=True))
        entry |= {"clips_per_second": self._updates * self.batch_size / seconds, "epoch": loop.loader.epoch}
        if loop.accelerator.device.type == "cuda":
            entry["max_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        write_entry(loop, entry)
        self._bar.set_postfix({"loss": f"{entry['loss']:.4f}", "clips/s": f"{entry['clips_per_second']:.1f}"})
        self._sums, self._counts, self._updates, self._start_time = {}, {}, 0, time.perf_counter()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def write_entry(loop: Loop, entry: dict[str, float]) -> None:
    """Add an entry to the metrics file and the trackers."""
    loop.accelerator.log(entry, step=loop.update)
    if loop.accelerator.is_main_process:
        with (loop.output_dir / TRAINING_LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": loop.update} | entry) + "\n")


def drop_entries_after(file: Path, last: int, counter: str = "update") -> None:
    """Remove the entries that a run wrote after the state from which it now goes on.

    Args:
        file: metrics file, which need not exist.
        last: value of the counter in that state.
        counter: name of what the entries count, such as their updates.

    Raises:
        OSError: if a line is no such entry.
    """
    if not file.exists():
        return
    lines = [line for line in read_text(file).splitlines(keepends=True) if line.endswith("\n")]
    write_text(file, "".join(line for line in lines if _count_of(line, file, counter) <= last))


def _count_of(line: str, file: Path, counter: str) -> int:
    entry = parse_json(line, f"a line of {file}")
    if not isinstance(entry, dict) or not isinstance(entry.get(counter), int):
        raise OSError(f"a line of {file} is no entry of the metrics: {line.rstrip()[:80]!r}")
    return entry[counter]


@dataclass
class Validation(Callback):
    """Measures on held-out clips; its entry holds "validation/loss".

    Attributes:
        every: number of updates between two validations.
        measure: function that gives means over this process's share of the validation clips, among them "loss".
    """

    every: int
    measure: Callable[[], dict[str, Tensor]]

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if not is_due(loop, self.every):
            return
        means = self.measure()
        names = sorted(means)
        values = torch.stack([means[name].float().to(loop.accelerator.device) for name in names])
        values = loop.accelerator.reduce(values, "mean").tolist()
        loop.validation = {f"validation/{name}": value for name, value in zip(names, values, strict=True)}
        write_entry(loop, loop.validation)
        if loop.accelerator.is_main_process:
            shown = [
                f"{name} {loop.validation[f'validation/{name}']:.4g}"
                for name in PRINTED
                if f"validation/{name}" in loop.validation
            ]
            tell(f"validation after update {loop.update}: {', '.join(shown)}")


@dataclass
class Samples(Callback):
    """Writes sample videos.

    Attributes:
        every: number of updates between two videos.
        draw: function that gives clips to stand side by side, on the main process; called on every process.
    """

    every: int
    draw: Callable[[], list[Strip] | None]

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if is_due(loop, self.every):
            strips = self.draw()
            if loop.accelerator.is_main_process:
                moving_strips(strips, loop.output_dir / SAMPLES / f"update-{loop.update:08d}.gif", SAMPLES_FPS)
            loop.accelerator.wait_for_everyone()


@dataclass
class Checkpoints(Callback):
    """Saves what is needed to go on, and the best model.

    Attributes:
        every: number of updates between two checkpoints. There is one at the end and after a signal, too.
        max_checkpoints: number of the last checkpoints to keep.
        export: function that writes the model to a folder; called on every process.
        training: record of the training, by which a run that goes on is known to be the same.
    """

    every: int
    max_checkpoints: int
    export: Callable[[Path], None]
    training: dict[str, Any]
    _lowest_loss: float = float("inf")

    def on_start(self, loop: Loop) -> None:
        if loop.accelerator.is_main_process:
            recover_folder(loop.output_dir / BEST)
        loop.accelerator.wait_for_everyone()
        file = loop.output_dir / BEST / VALIDATION_FILE
        if file.is_file():
            entry = read_object(file)
            if not all(isinstance(entry.get(name), (int, float)) for name in ("update", "validation/loss")):
                raise OSError(f"{file} is damaged: it lacks the update or the loss of the best model")
            if entry["update"] <= loop.update:
                self._lowest_loss = entry["validation/loss"]

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if loop.validation and loop.validation["validation/loss"] < self._lowest_loss:
            self._lowest_loss = loop.validation["validation/loss"]
            self._export_best(loop)
        if is_due(loop, self.every) or loop.interrupted:
            folder = loop.output_dir / CHECKPOINTS
            state = loop.state_dict() | {"validation_loss": loop.validation.get("validation/loss")}
            state |= {"training": self.training}
            run_checkpoints.save(loop.accelerator, folder, loop.update, state)
            if loop.accelerator.is_main_process:
                run_checkpoints.rotate(folder, self.max_checkpoints)

    def _export_best(self, loop: Loop) -> None:
        partial_folder, target = loop.output_dir / f"{BEST}{PARTIAL}", loop.output_dir / BEST
        if loop.accelerator.is_main_process:
            shutil.rmtree(partial_folder, ignore_errors=True)
        loop.accelerator.wait_for_everyone()
        self.export(partial_folder)
        if loop.accelerator.is_main_process:
            entry = {"update": loop.update} | loop.validation
            (partial_folder / VALIDATION_FILE).write_text(as_json(entry), encoding="utf-8")
            replace_folder(target, partial_folder)
        loop.accelerator.wait_for_everyone()


@dataclass
class Uploads(Callback):
    """Uploads the model to the Hub with every checkpoint, in the background; a failed upload does not stop a training.

    Attributes:
        every: number of updates between two uploads.
        repo_id: id of the repository on the Hub.
        private: whether a new repository is private.
        export: function that writes the model to a folder; called on every process.
    """

    every: int
    repo_id: str
    private: bool
    export: Callable[[Path], None]
    _pending: Future | None = None

    def on_start(self, loop: Loop) -> None:
        """Create the repository now, so that a wrong name or token shows before the training and not after it.

        Raises:
            OSError: if the repository cannot be created.
        """
        if not loop.accelerator.is_main_process:
            return
        try:
            self.repo_id, _ = create_repository(self.repo_id, "model", private=self.private)
        except OSError as error:
            raise OSError(f"{error}; or leave push_to_hub out") from error

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if is_due(loop, self.every) or loop.interrupted:
            self._upload(loop, wait=loop.interrupted or loop.update == loop.num_updates)

    def _upload(self, loop: Loop, wait: bool) -> None:
        folder = loop.output_dir / "upload.partial"
        if loop.accelerator.is_main_process:
            self._finish()
            shutil.rmtree(folder, ignore_errors=True)
        loop.accelerator.wait_for_everyone()
        self.export(folder)
        if loop.accelerator.is_main_process:
            # A clip of the user's data goes up by `publish` alone, which shows first what it uploads.
            (folder / EPISODE_FILE).unlink(missing_ok=True)
            message = f"Training, update {loop.update} of {loop.num_updates}"
            self._pending = upload_in_background(folder, self.repo_id, "model", commit_message=message)
            if wait:
                self._finish()

    def _finish(self) -> None:
        if self._pending is not None and self._pending.exception() is not None:
            logger.warning(f"the upload to {self.repo_id} failed: {self._pending.exception()}")
        self._pending = None
