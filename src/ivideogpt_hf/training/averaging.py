"""Exponential moving average of the weights (Polyak & Juditsky, 1992), which predicts better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from .arguments import require
from .loop import Callback, Loop


class AveragedWeights(Callback):
    """Averages the weights that are trained, and puts the average in their place while a model is measured or saved.

    Args:
        accelerator: processes of the run; its checkpoints hold the average.
        model: model that is trained, as Accelerate prepared it.
        decay: share of the average that stays with each update, in [0, 1). The first updates count more: after n of
            them it is at most (1 + n) / (10 + n).

    Raises:
        ValueError: if the weights are sharded.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, decay: float) -> None:
        require(
            accelerator.distributed_type != DistributedType.FSDP,
            "average_decay and FSDP exclude each other: the average is kept of whole weights",
        )
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._average = EMAModel(self._parameters, decay=decay, foreach=True)
        accelerator.register_for_checkpointing(self._average)

    def on_start(self, loop: Loop) -> None:
        # Accelerate reads the average of a run that goes on into the CPU's memory.
        self._average.to(self._parameters[0].device)

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        self._average.step(self._parameters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the average as its weights."""
        self._average.store(self._parameters)
        self._average.copy_to(self._parameters)
        try:
            yield
        finally:
            self._average.restore(self._parameters)
