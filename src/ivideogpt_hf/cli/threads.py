"""How many threads a command computes with, where nobody said so.

Torch takes one for each logical processor, also for those that share a core, or that a container may not use. The small
operations of a rollout then wait for each other more than they compute, above all on a machine that is busy.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
PROCESSORS, QUOTA = Path("/sys/devices/system/cpu"), Path("/sys/fs/cgroup/cpu.max")


def choose_threads() -> None:
    """Set ``OMP_NUM_THREADS`` to the number of cores that this process may use, unless it is set.

    Torch reads it when it is imported, and processes that a command starts inherit it.
    """
    os.environ.setdefault(VARIABLE, str(count_cores()))


def count_cores() -> int:
    """Number of physical cores that this process may use. Where Linux does not tell, processors are counted."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = {_core_of(processor) for processor in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota()))


def _core_of(processor: int) -> str:
    """The processors that share the core of this one, as text; of an unknown topology, the processor itself."""
    file = PROCESSORS / f"cpu{processor}" / "topology" / "thread_siblings_list"
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return str(processor)


def _quota() -> float:
    """Number of processors, rounded up, whose time a container's limit allows; infinite without a limit."""
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        return math.inf if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return math.inf
