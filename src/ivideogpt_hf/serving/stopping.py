"""How a server stops: calls end, WebSockets are closed, sessions are saved."""

from __future__ import annotations

import asyncio
import logging
import socket

import uvicorn

from .saved_sessions import SavedSessions
from .service import POLL_SECONDS, Service

LOGGER = logging.getLogger("uvicorn.error")


class StoppingServer(uvicorn.Server):
    """A server that, when it is told to stop, refuses new calls with status 503, and ends only when those that came
    before are answered. uvicorn itself closes WebSockets at once, and refuses connections.

    Args:
        config: settings; after ``timeout_graceful_shutdown`` seconds the calls are given up.
        service: service whose calls are answered.
        saved: place to save the sessions at the end; None: they are lost.

    Raises (from `run`):
        OSError: if the sessions cannot be saved.
    """

    def __init__(self, config: uvicorn.Config, service: Service, saved: SavedSessions | None = None) -> None:
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


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Whether a line of the log is none of those in which uvicorn calls it an error that a WebSocket was refused."""
    return "without completing handshake" not in record.getMessage()
