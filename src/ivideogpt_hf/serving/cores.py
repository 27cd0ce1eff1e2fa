"""One thread of a process computes with many cores: the model's.

GNU's OpenMP, which torch uses on Linux, gives helper threads to every thread that computes. With more of all these than
cores, they sleep between any two operations, and a frame takes two to three times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")


def claim_cores(most: int | None = None) -> None:
    """Have the calling thread compute with all cores that torch takes in this process, and each thread that has not
    computed yet with one.

    A thread that computed before keeps its helpers until it ends. So whoever loads a model does it by `call_aside`.

    Args:
        most: most cores to take, at least 1; None: all.
    """
    num_cores = _num_cores()
    torch.set_num_threads(num_cores if most is None else min(num_cores, most))
    # A thread's number is settled when it asks for the first time. Until then it is what any thread set last.
    torch.get_num_threads()
    call_aside(lambda: torch.set_num_threads(1))


@cache
def _num_cores() -> int:
    """What torch takes in this process, if no thread has claimed cores yet."""
    return torch.get_num_threads()


def call_aside(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, whose helpers end with it; returns what the function returns."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # Nobody waits for it who is interrupted, or at the end of the program.
    threading.Thread(target=call, name="aside", daemon=True).start()
    return future.result()
