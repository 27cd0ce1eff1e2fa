"""One pass through the transformer's layers, as lean as the arithmetic allows; who attends to what is the caller's.

On a CPU everything but the products with weights is float32, whatever the weights are in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from ..models.modeling_ivideogpt import IVideoGPTForCausalLM, PlacedActions
from .devices import device_of
from .overrides import override
from .plain import PlainParts
from .products import has_fast_products, project

# Called for each layer with its number, its query, key and value, each (rows, heads, n, head_dim) with positions
# applied, and the scale of the products, which the query does not have yet; returns (rows, heads, n, head_dim).
Attention = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
# Rotary position embeddings (Su et al., 2021): cosines and sines, each (rows or 1, n, 1, head_dim), the latter with the
# signs that `_apply_rotary` needs.
Rotary = tuple[Tensor, Tensor]


def compute_dtype(transformer: IVideoGPTForCausalLM) -> torch.dtype:
    """The dtype of hidden states, keys and values."""
    return torch.float32 if device_of(transformer).type == "cpu" else transformer.dtype


def convolution_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of a VQ model that is asked for in ``dtype``: float32 on a CPU without instructions for it."""
    half = device.type == "cpu" and dtype.itemsize == 2
    return torch.float32 if half and not has_fast_products(dtype) else dtype


def rotary_embeddings(transformer: IVideoGPTForCausalLM, positions: Tensor) -> Rotary:
    """Rotary position embeddings of positions (rows or 1, n)."""
    like = torch.empty(0, dtype=compute_dtype(transformer), device=positions.device)
    cos, sin = transformer.model.rotary_emb(like, positions)
    half = sin.shape[-1] // 2
    return cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)[:, :, None]


def run_layers(
    transformer: IVideoGPTForCausalLM,
    plain: PlainParts,
    x: Tensor,
    rotary: Rotary,
    attention: Attention,
    actions: Tensor | None = None,
    num_before: int = 0,
) -> Tensor:
    """Run embeddings through all layers.

    Args:
        transformer: model whose layers are run.
        plain: parts of it whose weights may be read; the others are called.
        x: embeddings (rows, n, hidden).
        rotary: rotary embeddings of the n positions.
        attention: function that attends, see `Attention`.
        actions: actions (rows, A) as the model takes them, for a model whose layers they modulate; None: no modulation.
        num_before: number of positions at the beginning that the actions do not modulate.

    Returns:
        The normed hidden states (rows, n, hidden).

    Raises:
        ValueError: if a layer of the user's does not attend by ``attention``.
    """
    rows, count = x.shape[:2]
    num_rows = rows * count
    # Rows of zeros, with which products are faster: kernels like small powers of two.
    padded = num_rows
    if num_rows < 16 and x.device.type == "cpu" and transformer.dtype == torch.float32:
        padded = max(2, 1 << (num_rows - 1).bit_length())
    x = _pad(x.flatten(0, 1).to(compute_dtype(transformer)), padded)
    if actions is not None:
        x = x.clone()  # which is written to
    for index, is_plain in enumerate(plain.layers):
        layer = transformer.model.layers[index]
        if is_plain:
            if actions is not None:
                acted_on = x[:num_rows].view(rows, count, -1)[:, num_before:]
                acted_on.copy_(layer.modulate(acted_on, actions[:, None]))
            x = _run_plain_layer(layer, index, x, rotary, attention, rows, count)
        else:
            called = _call_layer(
                transformer, index, x[:num_rows].view(rows, count, -1), rotary, attention, actions, num_before
            )
            x = _pad(called.reshape(num_rows, -1), padded)
    x = x[:num_rows]
    normed = _norm(x, transformer.model.norm) if plain.norm else transformer.model.norm(x)
    return normed.view(rows, count, -1)


