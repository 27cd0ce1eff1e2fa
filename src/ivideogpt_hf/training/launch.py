"""Processes and precision: the `Accelerator` of a run, with as many processes as were asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed

from ..run_folder import lock
from .arguments import RunArguments


def start_processes(
    mixed_precision: str | None,
    num_processes: int | None,
    *,
    tracker: str | None = None,
    project_dir: str | None = None,
) -> Accelerator:
    """Join the other processes of a run.

    Launchers can fall back to single processes without a word. Each of them would train on all clips and overwrite the
    others' files.

    Args:
        mixed_precision: precision of the arithmetic; None: what the Accelerate config says.
        num_processes: number of processes that must run; None: as many as do.
        tracker: name of the tracker that gets the metrics; None: no tracker.
        project_dir: folder of a tracker that writes files.

    Raises:
        ValueError: if there are not as many processes as the launcher or the configuration says.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision, log_with=tracker, project_dir=project_dir)
    num_launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != num_launched:
        # torch has joined the processes nevertheless, through a store in the first one, which must outlive the joining.
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        raise ValueError(
            f"{num_launched} processes were launched (WORLD_SIZE), but each trains alone: on a CPU, set the "
            f"environment variable ACCELERATE_USE_CPU=true for torchrun or `accelerate launch --multi_gpu`"
        )
    if num_processes is not None and accelerator.num_processes != num_processes:
        raise ValueError(
            f"num_processes is {num_processes}, but {accelerator.num_processes} run: start the command with "
            f"`accelerate launch --config_file configs/accelerate/...`; on a CPU, --multi_gpu with ACCELERATE_USE_CPU="
            f"true (--cpu starts one process only)"
        )
    return accelerator


@contextmanager
def only_writer(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Let the processes of this run write a folder, and no other run at the same time.

    Args:
        accelerator: processes of this run.
        folder: folder to write.

    Raises:
        OSError: on every process, if another run writes the folder, or it cannot be written.
    """
    with ExitStack() as stack:
        message = [None]
        if accelerator.is_main_process:
            try:
                stack.enter_context(lock(folder))
            except OSError as error:
                message[0] = str(error)
        broadcast_object_list(message)
        if message[0] is not None:
            raise OSError(message[0])
        yield


def start_run(run: RunArguments) -> Accelerator:
    """`start_processes` with the tracker of a run, and every random generator seeded by process.

    Raises:
        ImportError: if the tracker is not installed.
        ValueError: see `start_processes`.
    """
    tracker = None if run.tracker == "none" else run.tracker
    if tracker is not None and find_spec(tracker) is None:
        raise ImportError(f"tracker {tracker} is not installed: pip install {tracker}, or set tracker to none")
    accelerator = start_processes(run.mixed_precision, run.num_processes, tracker=tracker, project_dir=run.output_dir)
    set_seed(run.seed, device_specific=True)
    return accelerator


def start_trackers(accelerator: Accelerator, run: RunArguments, configuration: dict[str, Any]) -> None:
    """Open the tracker, or go on in the tracker's run of the same output folder.

    Args:
        accelerator: processes of the run.
        run: settings of the run, which name the tracker.
        configuration: arguments of the training, for the tracker to show.
    """
    name = run.run_name or Path(run.output_dir).resolve().name
    identity = hashlib.sha256(os.fspath(Path(run.output_dir).resolve()).encode()).hexdigest()[:8]
    accelerator.init_trackers(
        "ivideogpt",
        config={
            key: value if isinstance(value, (int, float, str)) else str(value) for key, value in configuration.items()
        },
        init_kwargs={
            "trackio": {"name": name, "resume": "allow", "embed": False},
            "wandb": {"name": name, "id": identity, "resume": "allow"},
        },
    )
