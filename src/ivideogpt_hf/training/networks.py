"""Networks that a training starts from: new, from a checkpoint, or grown from one by what it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from torch import nn

from ..checkpoints.layout import find_embedded
from ..checkpoints.loading import fetch, load_transformer, load_vq_model
from ..checkpoints.origins import is_own_folder
from ..extras import require_packages
from ..models.configuration_ivideogpt import IVideoGPTConfig
from ..models.configuration_ivideogpt_vq import IVideoGPTVQConfig
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.token_layout import TokenLayout
from ..settings import check_keys
from .arguments import VQArguments, WorldModelArguments, require

# What a checkpoint may lack, and then begins with zeros (actions) or at random (heads that read hidden states).
ACTION_PARTS = ("action_linear", "action_modulation", "action_recon_linear")
REWARD_PARTS = ("reward_linear",)
DRAFT_PARTS = ("draft_head",)
NEW_PARTS = (*ACTION_PARTS, *REWARD_PARTS, *DRAFT_PARTS)
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_vq_model(vq: VQArguments, num_context_frames: int) -> IVideoGPTVQModel:
    """A new VQ model, or that of a checkpoint, to train.

    Args:
        vq: settings of the VQ model.
        num_context_frames: number of context frames of the clips, to which a checkpoint's model is resized.

    Raises:
        ValueError: if the config has unknown fields, or weights do not fit.
        OSError: if the checkpoint cannot be read.
    """
    if vq.vq_model is not None:
        model = load_vq_model(fetch(vq.vq_model))
        if model.config.num_context_frames != num_context_frames:
            model.resize_context(num_context_frames)
    else:
        check_keys(vq.vq_config, [item.name for item in fields(IVideoGPTVQConfig)], "vq_config")
        model = IVideoGPTVQModel(IVideoGPTVQConfig(**vq.vq_config | {"num_context_frames": num_context_frames}))
    if vq.freeze_codebooks:
        model.quantize.requires_grad_(requires_grad=False)
        model.dynamics_quantize.requires_grad_(requires_grad=False)
    return model


def load_frozen_vq_model(path_or_repo_id: str, repeat_last_context: bool | None = None) -> IVideoGPTVQModel:
    """The VQ model that makes the tokens of a transformer's training, frozen.

    Args:
        path_or_repo_id: folder or Hub id of the checkpoint.
        repeat_last_context: whether the model codes the last context frame twice; None: as the checkpoint says.

    Raises:
        OSError, ValueError: if the checkpoint cannot be read.
    """
    vq_model = load_vq_model(fetch(path_or_repo_id)).requires_grad_(requires_grad=False)
    if repeat_last_context is not None:
        vq_model.config.repeat_last_context = repeat_last_context
    return vq_model


def make_transformer(
    model: WorldModelArguments, layout: TokenLayout, action_dim: int | None, num_future_frames: int
) -> IVideoGPTForCausalLM:
    """A new transformer, or that of a checkpoint with whatever conditioning and heads it lacks.

    Args:
        model: settings of the transformer.
        layout: token layout of the VQ model.
        action_dim: width of the data's actions; None without actions.
        num_future_frames: number of future frames in a clip.

    Raises:
        ValueError: if the checkpoint does not fit the VQ model, the actions or the settings.
        OSError: if the checkpoint cannot be read.
    """
    checkpoint = None if model.transformer is None else load_transformer(fetch(model.transformer))
    if checkpoint is None:
        check_keys(model.transformer_config, [item.name for item in fields(IVideoGPTConfig)], "transformer_config")
        settings: dict[str, Any] = dict(model.transformer_config) | asdict(layout)
    else:
        _check_checkpoint(checkpoint.config, model, layout, action_dim)
        settings = checkpoint.config.to_dict() | asdict(layout)
    settings |= {
        "action_dim": action_dim or 0,
        "predict_reward": model.rewards,
        "reconstruct_actions": model.reconstruct_actions,
        "draft_head": model.draft_head,
        "goal_conditioned": model.goal_conditioned,
        "num_trained_frames": num_future_frames,
    }
    if model.action_conditioning is not None:
        settings["action_conditioning"] = model.action_conditioning
    if model.num_reward_bins is not None:
        settings["num_reward_bins"] = model.num_reward_bins
    if model.attention_dropout is not None:
        settings["attention_dropout"] = model.attention_dropout
    config = IVideoGPTConfig(**settings)
    room = layout.max_future_frames(config.max_position_embeddings)
    require(
        num_future_frames <= room,
        f"clips have {num_future_frames} future frames, but max_position_embeddings {config.max_position_embeddings} "
        f"has room for {room}: set it to {layout.sequence_length(num_future_frames)} or more, or lower num_frames",
    )
    require(
        not model.draft_head or num_future_frames > 1,
        "draft_head learns from the frame before: it needs clips of two future frames or more, so raise num_frames",
    )
    config.name_or_path = _hub_id(model.transformer)
    transformer = IVideoGPTForCausalLM(config)
    if checkpoint is not None:
        left_out = ACTION_PARTS * model.new_action_head + REWARD_PARTS * model.drop_reward_head
        left_out += DRAFT_PARTS * (not model.draft_head)
        weights = {name: value for name, value in checkpoint.state_dict().items() if not _is_in(name, left_out)}
        result = transformer.load_state_dict(weights, strict=False)
        problems = [name for name in result.missing_keys if not _is_in(name, NEW_PARTS)]
        problems += result.unexpected_keys
        require(not problems, f"weights do not fit: {problems}")
    if model.draft_head:
        transformer.requires_grad_(requires_grad=False)
        transformer.draft_head.requires_grad_(requires_grad=True)
    return transformer


def _hub_id(checkpoint: str | None) -> str:
    """The id on the Hub of what a training began from, by which PEFT finds it again; "" where it is not there."""
    is_here = checkpoint is None or find_embedded(checkpoint) is not None or is_own_folder(checkpoint)
    return "" if is_here else checkpoint


def _is_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a weight belongs to one of the parts."""
    return any(part in name.split(".") for part in parts)