def _run_plain_layer(
    layer: nn.Module, index: int, x: Tensor, rotary: Rotary, attention: Attention, rows: int, count: int
) -> Tensor:
    """A layer on (at least rows * count, hidden), by its weights."""
    num_rows, padded, projections, mlp = rows * count, len(x), layer.self_attn, layer.mlp
    linears = projections.q_proj, projections.k_proj, projections.v_proj
    normed = _as_multiplied(_norm(x, layer.input_layernorm), *linears)
    query, key, value = (
        _project(normed, linear)[:num_rows].reshape(rows, count, -1, projections.head_dim) for linear in linears
    )
    query, key = _apply_rotary(query, rotary), _apply_rotary(key, rotary)
    attended = attention(index, *(part.transpose(1, 2) for part in (query, key, value)), projections.scaling)
    x = x + _project(_pad(attended.transpose(1, 2).reshape(num_rows, -1), padded), projections.o_proj)
    normed = _as_multiplied(_norm(x, layer.post_attention_layernorm), mlp.gate_proj, mlp.up_proj)
    gated = mlp.act_fn(_project(normed, mlp.gate_proj)) * _project(normed, mlp.up_proj)
    return x + _project(gated.contiguous(), mlp.down_proj)


# -- layers that are called -------------------------------------------------------------------------------------------

# The name by which transformers' attention modules find `_attend_for_module`.
ATTENTION_NAME = "ivideogpt_rollout"


def _attend_for_module(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    return kwargs["rollout_attention"](query, key, value, kwargs["scaling"]), None


AttentionInterface.register(ATTENTION_NAME, _attend_for_module)


def _call_layer(
    transformer: IVideoGPTForCausalLM,
    index: int,
    x: Tensor,
    rotary: Rotary,
    attention: Attention,
    actions: Tensor | None,
    num_before: int,
) -> Tensor:
    """A layer on (rows, n, hidden), by its own call: whatever is inside it or hangs on it takes part."""
    has_attended = False

    def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        nonlocal has_attended
        has_attended = True
        parts = (part.to(x.dtype) for part in (query, key, value))
        return attention(index, *parts, scaling).transpose(1, 2).contiguous().to(value.dtype)

    dtype, (cos, sin) = transformer.dtype, (part[:, :, 0] for part in rotary)
    half = sin.shape[-1] // 2
    arguments: dict[str, Any] = {}
    if actions is not None:
        acts = torch.arange(x.shape[1], device=x.device) >= num_before
        arguments["placed_actions"] = PlacedActions(
            actions[:, None], torch.zeros_like(acts, dtype=torch.int64), acts, acts
        )
    layer = transformer.model.layers[index]
    with override(transformer, "_attn_implementation", value=ATTENTION_NAME, objects=[transformer.config]):
        called = layer(
            x.to(dtype),
            position_embeddings=(cos.to(dtype), torch.cat([-sin[..., :half], sin[..., half:]], dim=-1).to(dtype)),
            attention_mask=None,
            rollout_attention=attend,
            **arguments,
        )
    if not has_attended:
        raise ValueError(
            f"layer {index} of the transformer, a {type(layer).__name__}, cannot take part in rollouts: it does not "
            f"attend by transformers' attention interface and the transformer's config"
        )
    return called.to(x.dtype)


# -- products ---------------------------------------------------------------------------------------------------------


def _as_multiplied(x: Tensor, *linears: nn.Linear) -> Tensor:
    """What several products take, converted once for all of them, where each would convert it."""
    weights = [linear.weight for linear in linears]
    dtypes = {weight.dtype for weight in weights}
    are_plain = len(dtypes) == 1 and all(type(weight) is nn.Parameter for weight in weights)
    return x.to(weights[0].dtype) if are_plain and has_fast_products(weights[0].dtype) else x


def _project(x: Tensor, linear: nn.Linear) -> Tensor:
    if type(linear.weight) is not nn.Parameter:  # a quantised one knows its own product
        return linear(x.to(linear.weight.dtype)).to(x.dtype)
    product = project(x, linear.weight)
    return product if linear.bias is None else product + linear.bias


def _pad(x: Tensor, num_rows: int) -> Tensor:
    return x if len(x) == num_rows else F.pad(x, (0, 0, 0, num_rows - len(x)))


def _norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.variance_epsilon)


def _apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate (rows, n, heads, head_dim) by its positions; the halves of each head are the coordinates."""
    cos, sin = rotary
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
