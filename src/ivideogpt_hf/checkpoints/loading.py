"""Checkpoints on disk and on the Hub: the released layout, ours, and the way between them.

Both have one folder per part. Ours is what transformers' and diffusers' classes write; the released one keeps the VQ
model in diffusers' files and an action-conditioned transformer under ``llm.``::

    ours                                            released
    model_index.json                                -
    tokenizer/config.json, model.safetensors        tokenizer/config.json, diffusion_pytorch_model.safetensors
    transformer/config.json, model.safetensors      transformer/config.json, model.safetensors
    processor/video_preprocessor_config.json        -

A missing, unused or wrongly shaped weight is an error. Pickles are never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from .. import models
from ..models.modeling_ivideogpt import IVideoGPTForCausalLM
from ..models.modeling_ivideogpt_vq import IVideoGPTVQModel
from ..models.processing_ivideogpt import IVideoGPTVideoProcessor
from ..run_folder import write_json

PathOrRepo = str | os.PathLike[str]
Parts = tuple[IVideoGPTVQModel, IVideoGPTForCausalLM, IVideoGPTVideoProcessor | None]

DEFAULT_FOLDER = Path(__file__).parents[1] / "default"
# In a checkpoint's folder, an episode held out from its training: frames, rewards, and actions, of which the first
# leads from the first frame to the second.
EPISODE_FILE = "episode.npz"
EXAMPLE_EPISODE = DEFAULT_FOLDER / EPISODE_FILE
# The one property of a released checkpoint that no file in it tells.
RELEASED_GOAL_CONDITIONED = frozenset({"thuml/ivideogpt-oxe-64-goal-cond"})

VQ_FOLDER, TRANSFORMER_FOLDER, PROCESSOR_FOLDER = "tokenizer", "transformer", "processor"
INDEX_FILE = "model_index.json"
PROCESSOR_FILE = "video_preprocessor_config.json"
DOWNLOADED = [
    INDEX_FILE,
    EPISODE_FILE,
    *(f"{folder}/{pattern}" for folder in (VQ_FOLDER, TRANSFORMER_FOLDER) for pattern in ("*.json", "*.safetensors")),
    f"{PROCESSOR_FOLDER}/*.json",
]
AUTO_CLASSES = {
    VQ_FOLDER: {
        "AutoConfig": "configuration_ivideogpt_vq.IVideoGPTVQConfig",
        "AutoModel": "modeling_ivideogpt_vq.IVideoGPTVQModel",
    },
    TRANSFORMER_FOLDER: {
        "AutoConfig": "configuration_ivideogpt.IVideoGPTConfig",
        "AutoModel": "modeling_ivideogpt.IVideoGPTForCausalLM",
        "AutoModelForCausalLM": "modeling_ivideogpt.IVideoGPTForCausalLM",
    },
}


# -- finding ----------------------------------------------------------------------------------------------------------


def fetch(
    path_or_repo_id: PathOrRepo,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: PathOrRepo | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a checkpoint; downloads it, safetensors and json only, if it is a Hub id. "default" is the
    embedded one, unless there is a folder of that name.

    Raises:
        OSError: if there is no such folder or repository, access is denied, or the Hub cannot be reached.
    """
    if os.path.isdir(path_or_repo_id):
        return Path(path_or_repo_id)
    name = os.fspath(path_or_repo_id)
    if name == "default":
        return DEFAULT_FOLDER
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=DOWNLOADED,
        )
    except HFValidationError as error:
        raise OSError(f"{name} is neither an existing folder nor a Hub id of the form 'owner/name'") from error
    except GatedRepoError as error:
        raise OSError(
            f"{name} is gated: ask for access at its page on the Hub, then log in with `hf auth login` or pass token="
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"{name} is neither an existing folder nor a repository on the Hub that you can see; check the name, and "
            f"if it is private, log in with `hf auth login` or pass token="
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(f"{name} has no revision {revision!r}") from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"{name} is not in the local cache, and the Hub cannot be reached or was not to be asked; check the network"
        ) from error
    except HfHubHTTPError as error:
        raise OSError(f"the Hub refused {name}: {error}") from error
    return Path(folder)


def is_released(folder: PathOrRepo) -> bool:
    """Whether a checkpoint folder is in the released layout."""
    return "_class_name" in _read_json(_config_file(folder, VQ_FOLDER))


def _config_file(folder: PathOrRepo, part: str) -> Path:
    file = Path(folder) / part / "config.json"
    if not file.is_file():
        raise OSError(f"{folder} is no iVideoGPT checkpoint: {part}/config.json is missing")
    return file


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{file} is not valid JSON: {error}") from error


# -- loading ----------------------------------------------------------------------------------------------------------


def load_parts(
    folder: PathOrRepo,
    *,
    dtype: torch.dtype = torch.float32,
    goal_conditioned: bool | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
) -> Parts:
    """Load all parts of a checkpoint folder, in either layout.

    Args:
        folder: the checkpoint.
        dtype: of the weights.
        goal_conditioned: overrides what the checkpoint says, unless None.
        quantization_config: of the transformer.

    Returns:
        VQ model and transformer in eval mode, and the processor, or None where the checkpoint has none.

    Raises:
        OSError: if a file is missing or corrupt.
        ValueError: if a weight is missing, unused or wrongly shaped.
    """
    vq_model = load_vq_model(folder, dtype=dtype)
    transformer = load_transformer(
        folder, dtype=dtype, goal_conditioned=goal_conditioned, quantization_config=quantization_config
    )
    return vq_model, transformer, load_processor(folder)


