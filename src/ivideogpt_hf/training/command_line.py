"""What every command line refuses, and in which words: those of trainings, and all others. It imports nothing heavy."""

from __future__ import annotations

import argparse
import difflib
import math
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path

# Larger whole numbers fit into no tensor, and as a count would never end.
LARGEST = 2**63 - 1


def register_types(parser: argparse.ArgumentParser) -> None:
    """Let a parser refuse what none of its options can mean: an empty text, and numbers that nothing can count with.

    An empty text is a variable of the shell that was not set; as a path it would be the current folder.
    """
    for kind, read in READERS.items():
        parser.register("type", kind, read)


def _read_word(text: str) -> str:
    if not text:
        raise ArgumentTypeError("is empty: was a variable of the shell not set?")
    return text


def _read_path(text: str) -> Path:
    return Path(_read_word(text))


def _read_whole(text: str) -> int:
    try:
        number = int(_read_word(text))
    except ValueError as error:  # it has too many digits, or is none
        raise ArgumentTypeError(f"must be a whole number, got {text[:40]!r}") from error
    if abs(number) > LARGEST:
        raise ArgumentTypeError(f"must be a whole number below 2^63, got {text[:40]}")
    return number


def _read_number(text: str) -> float:
    try:
        number = float(_read_word(text))
    except ValueError as error:
        raise ArgumentTypeError(f"must be a number, got {text[:40]!r}") from error
    if not math.isfinite(number):
        raise ArgumentTypeError(f"must be a finite number, got {text}")
    return number


READERS = {None: _read_word, str: _read_word, Path: _read_path, int: _read_whole, float: _read_number}


def unknown_option(command: str, word: str, options: Iterable[str]) -> str:
    """The error for a word of a command line that is no option of its command.

    Args:
        command: name of the command.
        word: word of the command line, such as ``--num_clip=3``.
        options: options that the command has, in kebab-case.
    """
    name = word.partition("=")[0]
    close = difflib.get_close_matches(name.replace("_", "-"), list(options), n=1)
    hint = f"did you mean {close[0]}?" if close else f"`{command} --help` lists all options"
    return f"{command} has no option {name}; {hint}"
