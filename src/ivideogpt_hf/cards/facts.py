"""Facts about a checkpoint, for people to read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..decoding.layers import compute_dtype
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..spec import WorldModelSpec
from .text import counted


@dataclass(frozen=True)
class Facts:
    """Facts about a checkpoint.

    Attributes:
        spec: sizes and abilities, for programs.
        table: names and values of all facts, for people.
    """

    spec: WorldModelSpec
    table: dict[str, str]


def facts_of(vq_model: IVideoGPTVQModel, transformer: IVideoGPTForCausalLM, spec: WorldModelSpec) -> Facts:
    """Collect the facts: sizes, token layout and memory."""
    layout, config = transformer.config.layout, transformer.config
    height, width = spec.frame_size
    rows, columns = vq_model.config.context_grid
    dynamics_rows, dynamics_columns = vq_model.config.dynamics_grid
    element = compute_dtype(transformer).itemsize
    bytes_per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * element
    table = {
        "frames": f"{height} x {width} pixels",
        "context": counted(spec.num_context_frames, "frame")
        + (", the first is the goal" if spec.goal_conditioned else "")
        + (", the last is coded twice" if layout.repeat_last_context else ""),
        "actions": f"{spec.action_dim} wide" if spec.action_dim else "none (action-free)",
        "reward head": "yes" if spec.has_reward else "no",
        "tokens per context frame": f"{layout.tokens_per_context_frame} ({rows} x {columns})",
        "tokens per future frame": f"{layout.tokens_per_future_frame} ({dynamics_rows} x {dynamics_columns})",
        "vocabulary": f"{layout.vocab_size} = {layout.num_context_codes} context + {layout.num_dynamics_codes} "
        f"dynamics codes + 2",
        "future frames": f"up to {spec.max_future_frames}, then re-anchored"
        + ("" if spec.num_trained_frames is None else f" (trained on {spec.num_trained_frames})"),
        "VQ model": f"{_count(vq_model):,} parameters",
        "transformer": f"{_count(transformer):,} parameters, {config.num_hidden_layers} layers, "
        f"{config.hidden_size} wide, {config.num_attention_heads} heads",
        "weights": f"{_megabytes(vq_model) + _megabytes(transformer):.1f} MB as "
        f"{str(transformer.dtype).removeprefix('torch.')}",
        "cache per context": f"{bytes_per_position * (layout.prompt_length - 1) / 2**20:.1f} MB",
        "cache per frame and candidate": f"{bytes_per_position * layout.block_length / 2**20:.2f} MB",
    }
    return Facts(spec, table)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _megabytes(network: nn.Module) -> float:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters()) / 2**20
