"""From a model and its losses to a finished run: what the two trainings have in common around the loop."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from torch import Tensor, nn

from ..cards.text import counted
from ..data.clips.loader import ClipLoader
from ..data.drawing import Strip
from ..run_folder import read_object
from . import run_checkpoints
from .arguments import OptimizationArguments, RunArguments, require
from .averaging import AveragedWeights
from .callbacks import (
    BEST,
    CHECKPOINTS,
    TRAINING_LOG_FILE,
    VALIDATION_FILE,
    Checkpoints,
    Metrics,
    Samples,
    Uploads,
    Validation,
    tell,
)
from .curves import Curves
from .launch import start_trackers
from .loop import Batch, Callback, Loop, Loss, Phase
from .optimizers import make_optimizer, make_scheduler
from .record import resumed_training, write_training

logger = get_logger(__name__)

# Like sysexits.h's EX_TEMPFAIL: the run was asked to stop, saved its state, and can be resumed.
INTERRUPTED = 75
# Stands in a command for the folder of the finished model. What a reader has to fill in is written in capitals.
MODEL = "{model}"


@dataclass(kw_only=True)
class Task(ABC):
    """What is trained, and on what. A subclass says how the model is measured, drawn and saved.

    Attributes:
        accelerator: processes of the run.
        phases: parts of an update, one for each optimiser.
        source_names: names of the sources, by their numbers under "source" in a batch.
        loader: loader of training clips.
        validation_loader: loader of validation clips; None without any, and then nothing is measured or drawn.
        num_validation_batches: number of batches in a validation.
        description: record of the training that a checkpoint holds; see `describe_training`.
        next_steps: commands that do something with the finished model, for which `MODEL` stands.
        callbacks: callbacks that belong to this training only.
        average: average of the first phase's weights; None: without.
    """

    accelerator: Accelerator
    phases: Sequence[Phase]
    source_names: Sequence[str]
    loader: ClipLoader
    validation_loader: ClipLoader | None
    num_validation_batches: int
    description: dict[str, Any]
    next_steps: Sequence[str]
    callbacks: Sequence[Callback] = ()
    average: AveragedWeights | None = None

    def final_weights(self) -> AbstractContextManager[None]:
        """Inside, the first phase's model has the weights that are validated and saved."""
        return nullcontext() if self.average is None else self.average.in_place()

    @abstractmethod
    def measure(self) -> dict[str, Tensor]:
        """Means over this process's share of the validation batches, among them "loss"."""

    @abstractmethod
    def draw(self) -> list[Strip] | None:
        """Clips of a sample video, which stand side by side, on the main process at least; called on every process."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model to a folder; called on every process."""

    def mean_over_validation(self, measure: Callable[[Batch], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Means of what ``measure`` gives for the first validation batches, which are always the same ones."""
        loader = self.validation_loader
        loader.load_state_dict(loader.state_dict() | {"epoch": 0, "batch": 0})
        entries = []
        with torch.no_grad(), self.accelerator.autocast():
            for batch in islice(loader, self.num_validation_batches):
                entries.append(measure({key: value.to(self.accelerator.device) for key, value in batch.items()}))
        return {name: torch.stack([entry[name].float() for entry in entries]).mean() for name in entries[0]}


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout, until the model trains on."""
    model.eval()
    try:
        yield
    finally:
        model.train()


def check_run(run: RunArguments, optimization: OptimizationArguments, num_processes: int) -> int:
    """Check what can be checked before any data is read.

    Args:
        run: settings of the run.
        optimization: settings of the optimiser.
        num_processes: number of processes that run.

    Returns:
        This process's share of a batch.

    Raises:
        ValueError: if the batch does not divide, or the output folder holds another run.
    """
    batch, micro = optimization.batch_size, optimization.micro_batch_size
    share, remainder = divmod(batch, num_processes)
    require(not remainder and share > 0, f"batch_size {batch} must be a multiple of the {num_processes} processes")
    require(
        micro is None or share % micro == 0,
        f"micro_batch_size {micro} must divide the {share} clips of a process (batch_size {batch} / {num_processes})",
    )
    checkpoints = Path(run.output_dir) / CHECKPOINTS
    require(
        run.resume is not None or not run_checkpoints.checkpoints_in(checkpoints),
        f"{run.output_dir} already holds a run: go on with --resume latest, or choose another output_dir",
    )
    require(
        not run.validate_every or run.save_every % run.validate_every == 0,
        f"save_every ({run.save_every}) must be a multiple of validate_every ({run.validate_every}), so that every "
        f"checkpoint has been validated",
    )
    if optimization.warmup_updates >= run.num_updates:
        logger.warning(
            f"warmup_updates ({optimization.warmup_updates}) is not below num_updates ({run.num_updates}): the "
            f"learning rate never reaches {optimization.learning_rate:g}. Lower warmup_updates, or train for longer"
        )
    return share


def make_phase(
    accelerator: Accelerator,
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, Batch, Any, int], Loss],
    run: RunArguments,
    optimization: OptimizationArguments,
    *,
    learning_rate: float | None = None,
    first_update: int = 0,
) -> Phase:
    """Distribute a model and give it an optimiser.

    Args:
        accelerator: processes that train the model.
        name: prefix of the phase's gradient norm and learning rate among the metrics.
        model: model to train.
        loss: loss function of the distributed model, a batch, the carry of the phase before, and the number of updates
            done.
        run: settings of the run.
        optimization: settings of the optimiser.
        learning_rate: learning rate after warm-up; None: that of ``optimization``.
        first_update: update from which the phase takes part; its schedule begins there.
    """
    if run.compile:
        model.compile()
    rate = optimization.learning_rate if learning_rate is None else learning_rate
    optimizer = make_optimizer(model, rate, optimization.weight_decay)
    num_updates = run.num_updates - first_update
    scheduler = make_scheduler(optimizer, optimization.schedule, optimization.warmup_updates, num_updates)
    distributed_model, optimizer = accelerator.prepare(model.train(), optimizer)
    return Phase(
        name=name,
        model=distributed_model,
        optimizer=optimizer,
        scheduler=scheduler,
        loss=partial(loss, distributed_model),
        first_update=first_update,
    )


