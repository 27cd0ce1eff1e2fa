"""A server in a process of its own, and sessions that step in it: for the benchmarks that measure a server."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ivideogpt_hf import RemoteWorldModel, Sampling

PORT = 7899
URL = f"http://127.0.0.1:{PORT}"
HEALTH = f"{URL}/health"
START_SECONDS = 600


@contextmanager
def running(*command, address=HEALTH, **variables):
    """A server in a process of its own, from when its address answers; its process id.

    Args:
        command: arguments of Python.
        address: address that answers when the server has started.
        variables: variables of its environment, beside those of this process.
    """
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | quiet | variables
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(address))
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def serving(*options, **variables):
    """`ivideogpt serve` with options, see `running`."""
    return running("-m", "ivideogpt_hf.cli", "serve", "--port", str(PORT), *options, **variables)


def answers(address):
    with suppress(OSError), urllib.request.urlopen(address):
        return True
    return False


def wait_for(condition):
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the server does not start")
        time.sleep(0.1)


def step_in_a_session(seed, num_steps, frames, outputs, latencies, tokens_of, ready):
    """One session, which takes its steps when all are ready."""
    with RemoteWorldModel(URL) as world:
        state = world.reset(frames)
        ready.wait()
        generator = torch.Generator().manual_seed(seed)
        tokens = []
        for _ in range(num_steps):
            action = 2 * torch.rand(1, world.spec.action_dim, generator=generator) - 1
            start = time.perf_counter()
            step, state = world.step(state, action, sampling=Sampling(seed=seed), outputs=outputs)
            latencies.append(time.perf_counter() - start)
            tokens.append(step.tokens)
        tokens_of[seed] = torch.cat(tokens)


def step_in_sessions(num_sessions, num_steps, frames, outputs):
    """Steps per second and latency of so many sessions at once, and their tokens by seed."""
    latencies, tokens_of, ready = [], {}, threading.Barrier(num_sessions + 1)
    threads = [
        threading.Thread(target=step_in_a_session, args=(seed, num_steps, frames, outputs, latencies, tokens_of, ready))
        for seed in range(num_sessions)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    row = {
        "outputs": ", ".join(outputs),
        "sessions": num_sessions,
        "steps_per_second": num_sessions * num_steps / taken,
        "p50_ms": 1e3 * quantile(latencies, 0.5),
        "p95_ms": 1e3 * quantile(latencies, 0.95),
    }
    return row, tokens_of


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def resident(pid):
    """Megabytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
