"""Where the time of a rollout goes.

Code that belongs to a part of a rollout runs inside `measure`. Its time is counted if a `Clock` is running in this
thread, and otherwise nothing happens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

Part = Literal["prefill", "decode", "vq"]


class Clock:
    """Adds up the seconds that parts of a rollout take.

    Args:
        device: device of the networks; a GPU is waited for at the beginning and end of each part.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[Part, float] = {"prefill": 0.0, "decode": 0.0, "vq": 0.0}


_RUNNING: ContextVar[Clock | None] = ContextVar("clock", default=None)


def current() -> Clock | None:
    """The clock that is running in this thread, if any."""
    return _RUNNING.get()


@contextmanager
def running(clock: Clock | None) -> Iterator[None]:
    """Let a clock count what `measure` measures inside; None: nothing is counted."""
    token = _RUNNING.set(clock)
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def measure(part: Part) -> Iterator[None]:
    """Count what happens inside as ``part`` of a rollout, if a clock is running."""
    clock = _RUNNING.get()
    if clock is None:
        yield
        return
    start = now(clock.device)
    yield
    clock.seconds[part] += now(clock.device) - start


def now(device: torch.device) -> float:
    """Seconds on a clock, when everything that was given to a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
