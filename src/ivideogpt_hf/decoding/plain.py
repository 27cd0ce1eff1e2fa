"""Which modules compute what their class says and nothing else. Only their weights are read past their call; whatever
else a user made of a module (an adapter, a hook, a parametrisation, another class) is called as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules import module as torch_module
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from ..models.modeling_ivideogpt import ActionModulatedLayer, IVideoGPTForCausalLM, ZeroLinear


@dataclass(frozen=True)
class PlainParts:
    """Which parts of a transformer are plain.

    Attributes:
        layers: whether each layer is, with all that is in it.
        norm: whether the last norm is.
        lm_head: whether the last linear layer is, and has nothing but an ordinary weight.
        can_compile: whether all modules are. Compiled programs do not notice hooks.
    """

    layers: tuple[bool, ...]
    norm: bool
    lm_head: bool
    can_compile: bool

    @staticmethod
    def of(transformer: IVideoGPTForCausalLM) -> PlainParts:
        """The plain parts of a transformer as it is now."""
        model, head = transformer.model, transformer.lm_head
        num_layers = transformer.config.num_hidden_layers
        if _has_global_hooks():  # which every call runs
            return PlainParts((False,) * num_layers, norm=False, lm_head=False, can_compile=False)
        layers = tuple(_is_plain_layer(layer) for layer in model.layers[:num_layers])
        norm = _is_plain(model.norm, LlamaRMSNorm)
        is_linear = _is_plain(head, nn.Linear)
        lm_head = is_linear and head.bias is None and type(head.weight) is nn.Parameter
        can_compile = (
            all(layers)
            and norm
            and is_linear
            and _is_plain(model.embed_tokens, nn.Embedding)
            and _is_plain(model.rotary_emb, LlamaRotaryEmbedding)
            and _is_plain(getattr(transformer, "action_linear", None), ZeroLinear, type(None))
            and _is_plain(getattr(transformer, "reward_linear", None), nn.Linear, type(None))
        )
        return PlainParts(layers, norm, lm_head, can_compile)


def is_altered(module: nn.Module) -> bool:
    """Whether a call of this module does more than its class's forward: it has hooks, or a forward of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _has_global_hooks() -> bool:
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def _is_plain(module: nn.Module | None, *classes: type) -> bool:
    return type(module) in classes and (module is None or not is_altered(module))


def _is_plain_layer(layer: nn.Module) -> bool:
    if not _is_plain(layer, LlamaDecoderLayer, ActionModulatedLayer):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    return (
        _is_plain(attention, LlamaAttention)
        and _is_plain(mlp, LlamaMLP)
        and not is_altered(mlp.act_fn)
        and _is_plain(layer.input_layernorm, LlamaRMSNorm)
        and _is_plain(layer.post_attention_layernorm, LlamaRMSNorm)
        and all(
            _is_plain(linear, nn.Linear)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        )
        and all(_is_plain(linear, nn.Linear) for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        and _is_plain(getattr(layer, "action_modulation", None), ZeroLinear, type(None))
    )
