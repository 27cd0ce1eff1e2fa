"""Words of messages that several folders need."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless there is one.

    Args:
        number: number of the things.
        noun: word for one of them, whose plural ends in s.

    Example:
        >>> from ivideogpt_hf.wording import counted
        >>> counted(1, "clip"), counted(2, "clip")
        ('1 clip', '2 clips')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
