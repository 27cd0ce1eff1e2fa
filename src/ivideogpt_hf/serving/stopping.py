"""How a server stops: calls end, WebSockets are closed, sessions are saved."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from .saved_sessions import SavedSessions
from .server import Service


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
        """Drain, close, save."""
        await self._service.drain(self.config.timeout_graceful_shutdown)
        await super().shutdown(sockets)
        if self._saved is not None:
            await asyncio.to_thread(self._saved.save, self._service.sessions)
