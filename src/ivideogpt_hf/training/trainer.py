"""From a model and its losses to a finished run: what the two trainings have in common around the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from torch import Tensor, nn

from ..data.clips.loader import ClipLoader
from . import run_checkpoints
from .arguments import OptimizationArguments, RunArguments, require
from .callbacks import CHECKPOINTS, TRAINING_LOG_FILE, Checkpoints, Metrics, Samples, Uploads, Validation
from .launch import start_trackers
from .loop import Batch, Callback, Loop, Loss, Phase
from .optimizers import make_optimizer, make_scheduler
from .record import write_training

logger = get_logger(__name__)

# Like sysexits.h's EX_TEMPFAIL: the run was asked to stop, saved its state, and can be resumed.
INTERRUPTED = 75


@dataclass
class Task:
    """What is trained, as the step files give it.

    Attributes:
        phases: of an update.
        loader: of training clips.
        source_names: of the loader's sources.
        measure: see `Validation`; None: there is nothing to validate on.
        draw: see `Samples`; None: nothing to draw.
        save: writes the model to a folder; called on every process.
        training: see `describe_training`.
        callbacks: that belong to this training.
    """

    phases: Sequence[Phase]
    loader: ClipLoader
    source_names: Sequence[str]
    measure: Callable[[], dict[str, Tensor]] | None
    draw: Callable[[], Tensor | None] | None
    save: Callable[[Path], None]
    training: dict[str, Any]
    callbacks: Sequence[Callback] = ()


def check_run(run: RunArguments, optimization: OptimizationArguments, num_processes: int) -> int:
    """Check what can be checked before any data is read.

    Returns:
        This process's share of a batch.

    Raises:
        ValueError: if the batch does not divide, or the output folder holds another run.
    """
    batch, micro = optimization.batch_size, optimization.micro_batch_size
    share, rest = divmod(batch, num_processes)
    require(not rest and share > 0, f"batch_size {batch} must be a multiple of the {num_processes} processes")
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
    return share


def make_phase(
    accelerator: Accelerator,
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, Batch, Any, int], Loss],
    run: RunArguments,
    optimization: OptimizationArguments,
    **changes: Any,
) -> Phase:
    """Distribute a model and give it an optimiser. ``loss`` is called with the distributed model in front of what
    `Phase` says; ``changes`` are other arguments of `Phase`, and a ``learning_rate`` of its own."""
    rate = changes.pop("learning_rate", optimization.learning_rate)
    num_updates = run.num_updates - changes.get("first_update", 0)
    if run.compile:
        model.compile()
    optimizer = make_optimizer(model, rate, optimization.weight_decay)
    scheduler = make_scheduler(optimizer, optimization.schedule, optimization.warmup_updates, num_updates)
    distributed, optimizer = accelerator.prepare(model.train(), optimizer)
    return Phase(name, distributed, optimizer, scheduler, lambda *inputs: loss(distributed, *inputs), **changes)


def run_training(
    accelerator: Accelerator, run: RunArguments, optimization: OptimizationArguments, task: Task
) -> int | None:
    """Train, and write the finished model to the output folder.

    Returns:
        None, or the exit code of a run that a signal asked to stop.

    Raises:
        OSError: if a checkpoint cannot be read or written.
        NonFiniteLossError, MemoryError: see `Loop`.
    """
    output_dir = Path(run.output_dir)
    loop = Loop(
        accelerator,
        task.phases,
        task.loader,
        task.source_names,
        run.num_updates,
        optimization.max_grad_norm,
        output_dir,
        optimization.micro_batch_size,
        callbacks=_callbacks(accelerator, run, optimization, task),
    )
    set_seed(run.seed, device_specific=True)
    if run.resume is not None:
        _resume(accelerator, run, loop)
    if accelerator.is_main_process:
        write_training(output_dir, task.training)
    accelerator.wait_for_everyone()
    start_trackers(accelerator, run, task.training["arguments"])
    loop.run()
    if loop.interrupted:
        logger.warning(f"stopped by a signal after update {loop.update}; go on with --resume latest")
    else:
        _export(accelerator, output_dir, task)
    accelerator.end_training()  # afterwards, processes cannot talk to each other
    return INTERRUPTED if loop.interrupted else None


def _callbacks(
    accelerator: Accelerator, run: RunArguments, optimization: OptimizationArguments, task: Task
) -> list[Callback]:
    """In the order in which they are called: a checkpoint comes last, so that it holds the state of the others."""

    def export(folder: Path) -> None:
        _export(accelerator, folder, task)

    callbacks = [Metrics(accelerator, run.log_every, optimization.batch_size), *task.callbacks]
    if task.measure is not None and run.validate_every:
        callbacks.append(Validation(run.validate_every, task.measure))
    if task.draw is not None and run.sample_every:
        callbacks.append(Samples(run.sample_every, task.draw))
    callbacks.append(Checkpoints(run.save_every, run.keep_checkpoints, export))
    if run.push_to_hub is not None:
        callbacks.append(Uploads(run.save_every, run.push_to_hub, run.hub_private, export))
    return callbacks


def _resume(accelerator: Accelerator, run: RunArguments, loop: Loop) -> None:
    checkpoint = run_checkpoints.choose(accelerator, Path(run.output_dir) / CHECKPOINTS, run.resume)
    if checkpoint is None:
        accelerator.print(f"nothing to resume in {run.output_dir}: starting from the beginning")
        return
    loop.load_state_dict(run_checkpoints.load(accelerator, checkpoint))
    accelerator.print(f"resumed from {checkpoint}")


def _export(accelerator: Accelerator, folder: Path, task: Task) -> None:
    """The model with what is known of its making."""
    task.save(folder)
    if accelerator.is_main_process:
        write_training(folder, task.training)
        log = Path(task.training["arguments"]["output_dir"]) / TRAINING_LOG_FILE
        if folder != log.parent and log.exists():
            (folder / TRAINING_LOG_FILE).write_bytes(log.read_bytes())
    accelerator.wait_for_everyone()


def mean_over_batches(
    loader: ClipLoader, num_batches: int, accelerator: Accelerator, measure: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Means of what ``measure`` gives for the first batches of a validation loader, always the same ones."""
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "batch": 0})
    measured = []
    with torch.no_grad(), accelerator.autocast():
        for number, batch in enumerate(loader):
            if number == num_batches:
                break
            measured.append(measure({key: value.to(accelerator.device) for key, value in batch.items()}))
    return {name: torch.stack([entry[name].float() for entry in measured]).mean() for name in measured[0]}
