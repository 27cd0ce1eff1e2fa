"""Loading of checkpoints from folders and the Hub. A missing, unused or wrongly shaped weight is an error.

A config that asks for more than its files hold is refused before memory is taken.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..hub.download import download_repository
from ..hub.errors import NotCachedError, NotOnHubError
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..run_folder import naming
from .family import with_released_id
from .layout import (
    DOWNLOADED,
    EMBEDDED,
    PROCESSOR_FILE,
    PROCESSOR_FOLDER,
    RELEASED_GOAL_CONDITIONED,
    TRANSFORMER_FOLDER,
    VQ_FOLDER,
    PathOrRepo,
    config_file,
    find_embedded,
    read_json,
)
from .needs import check_needs

# What a config says of how it was loaded or saved, not of the network.
LOADING_KEYS = {"transformers_version", "architectures", "dtype", "_name_or_path", "auto_map", "processor_class"}

QUANTIZATION_METHOD = "torchao"
ADAPTER_FILE = "adapter_config.json"  # PEFT's
# A dtype, its name, "auto" for that of the stored weights, or None for float32.
DTypeLike = torch.dtype | str | None
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

DeviceMap = str | int | torch.device | dict[str, Any] | None


@dataclass(frozen=True)
class LoadingOptions:
    """How the networks of a checkpoint are loaded.

    Args:
        dtype: dtype of the weights, or its name; "auto": that which the config states, or else that in which they are
            stored; None: float32.
        device_map: placement of both networks, as transformers takes it; None: the CPU. "auto", and a dict that names
            "disk", need Accelerate.
        offload_folder: folder for weights that are offloaded to disk, which gets a folder for each network.
        variant: variant of the weight files, as "fp16" in ``model.fp16.safetensors``; None: no variant.
        attn_implementation: attention of the transformer when it is called; None: transformers' choice.
        quantization_config: quantization of weights, of the transformer's where both networks are loaded; None: none.
    """

    dtype: DTypeLike = torch.float32
    device_map: DeviceMap = None
    offload_folder: PathOrRepo | None = None
    variant: str | None = None
    attn_implementation: str | None = None
    quantization_config: QuantizationConfigMixin | None = None

    def of_part(self, part: str) -> dict[str, Any]:
        """Arguments of `from_pretrained` for the network in a folder of the checkpoint."""
        options = {"device_map": self.device_map, "variant": self.variant}
        if self.offload_folder is not None:
            options["offload_folder"] = Path(self.offload_folder) / part
        options["quantization_config"] = self.quantization_config
        if part == TRANSFORMER_FOLDER:
            options["attn_implementation"] = self.attn_implementation
        return {name: value for name, value in options.items() if value is not None}


T = TypeVar("T")
Parts = tuple[IVideoGPTVQModel, IVideoGPTForCausalLM, IVideoGPTVideoProcessor | None]


def fetch(
    path_or_repo_id: PathOrRepo,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: PathOrRepo | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """Find the local folder of a checkpoint. A Hub id is downloaded: safetensors and json files only.

    Args:
        path_or_repo_id: folder or Hub id; "default" and "push2d" are embedded checkpoints, unless a folder of that name
            holds one. The family's id means its general member, see `with_released_id`.
        revision: branch, tag or commit of a Hub id.
        token: token for the Hub.
        cache_dir: folder of the Hub's cache.
        local_files_only: whether only the cache is used.
        force_download: whether what is in the cache is downloaded again.
        subfolder: folder of the checkpoint within the folder or repository.

    Raises:
        OSError: if there is no such folder or repository, access is denied, or the Hub cannot be reached.
    """
    embedded = find_embedded(path_or_repo_id)
    if embedded is not None:
        return embedded.folder / subfolder
    if os.path.isdir(path_or_repo_id):
        return Path(path_or_repo_id) / subfolder
    name = os.fspath(path_or_repo_id)
    download = functools.partial(
        download_repository,
        kind="model",
        patterns=[(PurePosixPath(subfolder) / pattern).as_posix() for pattern in DOWNLOADED],
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    try:
        return with_released_id(name, download) / subfolder
    except (NotOnHubError, NotCachedError) as error:
        close = difflib.get_close_matches(name, EMBEDDED, n=1)
        if not close:
            raise
        raise type(error)(f"{error}; did you mean {close[0]!r}?") from error


def load_parts(
    folder: PathOrRepo, options: LoadingOptions | None = None, *, goal_conditioned: bool | None = None
) -> Parts:
    """Load all parts of a checkpoint folder, in either layout.

    Args:
        folder: folder of the checkpoint.
        options: how the networks are loaded; None: `LoadingOptions()`.
        goal_conditioned: whether the first context frame is the goal; None: the checkpoint's own setting.

    Returns:
        VQ model and transformer in eval mode, and the processor, or None where the checkpoint has none.

    Raises:
        OSError: if a file is missing or corrupt.
        ValueError: if a weight is missing, unused or wrongly shaped, or the dtype is unknown.
    """
    options = options or LoadingOptions()
    vq_model = load_vq_model(folder, replace(options, quantization_config=None))
    return vq_model, load_transformer(folder, options, goal_conditioned=goal_conditioned), load_processor(folder)


def load_vq_model(folder: PathOrRepo, options: LoadingOptions | None = None) -> IVideoGPTVQModel:
    """Load the VQ model alone; see `load_parts`."""
    options = options or LoadingOptions()
    return _load_strictly(IVideoGPTVQModel, folder, VQ_FOLDER, options)


def load_transformer(
    folder: PathOrRepo, options: LoadingOptions | None = None, *, goal_conditioned: bool | None = None
) -> IVideoGPTForCausalLM:
    """Load the transformer alone; see `load_parts`."""
    options = options or LoadingOptions()
    transformer = _load_strictly(IVideoGPTForCausalLM, folder, TRANSFORMER_FOLDER, options)
    if goal_conditioned is not None:
        transformer.config.goal_conditioned = goal_conditioned
        transformer.config.check_geometry()
    return transformer


def is_goal_conditioned(path_or_repo_id: PathOrRepo, override: bool | None) -> bool | None:
    """Whether the first context frame is the goal: the override, or True for released Hub ids that are known to be so.
    None: the checkpoint's own setting."""
    released = os.fspath(path_or_repo_id).casefold() in RELEASED_GOAL_CONDITIONED  # the Hub does not tell cases apart
    return True if override is None and released else override


