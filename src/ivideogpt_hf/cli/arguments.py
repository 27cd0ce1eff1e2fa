"""Options that several commands share, and loading of the checkpoint that a command names."""

from __future__ import annotations

import argparse
import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from ..checkpoints.layout import DEFAULT, EMBEDDED, Embedded, find_embedded
from ..hub.errors import NotCachedError, NotOnHubError
from ..media.alignment import ActionAlignment

if TYPE_CHECKING:
    from ..world.world_model import WorldModel

USAGE_ERROR = 2
CHECKPOINT_HELP = f"folder, Hub id, or one of the embedded ones: {', '.join(EMBEDDED)}"


class OneLineParser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage, which may fill a screen."""

    def error(self, message: str) -> NoReturn:
        """End the program with code 2."""
        hint = f"; `{self.prog} --help` describes them" if "required" in message else ""
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message}{hint}\n")


def checkpoint_arguments() -> list[argparse.ArgumentParser]:
    """Parent parsers of commands that load a checkpoint: options of its origin, and options of the device."""
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--revision", help="branch, tag or commit of a Hub checkpoint")
    source.add_argument("--token", help="Hub token for a private or gated checkpoint")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="cpu", help="such as cpu or cuda (default: %(default)s)")
    device.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    return [source, device]


def add_alignment(parser: argparse.ArgumentParser) -> None:
    """Add the option that tells which frame a row of actions belongs to."""
    parser.add_argument(
        "--action-alignment",
        choices=get_args(ActionAlignment),
        help="whether row t of the actions comes before frame t (it led to it) or after (default: what a flag of the "
        "format tells, else after)",
    )


def parse_shard(text: str) -> tuple[int, int]:
    """Read I/N, an argument."""
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and int(number) < int(total)):
        raise argparse.ArgumentTypeError(f"must be I/N with 0 <= I < N, such as 0/8, got {text!r}")
    return int(number), int(total)


def be_quiet() -> None:
    """Switch off the progress bars of transformers: loading a checkpoint takes a moment only."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _nearest_folder(name: str) -> str:
    """A question whether a folder was meant that is here under a similar name; "" where there is none.

    Only the command line asks it: strangers who name checkpoints to a server must not learn what lies on it.
    """
    path = Path(name)
    parent = path.parent
    folders = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    close = difflib.get_close_matches(path.name, folders, n=1)
    return f"; did you mean the folder {parent / close[0]}?" if close else ""


def embedded_checkpoint(args: argparse.Namespace) -> Embedded | None:
    """The embedded checkpoint that a command's ``checkpoint`` names, or else the default; None if it names another."""
    return find_embedded(args.checkpoint or DEFAULT)


def checkpoint_folder(args: argparse.Namespace) -> Path:
    """The folder of the checkpoint that `load_world` loads.

    Raises:
        OSError: if it cannot be found, see `fetch`.
    """
    from ..checkpoints.loading import fetch

    embedded = embedded_checkpoint(args)
    return fetch(args.checkpoint, revision=args.revision, token=args.token) if embedded is None else embedded.folder


def load_world(args: argparse.Namespace) -> WorldModel:
    """Load the world model that a command's ``checkpoint`` names, or else the default, to the device.

    Raises:
        OSError: if the checkpoint cannot be loaded, see `WorldModel.from_pretrained`.
        ValueError: if its weights do not fit, or there is no such device.
    """
    import torch

    from ..world.world_model import WorldModel

    be_quiet()
    device = args.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device} was asked for, but torch sees no CUDA device; use --device cpu")
    if device == "cuda":  # a launcher gives each of its processes a rank
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by what it lacks
        raise ValueError(f"--device {device} is no device that torch has here; give cpu or cuda") from error
    embedded = embedded_checkpoint(args)
    if embedded is not None:
        if args.revision is not None:
            raise ValueError(f"--revision {args.revision} is for a checkpoint on the Hub; an embedded one has none")
        world = WorldModel.from_pretrained(embedded.folder)
    else:
        try:
            world = WorldModel.from_pretrained(args.checkpoint, revision=args.revision, token=args.token)
        except (NotOnHubError, NotCachedError) as error:
            raise type(error)(f"{error}{_nearest_folder(args.checkpoint)}") from error
    return world.to(device, dtype=getattr(torch, args.dtype))
