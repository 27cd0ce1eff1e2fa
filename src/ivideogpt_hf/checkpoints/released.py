"""Writing of the released layout, so that a model that was trained here runs in the original code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.configuration_ivideogpt import IVideoGPTConfig
from ..models.configuration_ivideogpt_vq import IVideoGPTVQConfig
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..run_folder import write_json
from .layout import (
    CONFIG_FILE,
    RELEASED_TRANSFORMER_WEIGHTS,
    RELEASED_VQ_WEIGHTS,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    PathOrRepo,
)
from .loading import Parts

# Values that are fixed in the original code.
ORIGINAL_ATTENTION_HEADS = 4
ORIGINAL_UNUSED_TOKEN_ID = 50256


def save_released(folder: PathOrRepo, parts: Parts) -> None:
    """Write a checkpoint in the released layout.

    This layout has no processor. Action statistics are folded into `action_linear`, which is exact. A reward head that
    was trained on symlog still gives symlog.

    Raises:
        ValueError: if the original code cannot express the architecture.
    """
    vq_model, transformer, processor = parts
    vq_folder, transformer_folder = Path(folder) / VQ_FOLDER, Path(folder) / TRANSFORMER_FOLDER
    vq_config = _diffusers_config(vq_model.config)
    for path in (vq_folder, transformer_folder):
        path.mkdir(parents=True, exist_ok=True)
    write_json(vq_folder / CONFIG_FILE, vq_config)
    _save(vq_model.state_dict(), vq_folder / RELEASED_VQ_WEIGHTS)
    write_json(transformer_folder / CONFIG_FILE, _llama_config(transformer.config))
    _save(_released_state_dict(transformer.state_dict(), processor), transformer_folder / RELEASED_TRANSFORMER_WEIGHTS)


def _diffusers_config(config: IVideoGPTVQConfig) -> dict[str, Any]:
    height, width = config.frame_size
    if height != width:
        raise ValueError(f"the original code only knows square frames, this model takes {height} x {width}")
    if config.num_attention_heads != ORIGINAL_ATTENTION_HEADS:
        raise ValueError(
            f"the original code has {ORIGINAL_ATTENTION_HEADS} cross-attention heads, this model "
            f"{config.num_attention_heads}"
        )
    for name in (
        "normalize_latents",
        "repeat_last_context",
        "composites_context",
        "context_fsq_levels",
        "dynamics_fsq_levels",
    ):
        if getattr(config, name):
            raise ValueError(f"the original code does not know {name}; save in our layout")
    levels = len(config.block_out_channels)
    return {
        "_class_name": "CompressiveVQModel",
        "_diffusers_version": "0.27.0",
        "act_fn": config.act_fn,
        "block_out_channels": list(config.block_out_channels),
        "context_length": config.num_context_frames,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "lookup_from_codebook": True,
        "max_att_resolution": config.max_att_resolution,
        "mid_block_add_attention": config.mid_block_add_attention,
        "norm_num_groups": config.norm_num_groups,
        "norm_type": "group",
        "num_dyn_embeddings": config.num_dynamics_codes,
        "num_vq_embeddings": config.num_context_codes,
        "out_channels": config.out_channels,
        "patch_size": config.patch_size,
        "resolution": height,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "vq_embed_dim": config.vq_embed_dim,
    }


def _llama_config(config: IVideoGPTConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"the original code only knows plain rotary embeddings, this model has {rope}")
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
        "max_position_embeddings initializer_range rms_norm_eps attention_bias attention_dropout tie_word_embeddings"
    )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": ORIGINAL_UNUSED_TOKEN_ID,
        "eos_token_id": ORIGINAL_UNUSED_TOKEN_ID,
        "rope_theta": rope["rope_theta"],
        "use_cache": True,
        **{name: getattr(config, name) for name in names.split()},
    }


def _released_state_dict(state: dict[str, Tensor], processor: IVideoGPTVideoProcessor | None) -> dict[str, Tensor]:
    if processor is not None and processor.embodiments:
        raise ValueError("the released layout cannot hold several embodiments; save in our layout")
    if processor is not None and processor.action_mean is not None:
        weight, bias = state["action_linear.weight"], state["action_linear.bias"]
        folded = weight / torch.tensor(processor.action_std).to(weight)
        state = state | {
            "action_linear.weight": folded,
            "action_linear.bias": bias - folded @ torch.tensor(processor.action_mean).to(weight),
        }
    llama = ("model.", "lm_head.")
    if all(name.startswith(llama) for name in state):
        return state
    return {f"llm.{name}" if name.startswith(llama) else name: tensor for name, tensor in state.items()}


def _save(state: dict[str, Tensor], file: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, file, metadata={"format": "pt"})
