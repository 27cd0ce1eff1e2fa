"""Calls over a WebSocket, one after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

SERVICE_RESTART = 1012  # a WebSocket's code


async def answer_messages(
    socket: WebSocket, answer: Callable[[str | bytes], Awaitable[dict[str, Any] | bytes]], stopping: asyncio.Event
) -> None:
    """Answer each message of a WebSocket, until it is closed or the server stops.

    When the client is gone, the answer that is being made is cancelled. When the server stops, that answer is sent
    before the WebSocket is closed.

    Args:
        socket: accepted WebSocket.
        answer: function from a message to its answer, which is sent as JSON; bytes are sent as they are.
        stopping: event that is set when the server stops.
    """
    messages: asyncio.Queue[str | bytes] = asyncio.Queue(1)
    reader = asyncio.create_task(_read(socket, messages))
    try:
        while (message := await _next(messages, reader, stopping)) is not None:
            answering = asyncio.ensure_future(answer(message))
            try:
                await asyncio.wait({answering, reader}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    return
                answered = answering.result()
                if isinstance(answered, bytes):
                    await socket.send_bytes(answered)
                else:
                    await socket.send_text(json.dumps(answered, allow_nan=False))
            finally:
                answering.cancel()
        if not reader.done():
            await socket.close(SERVICE_RESTART, "the server stops")
    except WebSocketDisconnect:
        pass
    finally:
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader


async def _read(socket: WebSocket, messages: asyncio.Queue[str | bytes]) -> None:
    """Read messages until the client is gone. One is read ahead, so that its going is noticed while it waits."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        await messages.put(message["bytes"] if text is None else text)


async def _next(
    messages: asyncio.Queue[str | bytes], reader: asyncio.Task[None], stopping: asyncio.Event
) -> str | bytes | None:
    """The next message; None when there is none any more."""
    if not messages.empty():
        return messages.get_nowait()
    if reader.done() or stopping.is_set():
        return None
    message, stop = asyncio.create_task(messages.get()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({message, reader, stop}, return_when=asyncio.FIRST_COMPLETED)
        return message.result() if message.done() else None
    finally:
        message.cancel()
        stop.cancel()
