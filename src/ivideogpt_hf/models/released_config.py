"""What the original code makes of the config files of a released checkpoint, and what it knows only one value of.

The configs read such files by it, and `checkpoints/released.py` writes them by it. A released `transformer/config.json`
is a plain LlamaConfig. The token layout is in `../tokenizer/config.json`. The action width and the heads can be read
only from the shapes of the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import safe_open
from transformers.utils import cached_file

VQ_CLASS = "CompressiveVQModel"
VQ_WEIGHTS, TRANSFORMER_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
# Fields of `tokenizer/config.json`, with the values that the original takes where they are left out.
VQ_FIELDS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 3,
    "vq_embed_dim": None,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "num_vq_embeddings": 256,
    "num_dyn_embeddings": 256,
    "context_length": 1,
    "resolution": 256,
    "max_att_resolution": 32,
    "patch_size": 4,
}
# Fields of `IVideoGPTVQConfig` that the original has no name for: the one value that it knows.
VQ_FIXED: dict[str, Any] = {
    "num_attention_heads": 4,
    "cross_attention_norm_groups": 32,
    "cross_attention_norm_eps": 1e-5,
    "normalize_latents": False,
    "repeat_last_context": False,
    "composites_context": False,
    "context_fsq_levels": None,
    "dynamics_fsq_levels": None,
}
# The same, for fields that count in training only.
VQ_TRAINING: dict[str, Any] = {"attention_dropout": 0.1, "commitment_cost": 1.0}
LATENT_SIDE, PATCH_SIZE = 16, 4

# RLVR-World's compressive tokenizer (Wu et al., 2025): the same towers, with finite scalar quantisation.
FSQ_CLASS = "CompressiveVQModelFSQ"
FSQ_FIELDS = tuple(
    name for name in VQ_FIELDS if name not in ("num_vq_embeddings", "num_dyn_embeddings", "vq_embed_dim")
)
# Levels by the names that its configs give them: about the logarithm of the number of codes.
FSQ_LEVELS = {8: [8, 6, 5], 10: [8, 5, 5, 5], 12: [7, 5, 5, 5, 5], 14: [8, 8, 8, 6, 5], 16: [8, 8, 8, 5, 5, 5]}

# Fields of `transformer/config.json`, with the values that the original's transformers takes where they are left out.
LLAMA_FIELDS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}
# Fields of `IVideoGPTConfig` that its LlamaConfig has no name for: the one value that the original knows.
TRANSFORMER_FIXED: dict[str, Any] = {
    "action_conditioning": "add",
    "repeat_last_context": False,
    "mlp_bias": False,
    "num_reward_bins": 1,
    "draft_head": False,
}
# The same, but nothing that the original computes depends on them: they are written beside its own fields.
TRANSFORMER_EXTRA: dict[str, Any] = {
    "goal_conditioned": False,
    "num_trained_frames": None,
    "reward_range": (-10.0, 10.0),
}
# Activations that the original's versions of diffusers and of transformers both know.
ACTIVATIONS = ("silu", "swish", "gelu", "relu", "mish")
HEADS = ("action_linear", "reward_linear", "action_recon_linear")


def read_vq_fields(config_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `IVideoGPTVQConfig` for a released config. Fields that the original does not know count for nothing.

    Raises:
        ValueError: if it is the config of another model than the original's.
    """
    fields = VQ_FIELDS | {name: value for name, value in config_dict.items() if name in VQ_FIELDS}
    _check_blocks(config_dict, fields, VQ_CLASS)
    return fields | VQ_FIXED | VQ_TRAINING


