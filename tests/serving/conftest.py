"""A real server in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn

from ivideogpt_hf.serving.server import ServerLimits, create_app


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(
    world: Any, *, starts: Any = None, token: str | None = None, port: int | None = None, **limits: Any
) -> Iterator[tuple[str, Any]]:
    """Serve a world model; its address, and the service behind it."""
    app = create_app(world, "tiny", starts=starts, token=token, limits=ServerLimits(**limits))
    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}", app.state.service
    finally:
        server.should_exit = True
        thread.join(20)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def server(world: Any) -> Iterator[str]:
    """The address of a server of the tiny world."""
    with serving(world) as (url, _):
        yield url
