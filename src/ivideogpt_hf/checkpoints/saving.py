"""Saving of checkpoints in our layout, with their code if that is asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..models.remote_code import AUTO_CLASSES, add_code, copy_code, module_of
from ..run_folder import write_json
from .layout import (
    CONFIG_FILE,
    INDEX_FILE,
    PROCESSOR_FILE,
    PROCESSOR_FOLDER,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    PathOrRepo,
    read_json,
)

CONFIG_FILES = {VQ_FOLDER: CONFIG_FILE, TRANSFORMER_FOLDER: CONFIG_FILE, PROCESSOR_FOLDER: PROCESSOR_FILE}
# Modules that model_index.json names: diffusers takes one file from the root for the pipeline, and one from the folder
# of each part.
PIPELINE_MODULE, PART_MODULE = "pipeline_ivideogpt", "ivideogpt_part"
PORTABLE_MODULE = "portable_pipeline"
PIPELINE_CODE = '''"""This checkpoint's pipeline, for DiffusionPipeline.from_pretrained(..., trust_remote_code=True)."""

import importlib

try:
    IVideoGPTPipeline = importlib.import_module("ivideogpt_hf").IVideoGPTPipeline
except ImportError:
{without_package}
'''
WITHOUT_CODE = """    raise ImportError(
        "this checkpoint was saved without its models' code: install ivideogpt_hf, or save it with remote_code=True"
    ) from None"""
PART_CODE = '''"""Loads this part of the checkpoint for diffusers, which takes one file from each folder."""

import importlib
from pathlib import Path

from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module


class {class_name}({base}):
    @classmethod
    def from_pretrained(cls, folder, **options):
        try:
            part = importlib.import_module("ivideogpt_hf").{class_name}
        except ImportError:
            part = get_class_from_dynamic_module("{module}.{class_name}", str(Path(folder).parent))
        return part.from_pretrained(folder, **options)
'''


def save_parts(
    folder: PathOrRepo,
    vq_model: IVideoGPTVQModel,
    transformer: IVideoGPTForCausalLM,
    processor: IVideoGPTVideoProcessor,
    *,
    remote_code: bool = False,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write a checkpoint in our layout.

    Args:
        folder: folder to write.
        vq_model, transformer, processor: parts of the checkpoint.
        remote_code: whether the code of the models is written too, for `trust_remote_code=True` where this package is
            not installed.
        variant: variant in the names of the weight files; None: no variant.
        max_shard_size: size of the largest file of weights; None: transformers' choice.

    Raises:
        ValueError: if weights are not those that a checkpoint holds, as with adapters; nothing is written then.
    """
    for network in (vq_model, transformer):
        _check_weights(network)
    folder = Path(folder)
    options = {"variant": variant, "max_shard_size": max_shard_size}
    options = {name: value for name, value in options.items() if value is not None}
    vq_model.save_pretrained(folder / VQ_FOLDER, **options)
    transformer.save_pretrained(folder / TRANSFORMER_FOLDER, **options)
    processor.save_pretrained(folder / PROCESSOR_FOLDER)
    classes = {
        VQ_FOLDER: type(vq_model).__name__,
        TRANSFORMER_FOLDER: type(transformer).__name__,
        PROCESSOR_FOLDER: type(processor).__name__,
    }
    if remote_code:
        for part, class_name in classes.items():
            add_code(folder / part / CONFIG_FILES[part], class_name)
    _write_root_config(folder, variant)
    _add_pipeline_code(folder, classes, remote_code=remote_code)


def _add_pipeline_code(folder: Path, classes: dict[str, str], *, remote_code: bool) -> None:
    """Write model_index.json and the files that it names; the code of the models, too, if that is asked for.

    Where the package is installed, they load its classes.

    Args:
        folder: folder of the checkpoint.
        classes: name of the class of each part.
        remote_code: whether the code of the models is copied to the root. The Auto classes look there for the parts of
            a repository.
    """
    without_package = WITHOUT_CODE
    if remote_code:
        modules = copy_code(folder, [PORTABLE_MODULE, *map(module_of, classes.values())])
        # diffusers brings the modules that this file names, and none that those name in turn.
        imports = [f"    from .{module} import __name__ as _  # noqa: F401" for module in modules]
        without_package = "\n".join([*imports, f"    from .{PORTABLE_MODULE} import IVideoGPTPipeline"])
    code = PIPELINE_CODE.format(without_package=without_package)
    (folder / f"{PIPELINE_MODULE}.py").write_text(code, encoding="utf-8")
    index: dict[str, Any] = {"_diffusers_version": diffusers.__version__}
    index["_class_name"] = [PIPELINE_MODULE, "IVideoGPTPipeline"]
    for part, class_name in classes.items():
        # By this base class diffusers knows that a dtype and the like may be passed.
        base = "object" if part == PROCESSOR_FOLDER else "PreTrainedModel"
        code = PART_CODE.format(class_name=class_name, base=base, module=module_of(class_name))
        (folder / part / f"{PART_MODULE}.py").write_text(code, encoding="utf-8")
        index[part] = [PART_MODULE, class_name]
    write_json(folder / INDEX_FILE, index)


def _write_root_config(folder: Path, variant: str | None) -> None:
    """Write the config.json by which the Hub counts downloads.

    It is the transformer's and says where its weights are. So the Auto classes find the transformer by the repository
    alone. PEFT knows the network below an adapter by no more. They do not find weights that are split.

    AutoProcessor looks there, too, for the code of the processor. The processor itself knows the folder that it is in.
    """
    weights = f"{TRANSFORMER_FOLDER}/model{'' if variant is None else f'.{variant}'}.safetensors"
    config = read_json(folder / TRANSFORMER_FOLDER / CONFIG_FILE)
    if (folder / weights).exists():
        config["transformers_weights"] = weights
    if "auto_map" in config:
        config["auto_map"]["AutoProcessor"] = AUTO_CLASSES[IVideoGPTVideoProcessor.__name__]["AutoProcessor"]
    write_json(folder / CONFIG_FILE, config)


def weights_of_config(network_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, Tensor]:
    """The weights that a network of this config has: names and shapes, on the device "meta"."""
    with torch.device("meta"):
        return network_class(copy.deepcopy(config)).state_dict()


def _check_weights(network: PreTrainedModel) -> None:
    """Refuse names of weights that the network's class does not load, and weights that are not in memory."""
    if any(value.is_meta for value in network.state_dict().values()):
        raise ValueError(
            f"weights of the {type(network).__name__} are offloaded: bring them back by "
            f"accelerate.hooks.remove_hook_from_module(network, recurse=True), and save then"
        )
    different = sorted(weights_of_config(type(network), network.config).keys() ^ network.state_dict().keys())
    if different:
        raise ValueError(
            f"the {type(network).__name__} has other weights than its config describes, which could not be loaded, "
            f"among them {different[0]}: merge adapters (merge_and_unload), and remove parametrisations and replaced "
            f"modules, or save its state_dict yourself"
        )