def _check_checkpoint(
    config: IVideoGPTConfig, model: WorldModelArguments, layout: TokenLayout, action_dim: int | None
) -> None:
    # Any transformer can continue any number of context frames, whichever it was trained on.
    context = {"num_context_frames": layout.num_context_frames, "repeat_last_context": layout.repeat_last_context}
    require(
        replace(config.layout, **context) == layout,
        f"the transformer {model.transformer} continues other tokens than the VQ model {model.vq_model} makes: "
        f"{config.layout} against {layout}",
    )
    if config.action_dim:
        require(model.actions, f"{model.transformer} is action-conditioned: set actions to true")
        require(
            config.action_dim == action_dim or model.new_action_head,
            f"the data's actions have width {action_dim}, {model.transformer} takes width {config.action_dim}: set "
            f"new_action_head to true, which begins with a new action input, or choose other data",
        )
    require(
        config.predict_reward or not model.drop_reward_head,
        f"{model.transformer} has no reward head: leave drop_reward_head out",
    )
    require(
        not config.predict_reward or model.rewards or model.drop_reward_head,
        f"{model.transformer} predicts rewards: set rewards to true, or drop_reward_head where the data have none",
    )
    require(
        not config.predict_reward or model.num_reward_bins in (None, config.num_reward_bins),
        f"the reward head of {model.transformer} has {config.num_reward_bins} bins, num_reward_bins is "
        f"{model.num_reward_bins}: leave it out to go on with that head",
    )
    require(
        not config.reconstruct_actions or model.reconstruct_actions,
        f"{model.transformer} reconstructs actions: set reconstruct_actions to true",
    )
    require(
        config.action_conditioning == "add" or model.action_conditioning != "add",
        f"{model.transformer} has the conditioning {config.action_conditioning!r}, which cannot become 'add'",
    )


def add_lora(transformer: IVideoGPTForCausalLM, rank: int, alpha: float | None) -> nn.Module:
    """Freeze a transformer and add LoRA adapters (Hu et al., 2022). Action input and heads train in full, and are saved
    with the adapters.

    Args:
        transformer: transformer to adapt.
        rank: rank of the adapters.
        alpha: scale of the adapters; None: twice the rank.

    Raises:
        ImportError: without peft; names the extra.
    """
    require_packages("peft", purpose="LoRA")
    from peft import LoraConfig, get_peft_model

    names = {name.split(".")[-1] for name, _ in transformer.named_modules()}
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=LORA_TARGETS,
        modules_to_save=[part for part in NEW_PARTS if part in names],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # PEFT reads a property that transformers has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(transformer, config)
