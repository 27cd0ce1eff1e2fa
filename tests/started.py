"""Commands of ``ivideogpt``, and code, in processes of their own, without the seconds that imports take.

They are forked from a server that has imported everything. They find the Hub at `HUB_PORT`, where a test may start
`FakeHub(port=HUB_PORT)`: huggingface_hub reads the address when it is imported, so it is chosen once for all of them.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest
from huggingface_hub.constants import HF_HOME

from ivideogpt_hf.cli import main

# Below the ports that a system gives to connections, and another one for each process of tests.
HUB_PORT = 20_000 + os.getpid() % 10_000
HUB = {"HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "ivideogpt_hf.training.train_vq",
        "ivideogpt_hf.training.train_world_model",
        "ivideogpt_hf.evaluation.evaluate",
        "ivideogpt_hf.rl.runs.entrance",  # not there without its packages, which is no error here
    ]
)


class Started:
    """A command in a process of its own, which can be killed, limited, and asked for its exit code.

    Args:
        words: of the command line, such as ``"train", "--config", file``.
        code: Python code to run in place of a command.
        log: file to which stdout and stderr are appended.
        folder: the current folder of the command; None: that of the tests.
        limits: of resources in bytes, such as ``{resource.RLIMIT_FSIZE: 1000}``. That of the address space is what it
            may take beyond what the imports took.
        environment: variables, such as those that a launcher sets.
    """

    def __init__(
        self,
        *words: object,
        log: Path,
        code: str | None = None,
        folder: Path | None = None,
        limits: dict[int, int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        what = list(map(str, words)) if code is None else code
        arguments = (what, log, folder or Path.cwd(), limits or {}, environment or {})
        _start_server()
        self.process = _FORKS.Process(target=_run_forked, args=arguments)
        self.process.start()

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; a negative one is the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running:\n{self.output}"
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is so that it will bring about."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), f"ended too early:\n{self.output}"
            assert time.monotonic() < deadline, f"waited too long:\n{self.output}"
            time.sleep(0.002)

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    @property
    def output(self) -> str:
        """What it wrote to stdout and stderr until now."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def _kill_all() -> None:
    for process in multiprocessing.active_children():
        process.kill()


@cache
def _start_server() -> None:
    """Start the server that is forked, with a home of its own for what comes from the Hub."""
    home = tempfile.mkdtemp()
    datasets = {"HF_DATASETS_CACHE": os.environ.get("HF_DATASETS_CACHE", f"{HF_HOME}/datasets")}  # that of the tests
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    atexit.register(_kill_all)  # else a process that a failed test left behind would be waited for
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (HUB | datasets | {"HF_HOME": home}).items():
            patch.setenv(name, value)
        forkserver.ensure_running()


def _run_forked(
    what: list[str] | str, log: Path, folder: Path, limits: dict[int, int], environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    for kind, limit in limits.items():
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        total = limit + (taken if kind == resource.RLIMIT_AS else 0)
        resource.setrlimit(kind, (total, total))
    sys.exit(main(what) if isinstance(what, list) else exec(what, {"__name__": "__main__"}))
