"""Health of the codebooks: how much of each is used, and codes that are not used moved to where vectors are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import broadcast
from torch import Tensor

from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel, IVideoGPTVQOutput
from .callbacks import is_due, write_entry
from .loop import Callback, Loop

logger = get_logger(__name__)

# Below this share of its codes, a codebook has collapsed.
COLLAPSED_SHARE = 0.05


def perplexity(counts: Tensor) -> float:
    """Of how many equally frequent codes these counts have the entropy."""
    share = counts.double() / counts.sum().clamp(min=1)
    return torch.exp(torch.special.entr(share).sum()).item()


@dataclass
class Codebooks(Callback):
    """Counts which codes are used, reports it, and restarts those that are not.

    Attributes:
        accelerator: the processes, whose counts are added.
        model: the bare model.
        optimizer: whose momentum of a restarted code is forgotten.
        log_every: updates between two reports.
        restart_every: updates between two restarts; 0: never.
        restart_until: update after which none restarts.
    """

    accelerator: Accelerator
    model: IVideoGPTVQModel
    optimizer: torch.optim.Optimizer
    log_every: int
    restart_every: int
    restart_until: int
    _logged: dict[str, Tensor] = field(default_factory=dict)
    _used: dict[str, Tensor] = field(default_factory=dict)
    _latents: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._books = {"context": self.model.quantize, "dynamics": self.model.dynamics_quantize}
        for counts in (self._logged, self._used):
            counts.update({name: torch.zeros(len(book.embedding.weight)) for name, book in self._books.items()})

    def record(self, output: IVideoGPTVQOutput) -> None:
        """Count the codes of a training batch."""
        self._latents = {"context": output.context_latents.detach(), "dynamics": output.future_latents.detach()}
        for name, codes in (("context", output.context_tokens), ("dynamics", output.future_tokens)):
            counts = codes.flatten().bincount(minlength=len(self._used[name])).to("cpu", torch.float32)
            self._used[name] += counts
            self._logged[name] += counts

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if is_due(loop, self.log_every):
            self._report(loop)
        if self.restart_every and loop.update % self.restart_every == 0 and loop.update <= self.restart_until:
            for name in self._books:
                self._restart(name)

    def _report(self, loop: Loop) -> None:
        entry = {}
        for name, counts in self._logged.items():
            counts = self._over_processes(counts)
            used = int((counts > 0).sum())
            entry[f"codebook/{name}_usage"] = used / len(counts)
            entry[f"codebook/{name}_perplexity"] = perplexity(counts)
            entry[f"codebook/{name}_dead"] = len(counts) - used
            if used < max(2, COLLAPSED_SHARE * len(counts)):
                logger.warning(
                    f"the {name} codebook has collapsed: {used} of {len(counts)} codes were used since the last entry; "
                    f"set restart_dead_codes, or take a smaller codebook"
                )
            self._logged[name].zero_()
        write_entry(loop, entry)

    @torch.no_grad()
    def _restart(self, name: str) -> None:
        """Move each unused code onto a vector that the encoder just made; the main process draws for all."""
        weight = self._books[name].embedding.weight
        unused = torch.nonzero(self._over_processes(self._used[name]) == 0)[:, 0].to(weight.device)
        self._used[name].zero_()
        if not len(unused):
            return
        vectors = self._latents[name].flatten(0, -2).float()
        moved = vectors[torch.randint(len(vectors), (len(unused),)).to(vectors.device)].to(weight.dtype)
        weight[unused] = broadcast(moved.contiguous())
        for value in self.optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value[unused] = 0

    def _over_processes(self, counts: Tensor) -> Tensor:
        return self.accelerator.reduce(counts.to(self.accelerator.device), "sum").cpu()

    def state_dict(self) -> dict[str, Any]:
        return {
            kind: {name: self._over_processes(values).tolist() for name, values in counts.items()}
            for kind, counts in (("logged", self._logged), ("used", self._used))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:  # the saved counts are those of all processes together
            for counts, saved in ((self._logged, state["logged"]), (self._used, state["used"])):
                counts.update({name: torch.tensor(values) for name, values in saved.items()})
