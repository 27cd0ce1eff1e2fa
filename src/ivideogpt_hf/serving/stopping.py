"""How a server stops: calls end, WebSockets are closed, sessions are saved."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Protocol

import uvicorn

from .saved_sessions import SavedSessions
from .service import POLL_SECONDS
from .sessions import Sessions

LOGGER = logging.getLogger("uvicorn.error")


class Drained(Protocol):
    """What ends before a server does: a `Service`, or a `Fleet`, whose replicas save the sessions that they have."""

    sessions: Sessions | None

    async def drain(self, seconds: float | None) -> None:
        """Take no calls any more, and wait so long for those that are being answered."""
        ...


class StoppingServer(uvicorn.Server):
    """A server that, when it is told to stop, refuses new calls with status 503, and ends only when those that came
    before are answered. uvicorn itself closes WebSockets at once, and refuses connections.

    Args:
        config: settings; after ``timeout_graceful_shutdown`` seconds the calls are given up.
        service: what answers the calls.
        saved: place to save the service's sessions at the end; None: nothing saves them here.

    Raises (from `run`):
        OSError: if sessions cannot be saved.
    """

    def __init__(self, config: uvicorn.Config, service: Drained, saved: SavedSessions | None = None) -> None:
        super().__init__(config)
        self._service, self._saved = service, saved

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, unless a second signal says that this takes too long, close and save."""
        LOGGER.addFilter(_is_no_refusal)
        drain = asyncio.create_task(self._service.drain(self.config.timeout_graceful_shutdown))
        while not drain.done() and not self.force_exit:
            await asyncio.wait({drain}, timeout=POLL_SECONDS)
        drain.cancel()
        LOGGER.removeFilter(_is_no_refusal)
        await super().shutdown(sockets)
        if self._saved is not None:
            await asyncio.to_thread(self._saved.save, self._service.sessions)
        with suppress(asyncio.CancelledError):  # it was given up
            await drain


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Whether a line of the log is none of those in which uvicorn calls it an error that a WebSocket was refused."""
    return "without completing handshake" not in record.getMessage()
