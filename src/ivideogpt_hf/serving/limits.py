"""A limit on the size of requests. Larger ones are refused before they are read."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOO_LARGE = 413


class LimitBody:
    """ASGI middleware that refuses bodies above ``max_bytes`` with status 413.

    It goes by the length that the request announces, and counts what arrives.

    Args:
        app: application that answers the other requests.
        max_bytes: largest size of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reason = f"a request may have {self.max_bytes} bytes"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            refusal = JSONResponse({"detail": reason}, TOO_LARGE, {"Connection": "close"})
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(TOO_LARGE, reason)
            return message

        await self.app(scope, counted, send)
