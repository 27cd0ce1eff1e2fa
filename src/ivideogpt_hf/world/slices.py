"""Long work in slices: whoever drives it can do other things between two of them, or give it up there."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
# Yields after each slice, with the number of frames that it predicted, coded or decoded; returns the result.
Slices = Generator[int, None, T]


def at_once(slices: Slices[T]) -> T:
    """Do all slices one after the other, and return the result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result


def in_one_slice(call: Callable[[], T]) -> Slices[T]:
    """A short call as the only slice."""
    result = call()
    yield 1
    return result
