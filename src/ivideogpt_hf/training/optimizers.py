"""Optimisers, their parameter groups, and schedules."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW; biases, norms (all vectors) and embeddings do not decay."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1 and id(parameter) not in embeddings]
    others = [parameter for parameter in trained if parameter.ndim <= 1 or id(parameter) in embeddings]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def make_scheduler(optimizer: AdamW, schedule: str, warmup_updates: int, num_updates: int) -> LRScheduler:
    """A linear rise, then a "constant" rate or a "cosine" fall to zero."""
    return get_scheduler(
        SCHEDULES[schedule], optimizer, num_warmup_steps=warmup_updates, num_training_steps=num_updates
    )
