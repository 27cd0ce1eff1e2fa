"""The course of a training as a picture in its folder: losses, and what validation measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate.logging import get_logger
from torch import Tensor

from ..run_folder import parse_json, read_text, write_aside
from .callbacks import TRAINING_LOG_FILE, is_due
from .loop import Callback, Loop

logger = get_logger(__name__)

CURVES_FILE = "curves.png"
VALIDATION = "validation/"
# The panels: a title, and the metrics that it shows, in training and in validation.
PANELS = (
    ("loss", ("loss",)),
    ("PSNR (dB)", ("context_psnr", "future_psnr")),
    ("cross-entropy of tokens", ("cross_entropy",)),
    ("squared error of rewards", ("reward_mse",)),
)


@dataclass
class Curves(Callback):
    """Draws the metrics file again and again.

    Attributes:
        every: number of updates between two drawings.
    """

    every: int

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if (is_due(loop, self.every) or loop.interrupted) and loop.accelerator.is_main_process:
            try:
                draw_training(loop.output_dir)
            except OSError as error:  # no picture is worth a training
                logger.warning(f"{CURVES_FILE} could not be drawn: {error}")


def draw_training(folder: Path) -> None:
    """Draw curves.png from the metrics file of a training's folder, unless nothing has been logged yet.

    Raises:
        OSError: if the metrics file is damaged.
    """
    from matplotlib.figure import Figure

    file = folder / TRAINING_LOG_FILE
    if not file.exists():
        return
    entries = [parse_json(line, f"a line of {file}") for line in read_text(file).splitlines()]
    panels = [(title, lines) for title, names in PANELS if (lines := _lines(entries, names))]
    if not panels:
        return
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in lines.items():
            marked = name.startswith(VALIDATION) or len(points) == 1  # one point alone makes no line
            axis.plot(*zip(*points, strict=True), label=name, marker="." if marked else None)
        axis.set(title=title, xlabel="update")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    with write_aside(folder / CURVES_FILE) as aside:
        figure.savefig(aside, dpi=110, format="png")


def _lines(entries: Sequence[dict[str, float]], names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """The points (update, value) of each metric that there is."""
    lines = {
        name: [(entry["update"], entry[name]) for entry in entries if name in entry]
        for metric in names
        for name in (metric, f"{VALIDATION}{metric}")
    }
    return {name: points for name, points in lines.items() if points}
