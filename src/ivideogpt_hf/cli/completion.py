"""``ivideogpt --print-completion SHELL``: a script by which a shell completes commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..extras import require_packages
from .config import subcommands

SHELLS = ("bash", "fish", "zsh")


class PrintCompletion(argparse.Action):
    """Prints the script, and ends the program."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print the script for the shell that ``values`` names.

        Raises:
            ImportError: if shtab is not installed; names the extra.
        """
        require_packages("shtab", purpose="shell completion")
        import shtab

        for command in subcommands(parser).values():
            for action in command._actions:
                if action.nargs != 0 and action.choices is None and action.type in (None, Path):
                    action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks
        print(shtab.complete(parser, str(values)))
        parser.exit()


def add_completion_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--print-completion``."""
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help='print the script that completes commands in a shell: eval "$(ivideogpt --print-completion bash)"',
    )
