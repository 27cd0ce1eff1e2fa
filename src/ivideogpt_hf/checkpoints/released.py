"""Writing of the released layout, so that a model that was trained here runs in the original code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.configuration_ivideogpt import IVideoGPTConfig
from ..models.configuration_ivideogpt_vq import IVideoGPTVQConfig
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.released_config import (
    VQ_CLASS,
    VQ_FIELDS,
    llama_fields,
    transformer_problems,
    vq_problems,
)
from ..run_folder import PARTIAL, replace_folder, write_json
from .layout import (
    CONFIG_FILE,
    RELEASED_TRANSFORMER_WEIGHTS,
    RELEASED_VQ_WEIGHTS,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    PathOrRepo,
)
from .loading import Parts
from .saving import weights_of_config

ORIGINAL_UNUSED_TOKEN_ID = 50256


def save_released(folder: PathOrRepo, parts: Parts) -> None:
    """Write a checkpoint in the released layout: complete, or not at all.

    This layout has no processor. Action statistics are folded into `action_linear` and `action_recon_linear`, which is
    exact. How frames are cropped, and names and bounds of actions, are not in it. Nor is what counts in training only:
    dropout, and the weight of the commitment loss.

    Args:
        folder: folder to write, new or empty.
        parts: VQ model, transformer, and processor or None.

    Raises:
        ValueError: if the original code cannot load this checkpoint, or would compute something else; names each
            option. Nothing is written.
        FileExistsError: if there is anything in the folder.
    """
    vq_model, transformer, processor = parts
    problems = _problems(parts)
    if problems:
        raise ValueError(
            "the original code cannot run this checkpoint, which is not written: "
            + "; ".join(problems)
            + ". Keep it in our layout, or change what is named"
        )
    target = Path(folder).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{folder} is not empty; give a new folder")
    partial = target.with_name(target.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    vq_folder, transformer_folder = partial / VQ_FOLDER, partial / TRANSFORMER_FOLDER
    try:
        for path in (vq_folder, transformer_folder):
            path.mkdir(parents=True)
        write_json(vq_folder / CONFIG_FILE, _diffusers_config(vq_model.config))
        _save(vq_model.state_dict(), vq_folder / RELEASED_VQ_WEIGHTS)
        write_json(transformer_folder / CONFIG_FILE, _llama_config(transformer.config))
        weights = _released_state_dict(transformer.state_dict(), processor)
        _save(weights, transformer_folder / RELEASED_TRANSFORMER_WEIGHTS)
        replace_folder(target, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _problems(parts: Parts) -> list[str]:
    """What the original code could not load or would compute otherwise; one line each."""
    vq_model, transformer, processor = parts
    problems = _weight_problems(vq_model, IVideoGPTVQModel) + _weight_problems(transformer, IVideoGPTForCausalLM)
    if problems:
        return problems
    vq_config, config = vq_model.config, transformer.config
    problems = list(dict.fromkeys(vq_problems(vq_config) + transformer_problems(config)))
    if vq_config.layout != config.layout:
        problems.append(f"VQ model and transformer disagree on the token layout: {vq_config.layout}, {config.layout}")
    return problems if processor is None else problems + _processor_problems(processor, config)


def _weight_problems(network: nn.Module, expected_class: type[IVideoGPTVQModel | IVideoGPTForCausalLM]) -> list[str]:
    """Weights must be those of the config, whole, in float32: others cannot be loaded, or only with other results."""
    name = expected_class.__name__
    if not isinstance(network, expected_class):
        return [f"a {type(network).__name__} is no {name}: merge adapters first (merge_and_unload() of peft)"]
    expected = weights_of_config(expected_class, network.config)
    state = network.state_dict()
    different = sorted(expected.keys() ^ state.keys())
    if different:
        return [
            f"the weights of the {name} are not those of its config, {different[0]} is one more or one less: merge "
            f"adapters (merge_and_unload() of peft) and remove parametrisations first"
        ]
    for key, value in state.items():
        if value.is_meta:
            return [f"{key} of the {name} is not in memory: load it without device_map"]
        if type(value) not in (Tensor, nn.Parameter) or not value.is_floating_point():
            return [f"{key} of the {name} is quantised ({type(value).__name__}): load it without quantization_config"]
        if value.dtype != torch.float32:
            return [f"{key} of the {name} is {value.dtype}, it computes in float32: use .to(dtype=torch.float32) first"]
        if value.shape != expected[key].shape:
            return [f"{key} of the {name} is {tuple(value.shape)}, its config asks for {tuple(expected[key].shape)}"]
    return []


def _processor_problems(processor: IVideoGPTVideoProcessor, config: IVideoGPTConfig) -> list[str]:
    problems = []
    width = processor.action_dim
    if processor.embodiments:
        problems.append("the processor has embodiments: it knows one kind of actions")
    if processor.padded_action_dim not in (None, width):
        problems.append(
            f"the processor's padded_action_dim is {processor.padded_action_dim} for actions of width "
            f"{'any' if width is None else width}: it does not pad actions"
        )
    elif width not in (None, config.action_dim):
        problems.append(f"the processor describes {width} action dimensions, the transformer takes {config.action_dim}")
    if config.predict_reward and processor.reward_transform != "identity":
        problems.append(
            f"the processor's reward_transform is {processor.reward_transform!r}: it gives what the reward head says. "
            f"To write the head as it is, set reward_transform to 'identity' first"
        )
    return problems


def _diffusers_config(config: IVideoGPTVQConfig) -> dict[str, Any]:
    levels = len(config.block_out_channels)
    return {
        "_class_name": VQ_CLASS,
        "_diffusers_version": "0.27.0",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "lookup_from_codebook": True,
        "norm_type": "group",
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **{name: getattr(config, name) for name in VQ_FIELDS},
        "resolution": config.frame_size[0],
    }


def _llama_config(config: IVideoGPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": ORIGINAL_UNUSED_TOKEN_ID,
        "eos_token_id": ORIGINAL_UNUSED_TOKEN_ID,
        "use_cache": True,
        **llama_fields(config),
    }


def _released_state_dict(state: dict[str, Tensor], processor: IVideoGPTVideoProcessor | None) -> dict[str, Tensor]:
    if "action_linear.weight" not in state:
        return state
    if processor is not None and processor.action_mean is not None:
        state = state | _with_statistics_folded(state, processor)
    return {f"llm.{name}" if name.startswith(("model.", "lm_head.")) else name: value for name, value in state.items()}


def _with_statistics_folded(state: dict[str, Tensor], processor: IVideoGPTVideoProcessor) -> dict[str, Tensor]:
    """Weights that take actions in environment units, and that reconstruct them so. Computed in float64."""
    heads = {name: value.cpu().double() for name, value in state.items() if name.startswith("action_")}
    mean, std = (torch.tensor(values).double() for values in (processor.action_mean, processor.action_std))
    weight = heads["action_linear.weight"] / std
    folded = {"action_linear.weight": weight, "action_linear.bias": heads["action_linear.bias"] - weight @ mean}
    if "action_recon_linear.weight" in heads:
        folded["action_recon_linear.weight"] = heads["action_recon_linear.weight"] * std[:, None]
        folded["action_recon_linear.bias"] = heads["action_recon_linear.bias"] * std + mean
    return {name: value.float() for name, value in folded.items()}


def _save(state: dict[str, Tensor], file: Path) -> None:
    # Cloned, since safetensors refuses weights that share memory.
    weights = {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    try:
        save_file(weights, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file.name} cannot be written: {error}") from error
