"""A real server in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")
pytest.importorskip("uvicorn")

import uvicorn

from ivideogpt_hf.serving.access import AccessRules
from ivideogpt_hf.serving.connections import connection_options
from ivideogpt_hf.serving.defaults import ServerLimits
from ivideogpt_hf.serving.saved_sessions import open_saved
from ivideogpt_hf.serving.server import create_app
from ivideogpt_hf.serving.stopping import StoppingServer
from tests.conftest import free_port

SERVERS: dict[str, StoppingServer] = {}


def stop(url: str) -> None:
    """Tell a server to stop, as SIGTERM does."""
    SERVERS[url].should_exit = True


@contextmanager
def serving(
    world: Any,
    *,
    starts: Any = None,
    token: str | None = None,
    port: int | None = None,
    access: Any = None,
    folder: Path | None = None,
    seconds_to_stop: float = 60,
    **limits: Any,
) -> Iterator[tuple[str, Any]]:
    """Serve a world model; its address, and the service behind it. Then stop, as SIGTERM makes a server stop."""
    access = AccessRules(token, **(access or {}))
    app = create_app(world, "tiny", starts=starts, access=access, limits=ServerLimits(**limits))
    port = port or free_port()
    options = connection_options(app.state.service.limits.max_bytes)
    with nullcontext() if folder is None else open_saved(folder, world) as saved:
        if saved is not None:
            saved.take_up(app.state.service.sessions, app.state.service.limits.max_state_bytes)
        config = uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=seconds_to_stop, **options)
        server = StoppingServer(config, app.state.service, saved)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        url = f"http://127.0.0.1:{port}"
        SERVERS[url] = server
        try:
            yield url, app.state.service
        finally:
            stop(url)
            thread.join(60)


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
