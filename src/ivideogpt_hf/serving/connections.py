"""Connections: who keeps one without asking anything is sent away, so that nobody can use them all up."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds in which the head of a request must arrive, the first one of a connection and each later one.
HEAD_SECONDS = 10.0
PING_SECONDS = 20.0  # a WebSocket's other end must answer pings
MAX_CONNECTIONS = 512


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which waits without end for the head of a request, with a limit on that."""

    head_seconds = HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    def _watch(self) -> None:
        """Time the head that is awaited. More bytes of it do not prolong the time."""
        is_asked = self.cycle is not None and not self.cycle.response_complete
        if is_asked or self.transport.get_protocol() is not self:
            self._stop_timer()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.head_seconds, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_options(max_bytes: int) -> dict[str, Any]:
    """Options of uvicorn.

    Args:
        max_bytes: largest size of a message of a WebSocket.
    """
    return {
        "http": ImpatientProtocol,
        "limit_concurrency": MAX_CONNECTIONS,
        "ws_max_size": max_bytes,
        "ws_max_queue": 1,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_SECONDS,
    }
