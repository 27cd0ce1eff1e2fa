"""``ivideogpt list``: what other commands can be told to use."""

from __future__ import annotations

import argparse
from typing import Any

from .plan import PLANNERS

KINDS = ("environments", "checkpoints", "planners")


def add_list_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``list``."""
    listing = commands.add_parser(
        "list",
        parents=[common],
        help="list environments, checkpoints and planners by name",
        description="List the environments, the checkpoints or the planners that other commands take by name.",
    )
    listing.add_argument("kind", choices=KINDS, help="what to list")
    listing.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> None:
    rows = {"environments": _environments, "checkpoints": _checkpoints, "planners": lambda: PLANNERS}[args.kind]()
    width = max(map(len, rows)) + 2
    for name, text in rows.items():
        print(f"{name:<{width}}{text}".rstrip())


def _environments() -> dict[str, str]:
    from ..simulators import ENVIRONMENTS

    return {
        name: text if extra is None else f"{text}; the extra {extra} installs it"
        for name, (text, extra) in ENVIRONMENTS.items()
    }


def _checkpoints() -> dict[str, str]:
    from ..checkpoints.family import RELEASED_IDS
    from ..checkpoints.layout import EMBEDDED

    embedded = {name: f"embedded: {checkpoint.about}" for name, checkpoint in EMBEDDED.items()}
    return embedded | dict.fromkeys(RELEASED_IDS, "released by the authors, on the Hub")
