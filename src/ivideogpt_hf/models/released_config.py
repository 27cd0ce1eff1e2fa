"""Completion of the transformer config of a released checkpoint, from the files around it.

A released `transformer/config.json` is a plain LlamaConfig. The token layout is in `../tokenizer/config.json`. The
action width and the heads can be read only from the shapes of the weights.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from safetensors import safe_open
from transformers.utils import cached_file

from .configuration_ivideogpt_vq import IVideoGPTVQConfig

# Fields that the original code took over from another model. Its token ids are outside this vocabulary.
UNUSED_KEYS = ("model_type", "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "_name_or_path")


def complete_transformer_config(
    config_dict: dict[str, Any], path_or_repo_id: str | os.PathLike[str], subfolder: str, **hub_kwargs: Any
) -> dict[str, Any]:
    """Turn a released transformer config into one that `IVideoGPTConfig` understands.

    Args:
        config_dict: content of the released `transformer/config.json`.
        path_or_repo_id, subfolder: place from which that file was read.
        hub_kwargs: further arguments of `transformers.utils.cached_file` (revision, token, cache_dir, ...).
    """
    completed = {key: value for key, value in config_dict.items() if key not in UNUSED_KEYS}
    hub_kwargs["_raise_exceptions_for_missing_entries"] = False

    parent, _ = os.path.split(subfolder.rstrip("/"))
    sibling = os.path.join(parent, "tokenizer") if subfolder else os.path.join("..", "tokenizer")
    if subfolder or os.path.isdir(path_or_repo_id):
        tokenizer_file = cached_file(path_or_repo_id, "config.json", subfolder=sibling, **hub_kwargs)
        if tokenizer_file is not None:
            with open(tokenizer_file, encoding="utf-8") as file:
                layout = IVideoGPTVQConfig.from_dict(json.load(file)).layout
            completed |= asdict(layout)

    weights_file = cached_file(path_or_repo_id, "model.safetensors", subfolder=subfolder, **hub_kwargs)
    if weights_file is not None:
        completed |= heads_from_weights(weights_file)
    return completed


def heads_from_weights(weights_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Config fields that follow from the weights: action width and heads. Only the header of the file is read.

    Raises:
        OSError: if the file is no readable safetensors file.
    """
    try:
        with safe_open(weights_file, framework="pt") as weights:
            names = set(weights.keys())
            has_actions = "action_linear.weight" in names
            return {
                "action_dim": weights.get_slice("action_linear.weight").get_shape()[1] if has_actions else 0,
                "predict_reward": "reward_linear.weight" in names,
                "reconstruct_actions": "action_recon_linear.weight" in names,
            }
    except Exception as error:  # safetensors raises its own, undocumented, types
        raise OSError(f"{weights_file} is not a readable safetensors file: {error}") from error
