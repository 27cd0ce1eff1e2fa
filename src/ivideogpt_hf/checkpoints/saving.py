"""Saving of checkpoints in our layout, with their code if that is asked for."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .. import models
from ..models.configuration_ivideogpt import IVideoGPTConfig
from ..models.configuration_ivideogpt_vq import IVideoGPTVQConfig
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..run_folder import write_json
from .layout import (
    AUTO_CLASSES,
    CONFIG_FILE,
    INDEX_FILE,
    PROCESSOR_FOLDER,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    PathOrRepo,
    read_json,
)


def save_parts(
    folder: PathOrRepo,
    vq_model: IVideoGPTVQModel,
    transformer: IVideoGPTForCausalLM,
    processor: IVideoGPTVideoProcessor,
    *,
    remote_code: bool = False,
) -> None:
    """Write a checkpoint in our layout.

    Args:
        folder: folder to write.
        vq_model, transformer, processor: parts of the checkpoint.
        remote_code: whether the code of the models is written too, for `trust_remote_code=True`.

    Raises:
        ValueError: if weights are not those that a checkpoint holds, as with adapters; nothing is written then.
    """
    for network in (vq_model, transformer):
        _check_weights(network)
    folder = Path(folder)
    vq_model.save_pretrained(folder / VQ_FOLDER)
    transformer.save_pretrained(folder / TRANSFORMER_FOLDER)
    processor.save_pretrained(folder / PROCESSOR_FOLDER)
    classes = {VQ_FOLDER: vq_model, TRANSFORMER_FOLDER: transformer, PROCESSOR_FOLDER: processor}
    index: dict[str, Any] = {"_class_name": "IVideoGPTPipeline", "_diffusers_version": diffusers.__version__}
    index |= {part: ["ivideogpt_hf", type(value).__name__] for part, value in classes.items()}
    write_json(folder / INDEX_FILE, index)
    write_json(folder / CONFIG_FILE, _world_config(vq_model.config, transformer.config))
    if remote_code:
        _add_remote_code(folder)


def _world_config(vq_config: IVideoGPTVQConfig, config: IVideoGPTConfig) -> dict[str, Any]:
    """What a world takes and gives. Nothing here reads it: the Hub counts downloads by the config.json at the root."""
    return {
        "_class_name": "WorldModel",
        "library_name": "ivideogpt_hf",
        "frame_size": list(vq_config.frame_size),
        "num_context_frames": config.num_context_frames,
        "action_dim": config.action_dim,
        "goal_conditioned": config.goal_conditioned,
        "has_reward": config.predict_reward,
    }


def weights_of_config(network_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, Tensor]:
    """The weights that a network of this config has: names and shapes, on the device "meta"."""
    with torch.device("meta"):
        return network_class(copy.deepcopy(config)).state_dict()


def _check_weights(network: PreTrainedModel) -> None:
    """Refuse names of weights that the network's class does not load."""
    different = sorted(weights_of_config(type(network), network.config).keys() ^ network.state_dict().keys())
    if different:
        raise ValueError(
            f"the {type(network).__name__} has other weights than its config describes, which could not be loaded, "
            f"among them {different[0]}: merge adapters (merge_and_unload), and remove parametrisations and replaced "
            f"modules, or save its state_dict yourself"
        )


def _add_remote_code(folder: Path) -> None:
    """Copy the code of the models to the root, where `trust_remote_code` looks, and name it in the configs."""
    for file in Path(models.__file__).parent.glob("[!_]*.py"):
        shutil.copy(file, folder / file.name)
    for part, auto_map in AUTO_CLASSES.items():
        file = folder / part / CONFIG_FILE
        write_json(file, read_json(file) | {"auto_map": auto_map})
