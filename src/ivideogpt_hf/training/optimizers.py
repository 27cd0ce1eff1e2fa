"""Optimisers, their parameter groups, and schedules."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> AdamW:
    """AdamW over the parameters that need a gradient. Biases, norms (all vectors) and embeddings do not decay.

    Args:
        model: model to train.
        learning_rate: learning rate after warm-up.
        weight_decay: weight decay of the other parameters.
    """
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1 and id(parameter) not in embeddings]
    others = [parameter for parameter in parameters if parameter.ndim <= 1 or id(parameter) in embeddings]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def make_scheduler(optimizer: AdamW, schedule: str, warmup_updates: int, num_updates: int) -> LambdaLR:
    """A schedule of the learning rate: a linear rise, then a constant rate or a fall to zero.

    Args:
        optimizer: optimiser whose learning rate changes.
        schedule: course after the rise, "constant" or "cosine".
        warmup_updates: number of updates of the rise.
        num_updates: number of updates in all, at which a cosine reaches zero.
    """
    return get_scheduler(
        SCHEDULES[schedule], optimizer, num_warmup_steps=warmup_updates, num_training_steps=num_updates
    )


def apply_schedule(scheduler: LambdaLR) -> None:
    """Give the optimiser the learning rate of the scheduler's own schedule, where its state came from another one: a
    run that goes on may have another number of updates."""
    for group, base, factor in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
