"""Arguments of DrQ-v2 that belong together: the paper's, and such for a CPU."""

from __future__ import annotations

import copy
from typing import Any

# "paper" has the settings of iVideoGPT's experiments (table 5): those of DrQ-v2 for smaller frames, with two updates
# for each step and weight decay. "cpu" learns tasks of Meta-world in minutes on one thread.
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "learning_rate": 1e-4,
        "buffer_size": 200_000,
        "learning_starts": 2000,
        "batch_size": 256,
        "gradient_steps": 2,
        "std_steps": 100_000,
        "policy_kwargs": {
            "num_channels": 32,
            "strides": (2, 1, 1, 1),
            "trunk_dim": 50,
            "hidden_dim": 1024,
            "optimizer_kwargs": {"weight_decay": 1e-6},
        },
    },
    "cpu": {
        "learning_rate": 2e-4,
        "buffer_size": 50_000,
        "learning_starts": 500,
        "batch_size": 64,
        "gradient_steps": 1,
        "std_steps": 2000,
        "reward_scale": 0.1,
        "mixed_precision": "bf16",
        "policy_kwargs": {
            "num_channels": 32,
            "strides": (2, 2, 1, 1),
            "trunk_dim": 50,
            "hidden_dim": 256,
            "optimizer_kwargs": {"fused": True},
        },
    },
}


def preset(name: str) -> dict[str, Any]:
    """Arguments of `DrQv2` that belong together.

    Args:
        name: "paper", the settings of iVideoGPT's experiments, for a GPU, or "cpu", smaller networks and batches that
            learn in minutes on one thread.

    Raises:
        ValueError: if there is no such preset.

    Example:
        >>> from ivideogpt_hf.rl.agents.presets import preset
        >>> preset("cpu")["batch_size"], preset("paper")["batch_size"]
        (64, 256)
    """
    if name not in _PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, _PRESETS))}, got {name!r}")
    return copy.deepcopy(_PRESETS[name])
