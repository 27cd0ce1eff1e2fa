"""One of several servers of a model, in a thread: the application on a port of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from torch import Tensor

from ..world.world_model import WorldModel
from .access import AccessRules
from .connections import connection_options
from .cores import call_aside
from .defaults import STOP_SECONDS, ServerLimits
from .saved_sessions import open_saved
from .server import create_app
from .service import Service
from .stopping import StoppingServer

LOGGER = logging.getLogger("uvicorn.error")
LOAD = "/v1/load"
SAVE_SECONDS = 5.0  # what a kill may cost


class Served(NamedTuple):
    """What is served.

    Attributes:
        world: model that answers.
        name: name of the checkpoint, for clients to see.
        starts: frames (S, C, 3, H, W) uint8 that clients may start from without sending any; None: none.
    """

    world: WorldModel
    name: str
    starts: Tensor | None


class Replica:
    """A server in a thread, for a `Fleet`. Its sessions are in a folder, saved while it runs and when it stops.

    Args:
        load: function that loads what is served.
        limits: limits of this server.
        folder: folder of its sessions, new or that of an earlier server in its place.
        token: token that its calls need.
        seconds_to_stop: number of seconds after which `stop` gives up calls.
        num_threads: number of threads that the model computes with; None: as many as torch takes.
        save_seconds: number of seconds between two times that the sessions are saved.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        limits: ServerLimits,
        folder: Path,
        token: str,
        *,
        seconds_to_stop: int = STOP_SECONDS,
        num_threads: int | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        self._load, self._limits, self._folder, self._token = load, limits, folder, token
        self._seconds_to_stop, self._num_threads, self._save_seconds = seconds_to_stop, num_threads, save_seconds
        self._stopping, self._error = threading.Event(), None

    def start(self, host: str = "127.0.0.1") -> str:
        """Load the model, go on with the saved sessions, and serve; returns the address.

        Raises:
            OSError, ValueError: if the checkpoint or the sessions cannot be loaded.
        """
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        self._stack = ExitStack()
        served = call_aside(self._load)
        access = AccessRules(self._token)
        app = create_app(served.world, served.name, starts=served.starts, access=access, limits=self._limits)
        service: Service = app.state.service
        _tell_load(app, service)
        self._saved = self._stack.enter_context(open_saved(self._folder, served.world))
        self._saved.take_up(service.sessions, self._limits.max_state_bytes)
        self._listener = self._stack.enter_context(socket.create_server((host, 0)))
        options = connection_options(self._limits.max_bytes)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=self._seconds_to_stop, **options)
        self._server = StoppingServer(config, service, self._saved)
        self._threads = [
            threading.Thread(target=self._serve, name="replica", daemon=True),
            threading.Thread(target=self._save, args=(service,), name="saver", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return f"http://{host}:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        """Let calls end, and save the sessions.

        Raises:
            OSError: if they cannot be saved.
        """
        self._stopping.set()
        self._server.should_exit = True
        for thread in self._threads:
            thread.join()
        self._stack.close()
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except OSError as error:
            self._error = error

    def _save(self, service: Service) -> None:
        while not self._stopping.wait(self._save_seconds):
            try:
                self._saved.save(service.sessions)
            except OSError as error:  # the disk may have room again at the next time
                LOGGER.warning("%s", error)


def _tell_load(app: FastAPI, service: Service) -> None:
    """Add the call by which a fleet sees whether a replica lives, and how much it has to do."""

    @app.get(LOAD, include_in_schema=False)
    async def load() -> dict[str, int]:
        if not service.batcher.is_alive:
            raise HTTPException(503, "the model's thread has ended")
        return {"sessions": len(service.sessions)}
