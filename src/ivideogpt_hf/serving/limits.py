"""Limits on what clients may send, and on the memory that answering them takes.

A request is refused before it is read if it announces too much, and otherwise as soon as too much has arrived: of
bytes, or of values of JSON, each of which takes many times its bytes when it is parsed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

TOO_LARGE, TOO_SLOW, NO_ROOM = 413, 408, 503
GOING_AWAY, NO_TEXT, MESSAGE_TOO_BIG, TRY_LATER = 1001, 1007, 1009, 1013  # a WebSocket's codes
COUNTED_BYTES = 2**16  # from which an answer counts
MAX_SOCKETS = 256
RETRY = {"Retry-After": "1"}
SEPARATORS = (b",", b"[", b"{")  # one before each value of JSON but the first


class NoRoomError(Exception):
    """What clients use together leaves no room for more."""


class ByteBudget:
    """Bytes that calls may use together. It belongs to one event loop.

    Args:
        limit: largest number of bytes.
        what: what takes them, in errors.
        remedy: how room is made, in errors.
    """

    def __init__(self, limit: int, what: str, remedy: str) -> None:
        self.limit, self._what, self._remedy = limit, what, remedy
        self.used = 0

    @contextmanager
    def taking(self, num_bytes: int) -> Iterator[None]:
        """Use bytes within a block.

        Raises:
            NoRoomError: if that is too much together with what is used.
            ValueError: if it would be too much alone.
        """
        self.take(num_bytes)
        try:
            yield
        finally:
            self.used -= num_bytes

    @contextmanager
    def counting(self, num_bytes: int) -> Iterator[None]:
        """Use bytes within a block, whether or not there is room."""
        self.used += num_bytes
        try:
            yield
        finally:
            self.used -= num_bytes

    def check_room(self) -> None:
        """Raise NoRoomError if more is used than may be."""
        if self.used > self.limit:
            raise NoRoomError(f"{self._what} may take {self.limit} bytes together: {self._remedy}")

    def take(self, num_bytes: int) -> None:
        """Use bytes. Raises as `taking`; whoever takes gives back, by `used`."""
        if num_bytes > self.limit:
            raise ValueError(
                f"{self._what} may take {self.limit} bytes together, this alone takes {num_bytes}: ask for less at once"
            )
        if self.used + num_bytes > self.limit:
            raise NoRoomError(
                f"{self._what} may take {self.limit} bytes together, and {self.used} are in use: {self._remedy}"
            )
        self.used += num_bytes


@dataclass(frozen=True)
class BodyLimits:
    """What a request, or a message of a WebSocket, may be.

    Args:
        max_bytes: largest size.
        max_values: largest number of values of its JSON.
        seconds: number of seconds in which a request must arrive.
        silent_seconds: number of seconds between two messages of a WebSocket.
        max_sockets: number of WebSockets at a time, fewer than connections, so that other calls find one.
    """

    max_bytes: int
    max_values: int
    seconds: float
    silent_seconds: float
    max_sockets: int = MAX_SOCKETS

    def problem(self, num_bytes: int, num_values: int) -> str | None:
        """Why a request is refused that is at least so large, or None."""
        if num_bytes > self.max_bytes:
            return f"a request may have {self.max_bytes} bytes"
        if num_values > self.max_values:
            return f"the JSON of a request may have {self.max_values} values"
        return None


class LimitBody:
    """ASGI middleware that refuses what is larger than `BodyLimits`, and more than a budget at a time.

    A request is refused with status 413, 408 where it arrives too slowly, or 503. A WebSocket is closed.

    Args:
        app: application that answers the other requests.
        limits: limits of one request.
        budget: bytes of all requests that are being read or answered.
        answers: bytes of all answers that were not taken yet. What has been computed is sent; while they are too many,
            no request is read.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits, budget: ByteBudget, answers: ByteBudget) -> None:
        self.app, self.limits, self.budget, self.answers = app, limits, budget, answers
        self._num_sockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._limit_request(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._num_sockets >= self.limits.max_sockets:
                refusal = JSONResponse({"detail": f"{self.limits.max_sockets} WebSockets are open"}, NO_ROOM, RETRY)
                await WebSocket(scope, receive, send).send_denial_response(refusal)
                return
            self._num_sockets += 1
            try:
                await self._limit_messages(scope, receive, send)
            finally:
                self._num_sockets -= 1
        else:
            await self.app(scope, receive, send)

    async def _limit_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        problem = self.limits.problem(int(announced) if announced.isdigit() else 0, 0)
        if problem is not None:
            refusal = JSONResponse({"detail": problem}, TOO_LARGE, {"Connection": "close"})
            await refusal(scope, receive, send)
            return
        num_bytes, num_values, is_read = 0, 0, False
        deadline = asyncio.get_running_loop().time() + self.limits.seconds

        async def counted() -> Message:
            nonlocal num_bytes, num_values, is_read
            if is_read:  # what comes now is that the client goes
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                reason = f"the request did not arrive within {self.limits.seconds:g} s"
                raise HTTPException(TOO_SLOW, reason, {"Connection": "close"}) from error
            body = message.get("body", b"")
            problem = self.limits.problem(num_bytes + len(body), num_values + _num_values(body))
            if problem is not None:
                raise HTTPException(TOO_LARGE, problem)
            try:
                self.answers.check_room()
                self.budget.take(len(body))
            except (NoRoomError, ValueError) as error:
                raise HTTPException(NO_ROOM, str(error), RETRY) from error
            num_bytes, num_values = num_bytes + len(body), num_values + _num_values(body)
            is_read = not message.get("more_body", False)
            return message

        async def answering(message: Message) -> None:
            body = message.get("body", b"") if message["type"] == "http.response.body" else b""
            if len(body) < COUNTED_BYTES:
                await send(message)
                return
            with self.answers.counting(len(body)):
                await send({**message, "more_body": True})
                if not message.get("more_body", False):  # the end is sent when the rest was taken
                    await send({"type": "http.response.body", "body": b""})

        try:
            await self.app(scope, counted, answering)
        finally:
            self.budget.used -= num_bytes

    async def _limit_messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken: deque[int] = deque()  # by the messages that have no answer yet, the oldest first
        is_accepted = False

        async def answering(message: Message) -> None:
            if message["type"] == "websocket.send" and taken:  # each message gets one answer, in their order
                self.budget.used -= taken.popleft()
            with self.answers.counting(len(message.get("text") or message.get("bytes") or b"")):
                await send(message)

        async def close(code: int, reason: str) -> Message:
            await send({"type": "websocket.close", "code": code, "reason": reason[:120]})
            return {"type": "websocket.disconnect", "code": code, "reason": reason}

        async def counted() -> Message:
            nonlocal is_accepted
            try:
                async with asyncio.timeout(self.limits.silent_seconds if is_accepted else None):
                    message = await receive()
            except TimeoutError:
                return await close(GOING_AWAY, f"no message within {self.limits.silent_seconds:g} s")
            is_accepted = True
            if message["type"] != "websocket.receive":
                return message
            content = message.get("bytes") if message.get("text") is None else message["text"].encode()
            problem = self.limits.problem(len(content), _num_values(content))
            if problem is not None:
                return await close(MESSAGE_TOO_BIG, problem)
            try:
                self.answers.check_room()
                self.budget.take(len(content))
                taken.append(len(content))
                return {"type": "websocket.receive", "text": content.decode()}
            except (NoRoomError, ValueError) as error:
                return await close(NO_TEXT if isinstance(error, UnicodeDecodeError) else TRY_LATER, str(error))

        try:
            await self.app(scope, counted, answering)
        finally:
            self.budget.used -= sum(taken)


def _num_values(content: bytes) -> int:
    """No fewer values than JSON text has; commas in texts count, too."""
    return sum(map(content.count, SEPARATORS))
