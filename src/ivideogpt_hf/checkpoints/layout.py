"""Names and places of the files of a checkpoint.

There are two layouts, each with one folder per part. Ours is what the classes of transformers and diffusers write. The
released one has the VQ model in diffusers' files, and an action-conditioned transformer whose weights begin with
``llm.``::

    ours                                            released
    model_index.json, config.json                   -
    pipeline_ivideogpt.py                           -
    tokenizer/config.json, model.safetensors        tokenizer/config.json, diffusion_pytorch_model.safetensors
    transformer/config.json, model.safetensors      transformer/config.json, model.safetensors
    processor/video_preprocessor_config.json        -
    */ivideogpt_part.py                             -
    metrics.json, training.json (optional)          metrics.json, training.json (optional)
    episode.npz (optional)                          episode.npz (optional)

The Python files are what model_index.json names, for diffusers. Nothing here runs them. With its models' code, a
checkpoint has further ones at the root and in each folder.

This module loads no network, so that importing it costs next to nothing.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..run_folder import read_object, write_json

PathOrRepo = str | os.PathLike[str]

VQ_FOLDER, TRANSFORMER_FOLDER, PROCESSOR_FOLDER = "tokenizer", "transformer", "processor"
INDEX_FILE, CONFIG_FILE = "model_index.json", "config.json"
PROCESSOR_FILE = "video_preprocessor_config.json"
# Weights of the released layout. Weights of ours have the names that transformers gives them.
RELEASED_VQ_WEIGHTS, RELEASED_TRANSFORMER_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
# An episode held out from the training, with frames, rewards and actions. The first action leads from the first frame
# to the second.
EPISODE_FILE = "episode.npz"
# Commands and results of training and evaluation.
METRICS_FILE = "metrics.json"
# Arguments, data and versions of the training that wrote the checkpoint.
TRAINING_FILE = "training.json"
COMPANIONS = (METRICS_FILE, TRAINING_FILE, EPISODE_FILE)
# Files that are downloaded from a repository: configs and safetensors, never a pickle.
DOWNLOADED = (
    INDEX_FILE,
    CONFIG_FILE,  # by which the Hub counts downloads
    EPISODE_FILE,
    *(f"{folder}/{pattern}" for folder in (VQ_FOLDER, TRANSFORMER_FOLDER) for pattern in ("*.json", "*.safetensors")),
    f"{PROCESSOR_FOLDER}/*.json",
)
# Being goal-conditioned is the one property of a released checkpoint that is in none of its files.
RELEASED_GOAL_CONDITIONED = frozenset({"thuml/ivideogpt-oxe-64-goal-cond"})


@dataclass(frozen=True)
class Embedded:
    """A checkpoint inside the package.

    Attributes:
        folder: folder of the checkpoint.
        about: what it is, in a line.
        environment: family of the environments that its data were collected in.
    """

    folder: Path
    about: str
    environment: str


_EMBEDDED = Path(__file__).parents[1] / "embedded"
DEFAULT = "default"  # the embedded checkpoint that is taken where none is named
# The embedded checkpoints by name.
EMBEDDED = {
    DEFAULT: Embedded(_EMBEDDED / DEFAULT, "small, Meta-world, 64 x 64, with actions and rewards", "metaworld"),
    "push2d": Embedded(_EMBEDDED / "push2d", "small, push2d, 32 x 32, with actions, to plan in", "push2d"),
}
DEFAULT_FOLDER = EMBEDDED[DEFAULT].folder
EXAMPLE_EPISODE = DEFAULT_FOLDER / EPISODE_FILE


def find_embedded(name: PathOrRepo) -> Embedded | None:
    """The embedded checkpoint of a name. None without one, and where a folder of that name holds a checkpoint: a data
    set may be called like the environment that it was collected in."""
    found, folder = EMBEDDED.get(os.fspath(name)), Path(name)
    parts = ("", VQ_FOLDER, TRANSFORMER_FOLDER)
    return None if any((folder / part / CONFIG_FILE).is_file() for part in parts) else found


def config_file(folder: PathOrRepo, part: str) -> Path:
    """The path of a part's config file.

    Raises:
        OSError: if there is no such file.
    """
    file = Path(folder) / part / CONFIG_FILE
    if not file.is_file():
        raise OSError(f"{folder} is no iVideoGPT checkpoint: {part}/{CONFIG_FILE} is missing")
    return file


def copy_companions(folder: PathOrRepo, target: PathOrRepo) -> None:
    """Copy what a checkpoint's folder holds beside its parts: results, the record of the training, and the episode."""
    for name in COMPANIONS:
        if (Path(folder) / name).is_file():
            shutil.copyfile(Path(folder) / name, Path(target) / name)


def read_metrics(folder: PathOrRepo) -> dict[str, Any]:
    """The content of a checkpoint's metrics file; empty where there is none.

    Raises:
        OSError: if it is not valid JSON.
    """
    file = Path(folder) / METRICS_FILE
    return read_json(file) if file.is_file() else {}


def record_evaluation(folder: PathOrRepo, results: dict[str, Any]) -> None:
    """Write the results of an evaluation into a checkpoint's metrics file, which its card is made from."""
    write_json(Path(folder) / METRICS_FILE, read_metrics(folder) | {"evaluation": results})


def read_json(file: Path) -> dict[str, Any]:
    """Read a json file of a checkpoint.

    Raises:
        OSError: if it is not valid JSON.
    """
    return read_object(file)