def read_fsq_fields(config_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `IVideoGPTVQConfig` for the config of RLVR-World's compressive tokenizer.

    Its ``resolution`` is the height of a frame. The width is 5/4 of it.

    Raises:
        ValueError: if a field is missing, or has a value that its code does not know.
    """
    names = (*FSQ_FIELDS, "vq_fsq_levels", "dyn_fsq_levels")
    missing = [name for name in names if name not in config_dict]
    if missing:
        raise ValueError(f"the config of a {FSQ_CLASS} lacks {', '.join(missing)}")
    fields = {name: config_dict[name] for name in FSQ_FIELDS}
    _check_blocks(config_dict, fields, FSQ_CLASS)
    for name, field in (("vq_fsq_levels", "context_fsq_levels"), ("dyn_fsq_levels", "dynamics_fsq_levels")):
        levels = config_dict[name]
        if isinstance(levels, int) and levels not in FSQ_LEVELS:
            raise ValueError(f"{name} is {levels}; known are {sorted(FSQ_LEVELS)}, or a list of levels")
        fields[field] = FSQ_LEVELS[levels] if isinstance(levels, int) else levels
    height = fields["resolution"]
    # Its attention is where the height of a map is small enough, ours where the larger side is.
    fields |= {"resolution": [height, height // 4 * 5], "max_att_resolution": fields["max_att_resolution"] // 4 * 5}
    return VQ_FIXED | VQ_TRAINING | fields


def _check_blocks(config_dict: Mapping[str, Any], fields: Mapping[str, Any], class_name: str) -> None:
    """Raise ValueError if a released config is of another class, or its towers are of other blocks."""
    required = {
        "_class_name": (config_dict["_class_name"], class_name),
        "norm_type": (config_dict.get("norm_type", "group"), "group"),
    }
    if isinstance(fields["block_out_channels"], (list, tuple)):  # anything else is an error of the config's own
        num_levels = len(fields["block_out_channels"])
        for name, block in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            required[name] = (config_dict.get(name, [block]), [block] * num_levels)
    wrong = [f"{name} is {value!r}, not {only!r}" for name, (value, only) in required.items() if value != only]
    if wrong:
        raise ValueError(f"this tokenizer/config.json is not of a released VQ model: {'; '.join(wrong)}")


def vq_problems(config: Any) -> list[str]:
    """What the original code would compute otherwise, or cannot load, of an `IVideoGPTVQConfig`; one line each."""
    problems = _not_fixed(config, VQ_FIXED)
    if config.norm_num_groups == config.cross_attention_norm_groups != VQ_FIXED["cross_attention_norm_groups"]:
        problems.append(f"norm_num_groups is {config.norm_num_groups}, for the towers and the cross-attention alike")
    height, width = config.frame_size
    if height != width:
        problems.append(f"resolution is {height} x {width}: it only knows square frames")
    elif config.context_grid != (LATENT_SIDE, LATENT_SIDE):
        rows, columns = config.context_grid
        side = LATENT_SIDE * config.downsampling
        problems.append(
            f"a context frame has {rows} x {columns} tokens: it only knows {LATENT_SIDE} x {LATENT_SIDE}, which is "
            f"resolution {side} with {len(config.block_out_channels)} entries of block_out_channels"
        )
    if config.patch_size != PATCH_SIZE:
        problems.append(f"patch_size is {config.patch_size}: it only knows {PATCH_SIZE}")
    if config.max_att_resolution < LATENT_SIDE:
        problems.append(
            f"max_att_resolution is {config.max_att_resolution}, so that there is no cross-attention: it always has "
            f"that of its {LATENT_SIDE} x {LATENT_SIDE} maps"
        )
    if config.act_fn not in ACTIVATIONS:
        problems.append(f"act_fn is {config.act_fn!r}: it knows {', '.join(ACTIVATIONS)}")
    return problems


def llama_problems(fields: Mapping[str, Any]) -> list[str]:
    """What the original code would compute otherwise of a released transformer config; one line each."""
    problems = []
    if fields.get("tie_word_embeddings"):
        problems.append("tie_word_embeddings is True: its embeddings are untied")
    if fields.get("rope_scaling"):
        problems.append(f"rope_parameters (rope_scaling) are {fields['rope_scaling']}: its rotary embeddings are plain")
    if fields.get("hidden_act", "silu") not in ACTIVATIONS:
        problems.append(f"hidden_act is {fields['hidden_act']!r}: it knows {', '.join(ACTIVATIONS)}")
    return problems


def transformer_problems(config: Any) -> list[str]:
    """What the original code would compute otherwise, or cannot load, of an `IVideoGPTConfig`; one line each."""
    problems = _not_fixed(config, TRANSFORMER_FIXED) + llama_problems(llama_fields(config))
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        problems.append(
            f"head_dim is {config.head_dim}: it only knows hidden_size / num_attention_heads = "
            f"{config.hidden_size} / {config.num_attention_heads}"
        )
    if config.predict_reward and not config.action_dim:
        problems.append("predict_reward is True and action_dim 0: its action-free models have no reward head")
    if config.goal_conditioned and config.action_dim:
        problems.append(f"goal_conditioned is True and action_dim {config.action_dim}: it knows one or the other")
    return problems


def llama_fields(config: Any) -> dict[str, Any]:
    """Content of a released `transformer/config.json` for an `IVideoGPTConfig`, but for what never counts."""
    rope = dict(config.rope_parameters)
    theta = rope.pop("rope_theta")
    special = {
        "rope_theta": theta,
        "rope_scaling": None if rope in ({}, {"rope_type": "default"}) else rope,
        # The original never calls `eval()` on action-conditioned models, and would drop out in predictions.
        "attention_dropout": 0.0,
    }
    extra = {name: getattr(config, name) for name, default in TRANSFORMER_EXTRA.items()}
    extra = {name: value for name, value in extra.items() if value != TRANSFORMER_EXTRA[name]}
    return {name: special[name] if name in special else getattr(config, name) for name in LLAMA_FIELDS} | extra


def _not_fixed(config: Any, fixed: Mapping[str, Any]) -> list[str]:
    values = {name: (getattr(config, name), only) for name, only in fixed.items()}
    return [f"{name} is {value!r}: it only knows {only!r}" for name, (value, only) in values.items() if value != only]


def read_tokenizer_config(path_or_repo_id: str | os.PathLike[str], subfolder: str, **hub_kwargs: Any) -> dict[str, Any]:
    """Read the `tokenizer/config.json` beside a released transformer.

    Args:
        path_or_repo_id, subfolder: place of the transformer.
        hub_kwargs: further arguments of `transformers.utils.cached_file` (revision, token, cache_dir, ...).

    Raises:
        OSError: if there is none, or it is not valid JSON.
    """
    parent, _ = os.path.split(subfolder.rstrip("/"))
    file = None
    if subfolder or os.path.isdir(path_or_repo_id):
        sibling = os.path.join(parent, "tokenizer") if subfolder else os.path.join("..", "tokenizer")
        file = cached_file(
            path_or_repo_id, "config.json", subfolder=sibling, _raise_exceptions_for_missing_entries=False, **hub_kwargs
        )
    if file is None:
        raise OSError(
            f"{path_or_repo_id} holds a released transformer, whose token layout is in tokenizer/config.json beside "
            f"its folder: that file is missing"
        )
    try:
        with open(file, encoding="utf-8") as opened:
            content: dict[str, Any] = json.load(opened)
    except ValueError as error:
        raise OSError(f"{file} is not valid JSON: {error}") from error
    return content


def read_llama_fields(
    config_dict: Mapping[str, Any], path_or_repo_id: str | os.PathLike[str], subfolder: str, **hub_kwargs: Any
) -> dict[str, Any]:
    """Fields of `IVideoGPTConfig`, but for the token layout, for a released config and the weights beside it. Fields
    that the original does not know count for nothing.

    Args:
        config_dict: content of the released `transformer/config.json`.
        path_or_repo_id, subfolder: place from which that file was read.
        hub_kwargs: further arguments of `transformers.utils.cached_file` (revision, token, cache_dir, ...).

    Raises:
        OSError: if there are no readable weights.
        ValueError: if the original code would compute something else, or could not load the weights.
    """
    problems = llama_problems(config_dict)
    if problems:
        raise ValueError(
            f"the transformer/config.json of {path_or_repo_id} is not of a released transformer, and the original code "
            f"differs: {'; '.join(problems)}"
        )
    known = LLAMA_FIELDS | TRANSFORMER_EXTRA
    fields = known | {name: value for name, value in config_dict.items() if name in known}
    theta, _ = fields.pop("rope_theta"), fields.pop("rope_scaling")
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}

    weights_file = cached_file(
        path_or_repo_id,
        TRANSFORMER_WEIGHTS,
        subfolder=subfolder,
        _raise_exceptions_for_missing_entries=False,
        **hub_kwargs,
    )
    if weights_file is None:
        raise OSError(
            f"{path_or_repo_id} holds a released transformer, whose action width and heads are told by the shapes in "
            f"{TRANSFORMER_WEIGHTS}: that file is missing, and shards of it are not read"
        )
    return fields | TRANSFORMER_FIXED | heads_from_weights(weights_file)


def heads_from_weights(weights_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Config fields that follow from the weights: action width and heads. Only the header of the file is read.

    Raises:
        OSError: if the file is no readable safetensors file.
        ValueError: if the original code could not load the weights.
    """
    try:
        with safe_open(weights_file, framework="pt") as weights:
            names = set(weights.keys())
            has_actions = "action_linear.weight" in names
            action_dim = weights.get_slice("action_linear.weight").get_shape()[-1] if has_actions else 0
    except Exception as error:  # safetensors raises its own, undocumented, types
        raise OSError(f"{weights_file} is not a readable safetensors file: {error}") from error
    heads = [head for head in HEADS if f"{head}.weight" in names]
    if heads and not has_actions:
        raise ValueError(
            f"{weights_file} holds {heads[0]}.weight without action_linear.weight, which the original has not"
        )
    llama = sorted(name for name in names if name.startswith(("model.", "lm_head.") if has_actions else "llm."))
    if llama:
        kind = "an action-conditioned" if has_actions else "an action-free"
        raise ValueError(
            f"{weights_file} holds {llama[0]}, which the original does not load in {kind} model: with action_linear, "
            f"and only with it, names begin with 'llm.'"
        )
    return {
        "action_dim": action_dim,
        "predict_reward": "reward_linear" in heads,
        "reconstruct_actions": "action_recon_linear" in heads,
    }
