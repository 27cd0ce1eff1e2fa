"""The command that compares runs of agents: ``ivideogpt rl-compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_rl_compare_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add ``rl-compare``.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
    """
    compare = commands.add_parser(
        "rl-compare",
        parents=[common],
        help="compare runs of agents: curves over seeds, and one table",
        description="Put runs of agents that differ in nothing but the seed together, and compare the groups: success "
        "at the end, area under the curve, real steps to 50 % and 80 % success, time. Writes comparison.json, "
        "curves.png and table.md.",
    )
    compare.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    compare.add_argument(
        "--output", type=Path, default=Path("outputs/rl-compare"), help="folder to write (default: %(default)s)"
    )
    compare.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> None:
    from ..rl.results.comparison import write_comparison

    print(write_comparison(args.runs, args.output))
    print(f"\n{args.output}: look at {args.output / 'curves.png'}")
