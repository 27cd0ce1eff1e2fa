"""The training loop. It knows Accelerate, batches and losses, but no model: what a batch means stands in a `Phase`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .memory import is_out_of_memory
from .optimizers import apply_schedule

Batch = dict[str, Any]


class NonFiniteLossError(ValueError):
    """A loss or a gradient became NaN or infinite. The weights that it would have changed are unchanged."""


@dataclass(frozen=True)
class Loss:
    """What a phase makes of a batch.

    Attributes:
        value: scalar to minimise, a mean over the clips.
        metrics: scalars to report, detached.
        carry: data for the next phase of the same update, of any kind.
    """

    value: Tensor
    metrics: dict[str, Tensor]
    carry: Any = None


@dataclass
class Phase:
    """One optimiser's part of every update, such as the generator's and then the discriminator's.

    Attributes:
        name: prefix of the phase's gradient norm and learning rate among the metrics.
        model: model, prepared by Accelerate.
        optimizer: optimiser of the model's parameters, prepared by Accelerate.
        scheduler: schedule of the learning rate. Accelerate does not prepare it, since the rate must not depend on the
            number of processes.
        loss: loss function of a batch on the device, the carry of the phase before, and the number of updates done.
        first_update: update from which the phase takes part.
    """

    name: str
    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    loss: Callable[[Batch, Any, int], Loss]
    first_update: int = 0


class ResumableLoader(Protocol):
    """An epoch's batches, as dicts of tensors; see `ivideogpt_hf.data.clips.loader.ClipLoader`."""

    epoch: int

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Callback:
    """Something that happens besides the updates. Called in order, on every process."""

    def on_start(self, loop: Loop) -> None:
        """Before the first update, after a resume."""

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        """After each update, with this process's metrics of it."""

    def close(self) -> None:
        """At the end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of the callback, as JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""


@dataclass
class Loop:
    """Updates weights until a number of updates is reached, or a signal asks to stop.

    Attributes:
        accelerator: processes that take part, and their precision.
        phases: parts of an update, in their order.
        loader: loader of this process's share of every batch.
        source_names: names of the sources, by their numbers under "source" in a batch.
        num_updates: number of updates at which the loop ends.
        max_grad_norm: norm to which each phase's gradient is clipped.
        output_dir: folder in which a batch with a non-finite loss is written.
        micro_batch_size: number of clips that go through the model at a time; None: all of the share. It changes the
            memory that is needed, not the result, except for what is drawn at random and for the adaptive weight of an
            adversarial loss, which is a ratio of the gradients of each part.
        callbacks: callbacks, in the order in which they are called.
        update: number of updates done.
        interrupted: whether a signal asked to stop before the end.
        validation: entry of the last validation, if it was after the last update.
    """

    accelerator: Accelerator
    phases: Sequence[Phase]
    loader: ResumableLoader
    source_names: Sequence[str]
    num_updates: int
    max_grad_norm: float
    output_dir: Path
    micro_batch_size: int | None = None
    callbacks: Sequence[Callback] = ()
    update: int = 0
    interrupted: bool = False
    validation: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Train.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite on any process.
            MemoryError: if a batch does not fit; says what to lower.
        """
        try:
            for callback in self.callbacks:
                callback.on_start(self)
            self._update_until_the_end()
        finally:
            for callback in self.callbacks:
                callback.close()

    def _update_until_the_end(self) -> None:
        with stop_signals() as stop:
            while self.update < self.num_updates and not self.interrupted:
                for batch in self.loader:
                    metrics = self._do_update(send_to_device(batch, self.accelerator.device, non_blocking=True))
                    self.interrupted = self._any(stop.requested) and self.update < self.num_updates
                    for callback in self.callbacks:
                        callback.on_update(self, metrics)
                    if self.update >= self.num_updates or self.interrupted:
                        break

    def state_dict(self) -> dict[str, Any]:
        """Everything that Accelerate does not save, as JSON."""
        return {
            "update": self.update,
            "loader": self.loader.state_dict(),
            "schedulers": [phase.scheduler.state_dict() for phase in self.phases],
            "callbacks": {type(callback).__name__: callback.state_dict() for callback in self.callbacks},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another loop stood.

        Args:
            state: dict that the `state_dict` of that loop gave.

        Raises:
            ValueError: if the data of the two loops differ.
        """
        self.loader.load_state_dict(state["loader"])
        for phase, scheduler_state in zip(self.phases, state["schedulers"], strict=True):
            phase.scheduler.load_state_dict(scheduler_state)
            apply_schedule(phase.scheduler)
        for callback in self.callbacks:
            callback.load_state_dict(state["callbacks"].get(type(callback).__name__, {}))
        self.update = state["update"]

    def _do_update(self, batch: Batch) -> dict[str, Tensor]:
        """All phases on one batch; returns the metrics."""
        self.validation = {}
        metrics: dict[str, Tensor] = {}
        parts = _split(batch, self.micro_batch_size)
        carries: list[Any] = [None] * len(parts)
        for phase in self.phases:
            if self.update < phase.first_update:
                continue
            phase.optimizer.zero_grad()
            losses = self._accumulate(phase, parts, carries)
            norm = self._clip_gradient(phase)
            self._check_finite(losses, norm, parts)
            metrics[f"{phase.name}/grad_norm"] = norm
            metrics[f"{phase.name}/learning_rate"] = torch.tensor(phase.scheduler.get_last_lr()[0])
            phase.optimizer.step()
            phase.scheduler.step()
            carries = [loss.carry for loss in losses]
            for name in losses[0].metrics:
                metrics[name] = torch.stack([loss.metrics[name].float() for loss in losses]).mean()
        self.update += 1
        return metrics

    def _accumulate(self, phase: Phase, parts: list[Batch], carries: list[Any]) -> list[Loss]:
        """Gradients of the mean over all parts; they are summed over processes with the last part."""
        losses = []
        try:
            for number, (part, carry) in enumerate(zip(parts, carries, strict=True)):
                is_last = number == len(parts) - 1
                with nullcontext() if is_last else self.accelerator.no_sync(phase.model):
                    with self.accelerator.autocast():
                        loss = phase.loss(part, carry, self.update)
                    self.accelerator.backward(loss.value / len(parts))
                losses.append(Loss(loss.value.detach(), loss.metrics, loss.carry))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = len(parts[0]["source"])
            raise MemoryError(
                f"{size} clips at a time do not fit into memory: set micro_batch_size below {size} (batch_size and the "
                f"result stay the same), or switch gradient_checkpointing or mixed_precision on ({error})"
            ) from error
        return losses

    def _clip_gradient(self, phase: Phase) -> Tensor:
        """Clip the gradient of a phase, which may be sharded; returns its norm before."""
        norm = self.accelerator.clip_grad_norm_(phase.model.parameters(), self.max_grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)

    def _check_finite(self, losses: list[Loss], norm: Tensor, parts: list[Batch]) -> None:
        bad_parts = [part for loss, part in zip(losses, parts, strict=True) if not torch.isfinite(loss.value)]
        noun = "loss" if bad_parts else "gradient"
        # With a scaler, a gradient may overflow: the scaler then skips the update and lowers its scale.
        if not bad_parts and self.accelerator.scaler is None and not torch.isfinite(norm):
            bad_parts = [{key: torch.cat([part[key] for part in parts]) for key in parts[0]}]
        if not self._any(bool(bad_parts)):
            return
        update, rank = self.update + 1, self.accelerator.process_index
        if not bad_parts:
            raise NonFiniteLossError(f"update {update} failed on another process, whose message says more")
        file = self.output_dir / f"non_finite_update_{update}_rank_{rank}.safetensors"
        tensors = {key: value.cpu().contiguous() for key, value in bad_parts[0].items()}
        sources = [self.source_names[number] for number in tensors["source"].tolist()]
        save_file(tensors, file, metadata={"sources": json.dumps(sources)})
        raise NonFiniteLossError(
            f"the {noun} of update {update} is not finite; its batch, from {', '.join(sorted(set(sources)))}, is in "
            f"{file}. Look at it; a lower learning_rate or bf16 instead of fp16 often helps"
        )

    def _any(self, flag: bool) -> bool:
        """Whether a flag is set on any process."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)).item())


def _split(batch: Batch, size: int | None) -> list[Batch]:
    """Split a batch into parts of ``size`` clips, which must divide it: the mean over equal parts is the batch's."""
    total = len(batch["source"])
    if size is None or size >= total:
        return [batch]
    return [{key: value[first : first + size] for key, value in batch.items()} for first in range(0, total, size)]


@dataclass
class Stop:
    """Whether a signal asked to stop.

    Attributes:
        requested: whether one came.
    """

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let SIGTERM and SIGINT ask to stop after the update. A second SIGINT interrupts as usual."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    handlers = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
