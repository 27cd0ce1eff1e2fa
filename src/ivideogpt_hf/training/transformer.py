"""The transformer to train: new, or grown from a checkpoint; with or without adapters."""

from __future__ import annotations

import copy
from dataclasses import asdict, fields, replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..checkpoints.loading import fetch, load_transformer
from ..extras import require_packages
from ..models.configuration_ivideogpt import IVideoGPTConfig
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.token_layout import TokenLayout
from ..settings import check_keys
from .arguments import WorldModelArguments, require

# What a checkpoint may lack, and then begins with zeros (actions) or at random (heads that read hidden states).
NEW_PARTS = ("action_linear", "action_modulation", "reward_linear", "action_recon_linear")
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_transformer(
    model: WorldModelArguments, layout: TokenLayout, action_dim: int | None, num_future_frames: int
) -> IVideoGPTForCausalLM:
    """A new transformer, or that of a checkpoint with whatever conditioning and heads it lacks.

    Args:
        model: what is asked for.
        layout: of the VQ model.
        action_dim: width of the data's actions; None without.
        num_future_frames: of the clips.

    Raises:
        ValueError: if the checkpoint does not fit the VQ model, the actions or what is asked for.
        OSError: if it cannot be read.
    """
    before = None if model.transformer is None else load_transformer(fetch(model.transformer))
    if before is None:
        check_keys(model.transformer_config, [item.name for item in fields(IVideoGPTConfig)], "transformer_config")
        settings: dict[str, Any] = dict(model.transformer_config) | asdict(layout)
    else:
        _check_fit(before.config, model, layout, action_dim)
        settings = before.config.to_dict() | asdict(layout)
    settings |= {
        "action_dim": action_dim or 0,
        "predict_reward": model.rewards,
        "reconstruct_actions": model.reconstruct_actions,
        "goal_conditioned": model.goal_conditioned,
        "num_trained_frames": num_future_frames,
    }
    if model.action_conditioning is not None:
        settings["action_conditioning"] = model.action_conditioning
    if model.attention_dropout is not None:
        settings["attention_dropout"] = model.attention_dropout
    config = IVideoGPTConfig(**settings)
    room = layout.max_future_frames(config.max_position_embeddings)
    require(
        num_future_frames <= room,
        f"clips have {num_future_frames} future frames, but max_position_embeddings {config.max_position_embeddings} "
        f"has room for {room}: set it to {layout.sequence_length(num_future_frames)} or more, or lower num_frames",
    )
    transformer = IVideoGPTForCausalLM(config)
    if before is not None:
        missing, unexpected = transformer.load_state_dict(before.state_dict(), strict=False)
        strange = [name for name in missing if not any(part in name.split(".") for part in NEW_PARTS)]
        require(not strange and not unexpected, f"weights do not fit: {strange + unexpected}")
    return transformer


def _check_fit(
    config: IVideoGPTConfig, model: WorldModelArguments, layout: TokenLayout, action_dim: int | None
) -> None:
    # What any transformer can continue, however it was trained.
    free = {"num_context_frames": layout.num_context_frames, "repeat_last_context": layout.repeat_last_context}
    require(
        replace(config.layout, **free) == layout,
        f"the transformer {model.transformer} continues other tokens than the VQ model {model.vq_model} makes: "
        f"{config.layout} against {layout}",
    )
    if config.action_dim:
        require(model.actions, f"{model.transformer} is action-conditioned: set actions to true")
        require(
            config.action_dim == action_dim,
            f"the data's actions have width {action_dim}, {model.transformer} takes width {config.action_dim}: choose "
            f"other data, or start from an action-free checkpoint",
        )
    require(not config.predict_reward or model.rewards, f"{model.transformer} predicts rewards: set rewards to true")
    require(
        not config.reconstruct_actions or model.reconstruct_actions,
        f"{model.transformer} reconstructs actions: set reconstruct_actions to true",
    )
    require(
        config.action_conditioning == "add" or model.action_conditioning != "add",
        f"{model.transformer} has the conditioning {config.action_conditioning!r}, which cannot become 'add'",
    )


def add_lora(transformer: IVideoGPTForCausalLM, rank: int, alpha: float | None) -> nn.Module:
    """Freeze the transformer and add LoRA adapters (Hu et al., 2022); action input and heads train in full, and are
    saved with the adapters.

    Raises:
        ImportError: without peft; names the extra.
    """
    require_packages("peft", purpose="LoRA")
    from peft import LoraConfig, get_peft_model

    names = {name.split(".")[-1] for name, _ in transformer.named_modules()}
    return get_peft_model(
        transformer,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,
            target_modules=LORA_TARGETS,
            modules_to_save=[part for part in NEW_PARTS if part in names],
            task_type="CAUSAL_LM",
        ),
    )


def is_adapted(transformer: nn.Module) -> bool:
    """Whether it has adapters."""
    return hasattr(transformer, "peft_config")


def merged(transformer: nn.Module) -> IVideoGPTForCausalLM:
    """A copy without adapters, whose weights hold what they add."""
    return copy.deepcopy(transformer).merge_and_unload()


def whole_transformer(accelerator: Accelerator, transformer: nn.Module) -> IVideoGPTForCausalLM | None:
    """A copy, in eval mode, of a transformer that may be distributed, sharded or adapted: on the main process, None on
    the others. Every process must call this."""
    weights = accelerator.get_state_dict(transformer)
    if not accelerator.is_main_process:
        return None
    bare = accelerator.unwrap_model(transformer)
    if is_adapted(bare):
        return merged(bare).eval()
    whole = IVideoGPTForCausalLM(bare.config)
    whole.load_state_dict(weights)
    return whole.eval()