def load_processor(folder: PathOrRepo) -> IVideoGPTVideoProcessor | None:
    """Load the processor alone, or None where the checkpoint has none."""
    file = Path(folder) / PROCESSOR_FOLDER / PROCESSOR_FILE
    if not file.is_file():
        return None
    read_json(file)
    with naming(file):
        return IVideoGPTVideoProcessor.from_pretrained(folder, subfolder=PROCESSOR_FOLDER)


def _load_strictly(model_class: type[PreTrainedModel], folder: PathOrRepo, part: str, options: LoadingOptions) -> Any:
    """Load one network, and refuse weights that do not fit."""
    dtype = _as_dtype(options.dtype)
    file = config_file(folder, part)
    quantization = _quantization_in(file)
    _check_generation(file.parent / GENERATION_CONFIG_NAME)
    _check_weight_files(file.parent)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # problems that it would print are raised below
    try:
        with naming(file):
            config = model_class.config_class.from_pretrained(folder, subfolder=part)
        check_needs(model_class, config, file.parent, is_packed=quantization is not None)
        network, info = model_class.from_pretrained(
            folder,
            subfolder=part,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options.of_part(part),
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    problems = [f"missing: {name}" for name in sorted(info["missing_keys"])]
    problems += [f"not used by this model: {name}" for name in sorted(info["unexpected_keys"])]
    problems += [
        f"wrong shape: {name} is {tuple(shape)}, the config asks for {tuple(expected)}"
        for name, shape, expected in sorted(info["mismatched_keys"])
    ]
    if problems:
        raise ValueError(f"the weights in {Path(folder) / part} do not fit: " + "; ".join(problems))
    return network.eval()


def _check_generation(file: Path) -> None:
    """Check that transformers can read what its `generate` would do, where a file says it."""
    if file.is_file():
        read_json(file)
        with naming(file):
            GenerationConfig.from_pretrained(file.parent)


def _quantization_in(file: Path) -> dict[str, Any] | None:
    """How the weights beside a config are quantised; None where they are not.

    Raises:
        OSError: if it is no JSON object.
        ValueError: if they are quantised in a way that was never tried: transformers would ask for packages, and for
            memory, by what the config says.
    """
    quantization = read_json(file).get("quantization_config")
    if quantization is None:
        return None
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method != QUANTIZATION_METHOD:
        raise ValueError(
            f"{file} has weights that are quantised by {method!r:.80}: only those by {QUANTIZATION_METHOD!r} are loaded"
        )
    return quantization


def choose_dtype(dtype: T, torch_dtype: T | None) -> T:
    """The dtype, or dtypes, that were asked for by that name or by the older one, which is None where it was not given.

    Raises:
        ValueError: if both were given, and differ.
    """
    if torch_dtype is None:
        return dtype
    if dtype not in (torch.float32, None, torch_dtype):
        raise ValueError(f"dtype ({dtype}) and torch_dtype ({torch_dtype}) are two names of one thing: pass dtype")
    return torch_dtype


def _as_dtype(dtype: DTypeLike) -> torch.dtype | str:
    if dtype is None:
        return torch.float32
    if dtype == "auto" or dtype in DTYPES.values():
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES or not isinstance(dtype, str):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, auto or None, got {dtype!r}")
    return DTYPES[name]


def _check_weight_files(folder: Path) -> None:
    """Check that there are readable safetensors files. The errors of transformers would not name a broken one."""
    _check_names(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
        hint = f"; {pickles[0]} is a pickle, which is never loaded: save it as safetensors" if pickles else ""
        raise OSError(f"{folder} holds no safetensors weights{hint}")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise OSError(f"{file} is corrupt or incomplete, fetch it again: {error}") from error


def _check_names(folder: Path) -> None:
    """Check that transformers will read nothing but safetensors files in this folder.

    Raises:
        OSError: if an index is damaged.
        ValueError: if an index names other files, or there are adapters, which transformers would add by itself.
    """
    for index in folder.glob("*.index.json"):
        content = read_json(index).get("weight_map")
        names = content.values() if isinstance(content, dict) else [content]
        for name in names:
            # A name with a separator of Windows or a drive leaves the folder there.
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
                raise ValueError(
                    f"{index} names {name!r:.80}: weights are safetensors files in the same folder, and pickles are "
                    f"never loaded"
                )
    if (folder / ADAPTER_FILE).exists():
        raise ValueError(
            f"{folder} holds {ADAPTER_FILE}: merge the adapters into the weights (PEFT's merge_and_unload), or load "
            f"them onto the loaded network yourself"
        )


def weights_hash(model: torch.nn.Module) -> str:
    """A hash of a network's weights in float32, which does not depend on the file or device that they come from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def settings_of(part: PreTrainedConfig | IVideoGPTVideoProcessor) -> dict[str, Any]:
    """What a config or a processor says of a checkpoint, without versions of packages and places of files."""
    values = part.to_diff_dict() if isinstance(part, PreTrainedConfig) else part.to_dict()
    return {name: value for name, value in values.items() if name not in LOADING_KEYS}


def checkpoint_identity(
    vq_model: PreTrainedModel, transformer: PreTrainedModel, processor: IVideoGPTVideoProcessor
) -> dict[str, Any]:
    """What results of a checkpoint are recognised by: hashes of its weights and settings, and the transformer's dtype.
    Weights that are stored in half precision have one hash in all of them."""
    return {
        "weights": [weights_hash(vq_model), weights_hash(transformer)],
        "settings": settings_hash(vq_model.config, transformer.config, processor),
        "dtype": str(transformer.dtype).removeprefix("torch."),
    }


def settings_hash(*parts: PreTrainedConfig | IVideoGPTVideoProcessor) -> str:
    """A hash of what configs and processors say of a checkpoint, which does not depend on versions of packages.

    Args:
        parts: configs of networks, and processors.
    """
    content = [settings_of(part) for part in parts]
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
