"""Ray, for commands that share their work among processes and nodes: started here, or a cluster that runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from ..extras import require_packages
from .threads import count_cores

LOCAL = "local"
# Nothing is sent to anybody, and processes of Ray come no later than others; it would make all of them nice.
VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
STORE_BYTES = 100 * 2**20  # nothing large is passed between processes


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Start Ray on this machine, or attach to a cluster, during the block.

    Args:
        address: "local" to start it, "auto" for the cluster that runs on this machine, or the address of another one.

    Raises:
        ImportError: without ray; names the extra.
        ConnectionError: if there is no such cluster.
    """
    require_packages("ray", purpose="Ray")
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    import ray

    options: dict[str, Any] = {}
    if address == LOCAL:
        options = {"num_cpus": count_cores(), "include_dashboard": False, "object_store_memory": STORE_BYTES}
    ray.init(address=address, logging_level="ERROR", **options)
    try:
        yield
    finally:
        ray.shutdown()


class RayTasks(Executor):
    """An executor whose calls are tasks of Ray, each on a core. A task whose process or node dies is done again.

    Args:
        num_gpus: number of GPUs that each call gets.
    """

    def __init__(self, num_gpus: int = 0) -> None:
        import ray

        self._options = {"num_cpus": 1, "num_gpus": num_gpus}
        self._tasks: dict[Callable[..., Any], Any] = {}
        self.num_slots = int(ray.cluster_resources().get("GPU" if num_gpus else "CPU", 1))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """See `Executor.submit`. The function's errors are raised as they are.

        Raises (from the future):
            OSError: if the task's process was killed time and again.
        """
        import ray

        if function not in self._tasks:  # what a partial function holds is then sent once, not with each call
            self._tasks[function] = ray.remote(lambda *args, **kwargs: function(*args, **kwargs))
        future: Future = Future()
        future.set_running_or_notify_cancel()
        reference = self._tasks[function].options(**self._options).remote(*args, **kwargs)
        reference.future().add_done_callback(lambda done: _hand_on(done, future))
        return future


@contextmanager
def ray_tasks(address: str, *, takes_gpus: bool = False) -> Iterator[RayTasks]:
    """An executor of Ray during the block.

    Args:
        address: see `connected`.
        takes_gpus: whether each call gets a GPU, where the cluster has any.
    """
    with connected(address):
        import ray

        yield RayTasks(int(takes_gpus and ray.cluster_resources().get("GPU", 0) > 0))


def _hand_on(done: Future, future: Future) -> None:
    from ray.exceptions import RayError, RayTaskError

    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, RayTaskError):
        future.set_exception(error.cause)
    else:
        reason = f"a task of Ray was given up: {error}"
        future.set_exception(OSError(reason) if isinstance(error, RayError) else error)
