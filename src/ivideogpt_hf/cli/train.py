"""The commands that train: ``ivideogpt train-vq | train | tokenize``."""

from __future__ import annotations

import argparse
from typing import Any

from ..extras import require_packages
from .ray_cluster import ray_tasks

TOKENIZING_PACKAGES = ("accelerate", "datasets")
TRAINING_PACKAGES = (*TOKENIZING_PACKAGES, "matplotlib")
ABOUT = {
    "train-vq": "Train or fine-tune the VQ model, which turns frames into tokens and back. The output folder holds the "
    "model, the metrics with their curves, and checkpoints from which --resume latest goes on.",
    "train": "Train or fine-tune the transformer, which predicts the tokens of future frames. The output folder is a "
    "checkpoint that other commands take. It also holds the metrics with their curves, and checkpoints from which "
    "--resume latest goes on.",
    "tokenize": "Write the tokens of a data set once, so that trainings need not code its clips at each update. "
    "--tokens of `ivideogpt train` takes the output folder.",
}


def add_training_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands. Their options are the fields of training/arguments.py, which is imported only when one of them
    runs."""
    for name, text, run in (
        ("train-vq", "train or fine-tune the VQ model", _train_vq),
        ("train", "train or fine-tune the transformer", _train),
        ("tokenize", "write the tokens of a data set once, for many trainings", _tokenize),
    ):
        command = commands.add_parser(name, parents=[common], help=text, description=ABOUT[name], add_help=False)
        command.add_argument("--config", help="yaml file, over which the options win")
        command.set_defaults(run=run, parses_the_rest=True)


def _parse(args: argparse.Namespace, kinds: tuple[type, ...], command: str) -> tuple[Any, ...]:
    from ..training.arguments import parse

    return parse(kinds, args.config, args.unparsed, f"ivideogpt {command}", about=ABOUT[command])


def _train_vq(args: argparse.Namespace) -> int | None:
    require_packages(*TRAINING_PACKAGES, purpose="training")
    from ..training.train_vq import VQ_ARGUMENTS, train_vq

    return train_vq(*_parse(args, VQ_ARGUMENTS, "train-vq"))


def _train(args: argparse.Namespace) -> int | None:
    require_packages(*TRAINING_PACKAGES, purpose="training")
    from ..training.train_world_model import WORLD_MODEL_ARGUMENTS, train_world_model

    return train_world_model(*_parse(args, WORLD_MODEL_ARGUMENTS, "train"))


def _tokenize(args: argparse.Namespace) -> None:
    require_packages(*TOKENIZING_PACKAGES, purpose="tokenizing")
    from ..training.tokenizing import TOKENIZE_ARGUMENTS, tokenize

    settings, data = _parse(args, TOKENIZE_ARGUMENTS, "tokenize")
    if settings.ray is None:
        tokenize(settings, data)
        return
    with ray_tasks(settings.ray, takes_gpus=True) as pool:
        tokenize(settings, data, pool=pool, num_parts=pool.num_slots)
