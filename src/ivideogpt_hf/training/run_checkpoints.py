"""Checkpoints of a run: written aside and renamed, checked by hash when read, and rotated afterwards."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from accelerate.utils import load as load_pickle  # with weights_only
from accelerate.utils.constants import RNG_STATE_NAME
from safetensors import SafetensorError

from ..run_folder import PARTIAL, as_json, read_object, replace_folder

logger = get_logger(__name__)

PREFIX = "update-"
STATE_FILE, MANIFEST_FILE = "state.json", "manifest.json"
CUSTOM_STATE_NAME = "custom_checkpoint"  # of Accelerate's files


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints in a folder that have their final names, oldest first; their content is not checked."""
    paths = folder.glob(f"{PREFIX}*")
    return sorted(path for path in paths if path.is_dir() and path.suffix != PARTIAL)


def save(accelerator: Accelerator, folder: Path, update: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint: weights, optimisers and random states of all processes, and a state.

    Args:
        accelerator: processes of the run.
        folder: folder of the run's checkpoints.
        update: number of updates done.
        state: state that Accelerate does not save, as JSON.

    Returns:
        Folder of the checkpoint.

    Raises:
        OSError: if it cannot be written, such as on a full disk. Earlier checkpoints are untouched.
    """
    target = folder / f"{PREFIX}{update:08d}"
    partial_folder = target.with_name(target.name + PARTIAL)
    if accelerator.is_main_process:
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial_folder))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial_folder / STATE_FILE).write_text(as_json(state), encoding="utf-8")
            _seal(partial_folder)
            # There is a target already where a run was resumed from an earlier checkpoint.
            replace_folder(target, partial_folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise OSError(
            f"the checkpoint {target} could not be written, those before it are untouched: {error}"
        ) from error
    accelerator.wait_for_everyone()
    return target


def _seal(folder: Path) -> None:
    """Write the manifest, which tells a complete checkpoint from a damaged one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / MANIFEST_FILE).write_text(as_json(manifest), encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def problem_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = read_object(checkpoint / MANIFEST_FILE)
        for name, digest in manifest.items():
            if _digest(checkpoint / name) != digest:
                return f"{name} is corrupt"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{MANIFEST_FILE} cannot be read: {error}"
    return None


def choose(accelerator: Accelerator, folder: Path, resume: str) -> Path | None:
    """The checkpoint to go on from, the same on all processes; None if there is none yet.

    Args:
        accelerator: processes of the run.
        folder: folder of the run's checkpoints.
        resume: path of a checkpoint, or "latest", which skips broken checkpoints with a warning.

    Raises:
        OSError: if the named checkpoint is broken, or all are.
    """
    path_and_message: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            path_and_message[0] = _choose(folder, resume)
        except OSError as error:
            path_and_message[1] = str(error)
    broadcast_object_list(path_and_message)
    if path_and_message[1] is not None:
        raise OSError(path_and_message[1])
    return path_and_message[0]


def _choose(folder: Path, resume: str) -> Path | None:
    if resume != "latest":
        problem = problem_of(Path(resume))
        if problem is not None:
            raise OSError(f"the checkpoint {resume} cannot be used: {problem}")
        return Path(resume)
    for path in folder.glob(f"{PREFIX}*{PARTIAL}"):
        logger.warning(f"skipped the checkpoint {path}: it was not written to its end")
    candidates = checkpoints_in(folder)
    for checkpoint in reversed(candidates):
        problem = problem_of(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning(f"skipped the checkpoint {checkpoint}: {problem}")
    if candidates:
        raise OSError(f"none of the {len(candidates)} checkpoints in {folder} can be used")
    return None


def load(accelerator: Accelerator, checkpoint: Path) -> dict[str, Any]:
    """Put weights, optimisers and random states back; returns the state that was saved with them.

    Args:
        accelerator: processes of the run, with the prepared models and optimisers.
        checkpoint: folder of the checkpoint.

    Raises:
        OSError: if the random state of this process, or an average of the weights, cannot be read.
        ValueError: if the checkpoint is of another model.
    """
    _check_averages(checkpoint)
    try:
        accelerator.load_state(str(checkpoint))
    except RuntimeError as error:
        raise ValueError(f"the checkpoint {checkpoint} is of another model: {error}") from error
    _check_random_state(checkpoint / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl")
    return read_state(checkpoint)


def _check_averages(checkpoint: Path) -> None:
    """Accelerate reads objects that were registered with it by all of pickle, which runs what a file says. So they are
    read before, and refused if they hold anything else than tensors and plain values."""
    for file in checkpoint.glob(f"{CUSTOM_STATE_NAME}_*.pkl"):
        try:
            load_pickle(file, map_location="cpu")
        except Exception as error:  # as for the random state
            raise OSError(f"{file} cannot be read as tensors and plain values, and nothing else is: {error}") from error


def _check_random_state(file: Path) -> None:
    """Accelerate goes on without a random state that it cannot read. A run would then be another one."""
    if not file.exists():  # there are more processes than before
        return
    try:
        saved = load_pickle(file)["torch_manual_seed"]
    except Exception as error:  # whatever a damaged pickle, or one of another version of numpy, brings about
        raise OSError(f"{file} cannot be read, and without its random state the run would be another one") from error
    if not torch.equal(torch.get_rng_state(), saved):
        raise OSError(f"the random state in {file} could not be put back, and without it the run would be another one")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state that was saved in a checkpoint besides weights, optimisers and random states."""
    return read_object(checkpoint / STATE_FILE)


def rotate(folder: Path, max_checkpoints: int) -> None:
    """Delete all but the last checkpoints and the one with the lowest validation loss.

    Args:
        folder: folder of the run's checkpoints.
        max_checkpoints: number of the last checkpoints to keep.
    """
    checkpoints = checkpoints_in(folder)
    losses = {path: _validation_loss(path) for path in checkpoints}
    losses = {path: loss for path, loss in losses.items() if loss is not None}
    best = min(losses, key=losses.__getitem__) if losses else None
    for path in checkpoints[:-max_checkpoints]:
        if path != best:
            shutil.rmtree(path)
    for path in folder.glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(path)


def _validation_loss(checkpoint: Path) -> float | None:
    try:
        state = read_state(checkpoint)
    except OSError:
        return None
    return state.get("validation_loss")
