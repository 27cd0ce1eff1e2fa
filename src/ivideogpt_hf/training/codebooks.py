"""Health of the codebooks: how much of each is used, and codes that are not used moved to where vectors are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor

from ..data.clips.order import hash_seed
from ..metrics.codes import perplexity
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel, IVideoGPTVQOutput
from ..models.vq_layers import Codebook
from .callbacks import is_due, write_entry
from .loop import Callback, Loop

logger = get_logger(__name__)

# Below this share of its codes, a codebook has collapsed.
COLLAPSED_SHARE = 0.05


@dataclass
class Codebooks(Callback):
    """Counts which codes are used, reports it, and restarts those that are not.

    Attributes:
        accelerator: processes whose counts are added.
        model: VQ model before Accelerate distributed it.
        optimizer: optimiser of the model, which forgets the momentum of a restarted code.
        seed: seed of the choice of vectors that unused codes are moved to.
        log_every: number of updates between two reports.
        restart_every: number of updates between two restarts; 0: never.
        restart_until: update after which no code restarts.
    """

    accelerator: Accelerator
    model: IVideoGPTVQModel
    optimizer: torch.optim.Optimizer
    seed: int
    log_every: int
    restart_every: int
    restart_until: int
    _counts_since_report: dict[str, Tensor] = field(default_factory=dict)
    _counts_since_restart: dict[str, Tensor] = field(default_factory=dict)
    _latents: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._books = {"context": self.model.quantize, "dynamics": self.model.dynamics_quantize}
        for counts in (self._counts_since_report, self._counts_since_restart):
            counts.update({name: torch.zeros(book.num_codes) for name, book in self._books.items()})

    def record(self, output: IVideoGPTVQOutput, update: int) -> None:
        """Count the codes of a training batch, or of a part of it.

        Args:
            output: output of the model for the batch.
            update: number of updates done before this one.
        """
        if self._is_due(update + 1):
            batch_size = len(output.context_tokens)
            for name, latents in (("context", output.context_latents), ("dynamics", output.future_latents)):
                self._latents.setdefault(name, []).append(latents.detach().float().unflatten(0, (batch_size, -1)))
        for name, codes in (("context", output.context_tokens), ("dynamics", output.future_tokens)):
            counts = codes.flatten().bincount(minlength=len(self._counts_since_restart[name])).to("cpu", torch.float32)
            self._counts_since_restart[name] += counts
            self._counts_since_report[name] += counts

    def _is_due(self, update: int) -> bool:
        return bool(self.restart_every) and update % self.restart_every == 0 and update <= self.restart_until

    def on_update(self, loop: Loop, metrics: dict[str, Tensor]) -> None:
        if is_due(loop, self.log_every):
            self._report(loop)
        if self._is_due(loop.update):
            for name, book in self._books.items():
                if isinstance(book, Codebook):  # finite scalar quantisation has no vectors to move
                    self._restart(name, loop.update)
            self._latents.clear()

    def _report(self, loop: Loop) -> None:
        entry = {}
        for name, counts in self._counts_since_report.items():
            counts = self._over_processes(counts)
            num_used = int((counts > 0).sum())
            entry[f"codebook/{name}_usage"] = num_used / len(counts)
            entry[f"codebook/{name}_perplexity"] = perplexity(counts)
            entry[f"codebook/{name}_dead"] = len(counts) - num_used
            if num_used < max(2, COLLAPSED_SHARE * len(counts)):
                logger.warning(
                    f"the {name} codebook has collapsed: {num_used} of {len(counts)} codes were used since the last "
                    f"entry; set restart_dead_codes, or take a smaller codebook"
                )
            self._counts_since_report[name].zero_()
        write_entry(loop, entry)

    @torch.no_grad()
    def _restart(self, name: str, update: int) -> None:
        """Move each unused code onto a vector that the encoder just made, the same on any number of processes."""
        weight = self._books[name].embedding.weight
        indices = torch.nonzero(self._over_processes(self._counts_since_restart[name]) == 0)[:, 0].to(weight.device)
        self._counts_since_restart[name].zero_()
        # Clip i of a batch is clip i // processes of process i % processes: this puts them back in order.
        clips = self.accelerator.gather(torch.cat(self._latents[name]).contiguous())
        vectors = clips.unflatten(0, (self.accelerator.num_processes, -1)).transpose(0, 1).flatten(0, -2)
        generator = torch.Generator().manual_seed(hash_seed("restart", self.seed, update, name) % 2**63)
        choice = torch.randint(len(vectors), (len(indices),), generator=generator)
        weight[indices] = vectors[choice.to(vectors.device)].to(weight.dtype)
        for value in self.optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value[indices] = 0

    def _over_processes(self, counts: Tensor) -> Tensor:
        return self.accelerator.reduce(counts.to(self.accelerator.device), "sum").cpu()

    def state_dict(self) -> dict[str, Any]:
        return {
            kind: {name: self._over_processes(values).tolist() for name, values in counts.items()}
            for kind, counts in (("logged", self._counts_since_report), ("used", self._counts_since_restart))
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:  # the saved counts are those of all processes together
            for counts, values_by_name in (
                (self._counts_since_report, state["logged"]),
                (self._counts_since_restart, state["used"]),
            ):
                counts.update({name: torch.tensor(values) for name, values in values_by_name.items()})
