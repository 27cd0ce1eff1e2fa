"""How many threads a command computes with, where nobody said so.

Torch takes one for each logical processor, also for those that share a core, or that a container may not use. The small
operations of a rollout then wait for each other more than they compute, above all on a machine that is busy.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
PROCESSORS, QUOTA = Path("/sys/devices/system/cpu"), Path("/sys/fs/cgroup/cpu.max")
LOAD = Path("/proc/loadavg")
# The machine is looked at so many times, so many seconds apart. What runs for a moment only does not count.
LOOKS, PAUSE = 4, 0.01


def choose_threads() -> None:
    """Set ``OMP_NUM_THREADS`` to the number of cores that this process may use, unless it is set.

    Torch reads it when it is imported, and processes that a command starts inherit it. The number does not depend on
    what else runs: a run that goes on must compute as it did. A line on stderr tells when others keep cores busy.
    """
    if VARIABLE in os.environ:
        return
    cores, processors = count_cores(), os.cpu_count() or 1
    os.environ[VARIABLE] = str(cores)
    # Where only a part of the machine is this process's, others have theirs.
    if _owns_the_machine() and 1 < cores > processors - count_others():
        print(f"Other programs keep cores busy. {VARIABLE}=1 may be several times as fast as {cores}.", file=sys.stderr)


def _owns_the_machine() -> bool:
    """Whether this process may use all processors, all of the time."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(allowed) == os.cpu_count() and _quota() == math.inf


def count_others() -> int:
    """Number of threads of other programs that want a processor all the time. Where Linux does not tell, 0."""
    try:
        running = []
        for look in range(LOOKS):
            time.sleep(PAUSE if look else 0)
            running.append(int(LOAD.read_text(encoding="ascii").split()[3].partition("/")[0]))
        return max(0, min(running) - 1)
    except (OSError, ValueError, IndexError):
        return 0


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