def run_training(
    accelerator: Accelerator, run: RunArguments, optimization: OptimizationArguments, task: Task
) -> int | None:
    """Train, and write the finished model to the output folder.

    Args:
        accelerator: processes that train.
        run: settings of the run.
        optimization: settings of the optimiser.
        task: task that is trained.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        OSError: if a checkpoint cannot be read or written.
        ValueError: if the checkpoint to go on from is of another run.
        NonFiniteLossError, MemoryError: see `Loop`.
    """
    output_dir = Path(run.output_dir)
    checkpoint = None
    if run.resume is not None:
        checkpoint = run_checkpoints.choose(accelerator, output_dir / CHECKPOINTS, run.resume)
        if checkpoint is None:
            accelerator.print(f"nothing to resume in {run.output_dir}: starting from the beginning")
        else:
            task.description = _compare(checkpoint, task.description)
    if optimization.average_decay is not None:
        task.average = AveragedWeights(accelerator, task.phases[0].model, optimization.average_decay)
    loop = Loop(
        accelerator=accelerator,
        phases=task.phases,
        loader=task.loader,
        source_names=task.source_names,
        num_updates=run.num_updates,
        max_grad_norm=optimization.max_grad_norm,
        output_dir=output_dir,
        micro_batch_size=optimization.micro_batch_size,
        callbacks=_callbacks(accelerator, run, optimization, task),
    )
    set_seed(run.seed, device_specific=True)
    if checkpoint is not None:
        loop.load_state_dict(run_checkpoints.load(accelerator, checkpoint))
        num_left = run.num_updates - loop.update
        left = f"{counted(num_left, 'update')} to go" if num_left > 0 else "nothing is left to do"
        accelerator.print(f"resumed from {checkpoint}: {left}")
    if accelerator.is_main_process:
        write_training(output_dir, task.description)
    accelerator.wait_for_everyone()
    start_trackers(accelerator, run, task.description["arguments"])
    loop.run()
    if loop.interrupted:
        logger.warning(f"stopped by a signal after update {loop.update}; go on with --resume latest")
    else:
        _export(accelerator, output_dir, task)
        if accelerator.is_main_process:
            tell(_closing_lines(output_dir, task.next_steps))
    accelerator.end_training()  # afterwards, processes cannot talk to each other
    return INTERRUPTED if loop.interrupted else None


def _callbacks(
    accelerator: Accelerator, run: RunArguments, optimization: OptimizationArguments, task: Task
) -> list[Callback]:
    """Callbacks in the order in which they are called. A checkpoint comes after all that
    have a state, which it holds."""

    def export(folder: Path) -> None:
        _export(accelerator, folder, task)

    def measure() -> dict[str, Tensor]:
        with task.final_weights():
            return task.measure()

    def draw() -> list[Strip] | None:
        with task.final_weights():
            return task.draw()

    callbacks = [Metrics(accelerator, run.log_every, optimization.batch_size), *task.callbacks]
    if task.average is not None:
        callbacks.append(task.average)
    has_validation = task.validation_loader is not None
    if has_validation and run.validate_every:
        callbacks.append(Validation(run.validate_every, measure))
    if has_validation and run.sample_every:
        callbacks.append(Samples(run.sample_every, draw))
    callbacks.append(Checkpoints(run.save_every, run.keep_checkpoints, export, task.description))
    callbacks.append(Curves(run.validate_every or run.save_every))
    if run.push_to_hub is not None:
        callbacks.append(Uploads(run.save_every, run.push_to_hub, run.hub_private, export))
    return callbacks


def _compare(checkpoint: Path, training: dict[str, Any]) -> dict[str, Any]:
    """The record of a training that goes on from a checkpoint, which must be of the same one."""
    state = run_checkpoints.read_state(checkpoint)
    if "training" not in state:
        logger.warning(
            f"{checkpoint} is of an earlier version, which did not note the arguments: nothing compares them"
        )
        return training
    resumed = resumed_training(state["training"], training, checkpoint, state["update"])
    is_finished = state["update"] >= training["arguments"]["num_updates"]
    return state["training"] if is_finished else resumed  # no update of a finished training was made by this command


def _closing_lines(output_dir: Path, next_steps: Sequence[str]) -> str:
    """What a finished training wrote, and what can be done with it."""
    best = output_dir / BEST
    file = best / VALIDATION_FILE
    lines = [f"{output_dir}: the model after the last update"]
    if file.is_file():
        entry = read_object(file)
        loss = entry["validation/loss"]
        lines.append(f"{best}: the model with the lowest validation loss, {loss:.4f} after update {entry['update']}")
    model = shlex.quote(str(best if file.is_file() else output_dir))
    return "\n".join([*lines, *(f"next: {step.replace(MODEL, model)}" for step in next_steps)])


def _export(accelerator: Accelerator, folder: Path, task: Task) -> None:
    """Write the model, and what is known of its making."""
    with task.final_weights():
        task.save(folder)
    if accelerator.is_main_process:
        write_training(folder, task.description)
        log = Path(task.description["arguments"]["output_dir"]) / TRAINING_LOG_FILE
        if folder != log.parent and log.exists():
            (folder / TRAINING_LOG_FILE).write_bytes(log.read_bytes())
    accelerator.wait_for_everyone()
