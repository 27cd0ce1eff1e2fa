"""Connections: who keeps one without asking anything, or without taking the answer, is sent away, so that nobody can
use them all up."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# Seconds in which the head of a request must arrive, the first one of a connection and each later one.
HEAD_SECONDS = 10.0
PING_SECONDS = 20.0  # a WebSocket's other end must answer pings
ANSWER_SECONDS = 60.0  # in which an answer must be taken
MAX_CONNECTIONS = 512


class _SendsAway:
    """Ends a connection whose other end does not take what was sent. uvicorn waits without end for that."""

    answer_seconds = ANSWER_SECONDS
    transport: Any
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(0)  # whatever is not taken at once pauses writing
        super().connection_made(transport)  # type: ignore[misc]

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._taking = asyncio.get_running_loop().call_later(self.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_taking()
        super().resume_writing()  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_taking()
        super().connection_lost(exc)  # type: ignore[misc]

    def _stop_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None


class ImpatientWebSocket(_SendsAway, WebSocketsSansIOProtocol):
    """uvicorn's protocol of WebSockets, which counts a message as sent only when the other end has taken it."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # uvicorn reports an error for each connection that was refused
        await self.writable.wait()


class ImpatientProtocol(_SendsAway, H11Protocol):
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
        "ws": ImpatientWebSocket,
        "limit_concurrency": MAX_CONNECTIONS,
        "ws_max_size": max_bytes,
        "ws_max_queue": 1,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_SECONDS,
    }
