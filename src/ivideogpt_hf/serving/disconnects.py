"""Calls over HTTP end when their client is gone."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelWhenGone:
    """ASGI middleware that cancels the answer to a request whose client has closed the connection.

    Args:
        app: application that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body_is_read, is_gone = asyncio.Event(), asyncio.Event()

        async def receive_body() -> Message:
            if body_is_read.is_set():  # from here on, only `watch` listens
                await is_gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if not message.get("more_body", False):
                body_is_read.set()
            return message

        async def watch() -> None:
            await body_is_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone.set()

        async def send_answer(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                watcher.cancel()  # the server also calls it a disconnect when the answer is complete
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, receive_body, send_answer))
        watcher = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({answer, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if is_gone.is_set():
                answer.cancel()
            await answer
        except asyncio.CancelledError:
            if not is_gone.is_set():
                raise
        finally:
            watcher.cancel()
            answer.cancel()