def load_vq_model(folder: PathOrRepo, *, dtype: torch.dtype = torch.float32) -> IVideoGPTVQModel:
    """Load the VQ model alone; see `load_parts`."""
    return _load_strictly(IVideoGPTVQModel, folder, VQ_FOLDER, dtype)


def load_transformer(
    folder: PathOrRepo,
    *,
    dtype: torch.dtype = torch.float32,
    goal_conditioned: bool | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
) -> IVideoGPTForCausalLM:
    """Load the transformer alone; see `load_parts`."""
    options = {} if quantization_config is None else {"quantization_config": quantization_config}
    transformer = _load_strictly(IVideoGPTForCausalLM, folder, TRANSFORMER_FOLDER, dtype, **options)
    if goal_conditioned is not None:
        transformer.config.goal_conditioned = goal_conditioned
        transformer.config.check_geometry()
    return transformer


def is_goal_conditioned(path_or_repo_id: PathOrRepo, told: bool | None) -> bool | None:
    """What the caller tells, else what a released Hub id tells; None: as the checkpoint says."""
    return True if told is None and os.fspath(path_or_repo_id) in RELEASED_GOAL_CONDITIONED else told


def load_processor(folder: PathOrRepo) -> IVideoGPTVideoProcessor | None:
    """Load the processor alone, or None where the checkpoint has none."""
    if not (Path(folder) / PROCESSOR_FOLDER / PROCESSOR_FILE).is_file():
        return None
    return IVideoGPTVideoProcessor.from_pretrained(folder, subfolder=PROCESSOR_FOLDER)


def _load_strictly(
    model_class: type[PreTrainedModel], folder: PathOrRepo, part: str, dtype: torch.dtype, **options: Any
) -> Any:
    """Load one network, and accept nothing that does not fit. Options go to `from_pretrained`."""
    _config_file(folder, part)
    _check_weight_files(Path(folder) / part)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would report is raised below
    try:
        network, info = model_class.from_pretrained(
            folder, subfolder=part, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except StrictDataclassError as error:
        raise ValueError(f"{Path(folder) / part / 'config.json'} holds a value of the wrong kind: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    problems = [f"missing: {name}" for name in sorted(info["missing_keys"])]
    problems += [f"not used by this model: {name}" for name in sorted(info["unexpected_keys"])]
    problems += [
        f"wrong shape: {name} is {tuple(found)}, the config asks for {tuple(expected)}"
        for name, found, expected in sorted(info["mismatched_keys"])
    ]
    if problems:
        raise ValueError(f"the weights in {Path(folder) / part} do not fit: " + "; ".join(problems))
    return network.eval()


def _check_weight_files(folder: Path) -> None:
    """There must be readable safetensors files; transformers would report a broken one in terms of its own."""
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


# -- saving -----------------------------------------------------------------------------------------------------------


def save_parts(
    folder: PathOrRepo,
    vq_model: IVideoGPTVQModel,
    transformer: IVideoGPTForCausalLM,
    processor: IVideoGPTVideoProcessor,
    *,
    remote_code: bool = False,
) -> None:
    """Write a checkpoint in our layout; with ``remote_code`` also the modelling code, for `trust_remote_code=True`."""
    folder = Path(folder)
    vq_model.save_pretrained(folder / VQ_FOLDER)
    transformer.save_pretrained(folder / TRANSFORMER_FOLDER)
    processor.save_pretrained(folder / PROCESSOR_FOLDER)
    classes = {VQ_FOLDER: vq_model, TRANSFORMER_FOLDER: transformer, PROCESSOR_FOLDER: processor}
    index: dict[str, Any] = {"_class_name": "IVideoGPTPipeline", "_diffusers_version": diffusers.__version__}
    index |= {part: ["ivideogpt_hf", type(value).__name__] for part, value in classes.items()}
    write_json(folder / INDEX_FILE, index)
    if remote_code:
        _add_remote_code(folder)


def _add_remote_code(folder: Path) -> None:
    """Copy the modelling code to the root, which is where `trust_remote_code` looks, and point the configs to it."""
    for file in Path(models.__file__).parent.glob("[!_]*.py"):
        shutil.copy(file, folder / file.name)
    for part, auto_map in AUTO_CLASSES.items():
        file = folder / part / "config.json"
        write_json(file, _read_json(file) | {"auto_map": auto_map})


def push(
    save: Callable[[str], None],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    commit_message: str,
) -> str:
    """Create the repository where needed and upload in one commit what ``save(folder)`` writes.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        OSError: if the Hub refuses it or cannot be reached, or if the upload breaks off.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        try:
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )
        except RuntimeError as error:  # what huggingface_hub makes of a large file that does not arrive
            raise OSError(
                f"the upload to {repo_id} broke off, and nothing of it is visible there ({error}); do the same again: "
                f"only what is missing will be sent"
            ) from error
    return commit.pr_url or commit.commit_url


def weights_hash(model: PreTrainedModel) -> str:
    """A hash of a network's weights, in float32, whatever file or device they come from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
