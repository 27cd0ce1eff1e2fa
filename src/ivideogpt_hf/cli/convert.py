"""``ivideogpt convert``: convert a checkpoint from one layout to the other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import be_quiet


def add_convert_command(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add ``convert``."""
    convert = commands.add_parser(
        "convert",
        parents=parents,
        help="convert a checkpoint between the released layout and ours",
        description="Convert a checkpoint between the layout of the authors' released checkpoints and the one of this "
        "package. Weights that do not fit are refused.",
    )
    convert.add_argument("source", help="folder or Hub id, in either layout")
    convert.add_argument("output", help="folder to write")
    convert.add_argument(
        "--to", choices=("ours", "released"), default="ours", help="layout to write (default: %(default)s)"
    )
    convert.add_argument("--goal-conditioned", action="store_true", help="the first context frame is the goal")
    convert.add_argument("--remote-code", action="store_true", help="add the code, for trust_remote_code=True")
    convert.set_defaults(run=_convert)


def _check_output(folder: Path) -> None:
    """Raise an error unless a folder is missing, empty, or another checkpoint, which is written over."""
    from ..checkpoints.layout import VQ_FOLDER
    from ..run_folder import check_folder

    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / VQ_FOLDER).is_dir():
        raise FileExistsError(f"{folder} holds something else than a checkpoint; give a new folder")


def _convert(args: argparse.Namespace) -> None:
    from ..checkpoints.layout import copy_companions
    from ..checkpoints.loading import fetch
    from ..checkpoints.released import save_released
    from ..world.world_model import WorldModel

    if Path(args.output).resolve() == Path(args.source).resolve():
        raise ValueError("source and output are the same folder")
    if args.remote_code and args.to == "released":
        raise ValueError("--remote-code goes with our layout: the released one is read by the original code")
    _check_output(Path(args.output))
    be_quiet()
    goal_conditioned = True if args.goal_conditioned else None
    world = WorldModel.from_pretrained(
        args.source, revision=args.revision, token=args.token, goal_conditioned=goal_conditioned
    )
    if args.to == "released":
        save_released(args.output, (world.vq_model, world.transformer, world.processor))
    else:
        world.save_pretrained(args.output, remote_code=args.remote_code)
    copy_companions(fetch(args.source, revision=args.revision, token=args.token), args.output)
    print(f"{args.output}: written in {'the released' if args.to == 'released' else 'our'} layout")
