"""The web application in front of a fleet. It keeps strangers and what is too large away, and passes each call on to
the replica that has its session."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from .access import AccessRules
from .defaults import ServerLimits
from .fleet import CONNECT_SECONDS, SEPARATOR, Fleet, LostReplicaError, Member
from .limits import RETRY
from .prometheus import ServerMetrics, merged
from .server import add_limits
from .websockets import SERVICE_RESTART

SESSIONS = "/v1/sessions"
METHODS = ["GET", "POST", "DELETE"]
ASKED = ("content-type", "accept")  # headers that a replica sees, and those of its answers that clients see
ANSWERED = ("content-type", "retry-after")
NO_REPLICA = "the replica that has this session was lost, and is started again: ask again"
STOPS = "the server stops, and takes no calls any more"


async def create_proxy(fleet: Fleet, access: AccessRules, limits: ServerLimits) -> FastAPI:
    """Make the web application.

    Args:
        fleet: replicas that answer, which have been started.
        access: who may ask.
        limits: limits of each replica; requests and answers may take as much memory as those of all replicas together.
    """
    spec = (await fleet.ask(fleet.least_loaded(), "GET", "/v1/spec")).raise_for_status().json()
    app = FastAPI(openapi_url=None)
    app.state.fleet = fleet
    together = {name: getattr(limits, name) * len(fleet.members) for name in ("max_request_bytes", "max_frame_bytes")}
    add_limits(app, replace(limits, **together), access, spec["action_dim"])

    @app.exception_handler(LostReplicaError)
    async def describe(request: Request, error: LostReplicaError) -> JSONResponse:
        return _refusal(fleet)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether calls are taken, and which replicas live."""
        if fleet.stopping.is_set():
            raise HTTPException(503, STOPS, RETRY)
        fleet.least_loaded()
        states = ["starting" if member.url is None else "ok" for member in fleet.members]
        return {"status": "ok", "checkpoint": spec["checkpoint"], "replicas": states}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Counts and times of all replicas."""
        answers = await asyncio.gather(
            *(fleet.ask(member, "GET", "/metrics") for member in fleet.members), return_exceptions=True
        )
        texts = [answer.text if isinstance(answer, httpx.Response) else None for answer in answers]
        return Response(merged(texts), media_type=ServerMetrics.content_type)

    @app.post(SESSIONS)
    async def open_session(request: Request) -> Response:
        """Begin a session where there are the fewest."""
        member = fleet.least_loaded()
        member.num_sessions += 1  # before the next look, others may come
        answer = await _pass_on(fleet, member, request, SESSIONS)
        if answer.status_code != httpx.codes.CREATED:
            return _as_response(answer)
        opened = answer.json()
        opened["session"] = f"{member.number}{SEPARATOR}{opened['session']}"
        return JSONResponse(opened, answer.status_code)

    @app.api_route(SESSIONS + "/{session}", methods=METHODS)
    @app.api_route(SESSIONS + "/{session}/{call}", methods=METHODS)
    async def answer_call(request: Request, session: str, call: str | None = None) -> Response:
        """Anything within a session."""
        member, name = fleet.find(session)
        path = "/".join([SESSIONS, *(quote(part, safe="") for part in (name, call) if part is not None)])
        return _as_response(await _pass_on(fleet, member, request, path))

    @app.websocket(SESSIONS + "/{session}/stream")
    async def stream(socket: WebSocket, session: str) -> None:
        """The same calls over a WebSocket."""
        try:
            member, name = fleet.find(session)
            if fleet.stopping.is_set() or member.url is None:
                raise LostReplicaError(member.number)
            url = f"{member.url.replace('http', 'ws', 1)}{SESSIONS}/{quote(name, safe='')}/stream"
            options = {
                "max_size": None,
                "max_queue": 1,
                "compression": None,
                "ping_interval": None,
                "open_timeout": CONNECT_SECONDS,
            }
            connection = await connect(url, additional_headers=fleet.headers, proxy=None, **options)
        except InvalidStatus as error:  # such as that there is no such session
            answer = error.response
            await socket.send_denial_response(
                Response(bytes(answer.body or b""), answer.status_code, media_type=answer.headers.get("content-type"))
            )
            return
        except (LostReplicaError, OSError, WebSocketException):
            await socket.send_denial_response(_refusal(fleet))
            return
        async with connection:
            await socket.accept()
            await _relay(socket, connection, member)

    @app.get("/{path:path}")
    async def show(request: Request, path: str) -> Response:
        """What all replicas answer alike: what this is, the spec, the documentation."""
        return _as_response(await _pass_on(fleet, fleet.least_loaded(), request, f"/{quote(path)}"))

    return app


async def _pass_on(fleet: Fleet, member: Member, request: Request, path: str) -> httpx.Response:
    """Let a replica answer a request. Nothing of its answer is sent before all of it is there."""
    if httpx.URL(f"http://replica{path}").raw_path != path.encode():  # dot segments: it would be asked for another path
        raise HTTPException(404)
    if fleet.stopping.is_set():
        raise LostReplicaError(member.number)
    headers = {name: request.headers[name] for name in ASKED if name in request.headers}
    return await fleet.ask(member, request.method, path, headers=headers, content=await request.body())


def _as_response(answer: httpx.Response) -> Response:
    headers = {name: answer.headers[name] for name in ANSWERED if name in answer.headers}
    return Response(answer.content, answer.status_code, headers)


def _refusal(fleet: Fleet) -> JSONResponse:
    return JSONResponse({"detail": STOPS if fleet.stopping.is_set() else NO_REPLICA}, 503, RETRY)


async def _relay(socket: WebSocket, connection: ClientConnection, member: Member) -> None:
    """Pass messages on in both directions until one end closes, or the replica is lost."""

    async def ask() -> None:
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            await connection.send(message["text"])

    async def answer() -> None:
        while True:
            await socket.send_text(await connection.recv(decode=True))

    asking, answering = asyncio.ensure_future(ask()), asyncio.ensure_future(answer())
    lost = asyncio.ensure_future(member.lost.wait())
    try:
        await asyncio.wait({asking, answering, lost}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done() and asking.exception() is None:  # the client is gone
            return
        reason = "the server stops, or its replica was lost"
        with suppress(RuntimeError):  # the client has just gone
            await socket.close(SERVICE_RESTART, reason)
    finally:
        for task in (asking, answering, lost):
            task.cancel()
        for task in (asking, answering):
            with suppress(asyncio.CancelledError, ConnectionClosed, RuntimeError):
                await task
