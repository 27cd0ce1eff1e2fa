"""``ivideogpt info``: print facts about a checkpoint, and its speed."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import CHECKPOINT_HELP, load_world


def add_info_command(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add ``info``."""
    info = commands.add_parser(
        "info",
        parents=parents,
        help="show what a checkpoint is, and what it costs",
        description="Show what a checkpoint takes and predicts, how large its networks are, and how long a frame takes "
        "on this machine.",
    )
    info.add_argument("checkpoint", nargs="?", help=f"{CHECKPOINT_HELP} (default: default)")
    info.add_argument("--benchmark", action="store_true", help="time rollouts of 1, 8 and 64 candidates as well")
    info.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> None:
    from ..world.timing import benchmark, describe

    world = load_world(args)
    print(describe(world))
    if args.benchmark:
        print(f"\n{benchmark(world)}")
