"""Where the time of a rollout goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PREFILL, DECODE, VQ = PARTS = ("prefill", "decode", "vq")


class Clock:
    """Adds up the seconds that parts of a rollout take.

    Args:
        device: where they run; a GPU is waited for at the beginning and end of each part. None: nothing is measured,
            and nothing waited for.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count what happens inside as part of ``part``."""
        if self.device is None:
            yield
            return
        start = self._now()
        yield
        self.seconds[part] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


NO_CLOCK = Clock(None)
