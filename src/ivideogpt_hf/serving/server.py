"""The web application: calls of sessions over HTTP and WebSocket, errors as status codes, documentation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from .. import __version__
from ..world.world_model import WorldModel
from . import messages
from .access import Access, AccessRules
from .batching import OverloadedError, StoppingError, TooLongError
from .defaults import ServerLimits
from .disconnects import CancelWhenGone
from .limits import RETRY, BodyLimits, ByteBudget, LimitBody, NoRoomError
from .prometheus import ServerMetrics
from .service import NotFiniteError, Service
from .sessions import NoSessionError, NoStateError, Sessions, TooManyError
from .websockets import answer_messages

TITLE = "iVideoGPT world model"
SWEEP_SECONDS = 5.0
MAX_PROBLEMS, MAX_NAME, MAX_REASON = 20, 80, 500  # of what an answer tells of a call that is wrong
CALLS = TypeAdapter(messages.Call)


def create_app(
    world: WorldModel,
    name: str,
    *,
    starts: Tensor | None = None,
    access: AccessRules | None = None,
    limits: ServerLimits | None = None,
) -> FastAPI:
    """Make the web application.

    Its model computes with all cores, and threads that have not computed yet with one. A thread that has computed slows
    the model down: load the model by `call_aside`, as `ivideogpt serve` does.

    Args:
        world: model that answers.
        name: name of the checkpoint, for clients to see.
        starts: frames (S, C, 3, H, W) uint8 that clients may start from without sending any; None: none.
        access: who may ask; None: `AccessRules()`, whoever names this machine as the host.
        limits: limits of the server; None: `ServerLimits()`.
    """
    limits, access = limits or ServerLimits(), access or AccessRules()
    metrics = ServerMetrics()
    service = Service(world, starts, limits, metrics)
    metrics.watch(service.sessions, service.batcher)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(service.sessions))
        yield
        sweeper.cancel()
        await asyncio.to_thread(service.batcher.close)

    # Its documentation needs no files from the net.
    app = FastAPIOffline(title=TITLE, version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.service = service
    add_limits(app, limits, access, world.spec.action_dim)
    _add_error_handlers(app, metrics)
    # `Access` checks the token; this tells of it in the documentation, where Authorize asks for it.
    scheme = [] if access.token is None else [Depends(HTTPBearer(auto_error=False, description="the server's token"))]
    guarded = {"dependencies": scheme, "responses": _RESPONSES}

    @app.get("/")
    async def describe() -> dict[str, str]:
        """What this is, and where to read on."""
        return {
            "what": f"{TITLE}: predicts video from frames and actions",
            "checkpoint": name,
            "calls": "/v1",
            "documentation": "/docs",
            "health": "/health",
            "metrics": "/metrics",
            "client": "ivideogpt_hf.RemoteWorldModel(url)",
        }

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers, the model's thread lives, and calls are taken."""
        if not service.batcher.is_alive:
            raise HTTPException(503, "the model's thread has ended")
        service.check_running()
        return {"status": "ok", "checkpoint": name}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(metrics.render(), media_type=metrics.content_type)

    @app.get("/v1/spec", **guarded)
    async def spec() -> messages.ServedSpec:
        """Sizes of frames and actions, and abilities of the model."""
        return messages.ServedSpec(checkpoint=name, num_starts=len(service.starts), **asdict(world.spec))

    @app.post("/v1/sessions", status_code=201, **guarded)
    async def open_session() -> messages.OpenedSession:
        """Begin a session."""
        service.check_running()
        return messages.OpenedSession(session=service.sessions.open(), expires_after=limits.expires_after)

    @app.delete("/v1/sessions/{session}", status_code=204, **guarded)
    async def close_session(session: str) -> None:
        """End a session."""
        service.sessions.close(session)

    @app.post("/v1/sessions/{session}/forget", status_code=204, **guarded)
    async def forget(session: str, states: list[int]) -> None:
        """Forget states."""
        service.sessions.drop(session, states)

    _add_calls(app, service, guarded)

    @app.websocket("/v1/sessions/{session}/stream")
    async def stream(socket: WebSocket, session: str) -> None:
        """The same calls, each as one message with a field "call". Each gets an answer or {"error", "status"}."""
        if service.stopping.is_set():
            await socket.send_denial_response(JSONResponse({"detail": "the server stops"}, 503, RETRY))
            return
        try:
            service.sessions.check(session)
        except NoSessionError as error:
            await socket.send_denial_response(JSONResponse({"detail": _describe(error), "lost": True}, 404))
            return
        await socket.accept()
        with service.busy():
            await answer_messages(socket, lambda message: _answer_message(service, session, message), service.stopping)

    return app


def add_limits(app: FastAPI, limits: ServerLimits, access: AccessRules, action_dim: int) -> None:
    """Add what stands before the calls. The last one is asked first."""
    remedy = "ask again when other requests have been answered"
    requests = ByteBudget(limits.max_request_bytes, "requests (--max-request-bytes)", remedy)
    answers = ByteBudget(limits.max_frame_bytes, "answers that nobody takes (--max-frame-bytes)", remedy)
    body = BodyLimits(limits.max_bytes, messages.max_values(action_dim), limits.request_seconds, limits.expires_after)
    app.add_middleware(LimitBody, limits=body, budget=requests, answers=answers)
    app.add_middleware(CancelWhenGone)
    app.add_middleware(Access, rules=access)
    if access.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )


def _add_calls(app: FastAPI, service: Service, guarded: dict[str, Any]) -> None:
    """Add the calls of a session."""

    @app.post("/v1/sessions/{session}/reset", **guarded)
    async def reset(session: str, call: messages.ResetCall) -> messages.StateAnswer:
        """Start worlds from frames."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/begin", **guarded)
    async def begin(session: str, call: messages.BeginCall) -> messages.BeginAnswer:
        """Start worlds in the episode that came with the checkpoint."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/step", **guarded)
    async def step(session: str, call: messages.StepCall) -> messages.StepAnswer:
        """Take one action in every world of a state."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/rollout", **guarded)
    async def rollout(session: str, call: messages.RolloutCall) -> messages.RolloutAnswer:
        """Predict futures of a state."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/fork", **guarded)
    async def fork(session: str, call: messages.ForkCall) -> messages.StateAnswer:
        """Branch every world of a state."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/index", **guarded)
    async def index(session: str, call: messages.IndexCall) -> messages.StateAnswer:
        """Choose worlds of a state."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/cat", **guarded)
    async def cat(session: str, call: messages.CatCall) -> messages.StateAnswer:
        """Join states, row after row."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/show", **guarded)
    async def show(session: str, call: messages.ShowCall) -> messages.FramesAnswer:
        """The last frame of every world of a state."""
        return await service.answer(session, call)

    @app.post("/v1/sessions/{session}/observe", **guarded)
    async def observe(session: str, call: messages.ObserveCall) -> messages.StateAnswer:
        """Re-anchor every world on the real frame that followed."""
        return await service.answer(session, call)


_RESPONSES = {
    code: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
    for code, text in {
        400: "It does not fit the model.",
        401: "The token is missing or wrong.",
        403: "The host or the origin is not one that may ask.",
        404: "There is no such session or state, or the session has expired.",
        408: "The request did not arrive in time.",
        413: "The request is too large, or takes too much of the model's time.",
        429: "Too many sessions, states or waiting calls; try later.",
        500: "The model predicts numbers that are not finite.",
        503: "The memory for requests, frames or states is in use, or the server stops; try later.",
    }.items()
}
# The HTTP status of each kind of error.
_STATUS: dict[type[Exception], int] = {
    NoSessionError: 404,
    NoStateError: 404,
    TooManyError: 429,
    OverloadedError: 429,
    NoRoomError: 503,
    TooLongError: 413,
    StoppingError: 503,
    NotFiniteError: 500,
    ValueError: 400,
    OSError: 400,
    IndexError: 400,
}


def _describe(error: Exception) -> str:
    if isinstance(error, NoSessionError):
        return "there is no such session, or it has expired"
    if isinstance(error, NoStateError):
        return f"there is no state {error.args[0]} in this session"
    return str(error)


def _add_error_handlers(app: FastAPI, metrics: ServerMetrics) -> None:
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        metrics.note_refused(status)
        headers = RETRY if status in (429, 503) else None
        is_lost = isinstance(error, (NoSessionError, NoStateError))
        return JSONResponse({"detail": _describe(error), "lost": is_lost}, status, headers)

    async def describe(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, which may hold a NaN and then cannot be written as JSON.
        return JSONResponse({"detail": _problems(error)}, 422)

    for kind in _STATUS:
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(RequestValidationError, describe)


def _problems(error: RequestValidationError | ValidationError) -> list[dict[str, Any]]:
    """What is wrong with a call, without what it holds: names of its fields may be as long as it is."""
    return [
        {
            "loc": [part if isinstance(part, int) else part[:MAX_NAME] for part in problem["loc"]],
            "msg": problem["msg"][:MAX_REASON],
            "type": problem["type"],
        }
        for problem in error.errors()[:MAX_PROBLEMS]
    ]


async def _answer_message(service: Service, session: str, message: str | bytes) -> dict[str, Any]:
    """Answer one message of a WebSocket."""
    try:
        return (await service.answer(session, CALLS.validate_json(message))).model_dump()
    except ValidationError as error:
        return {"error": _problems(error), "status": 422}
    except tuple(_STATUS) as error:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        service.metrics.note_refused(status)
        return {"error": _describe(error), "status": status}


async def _sweep(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        sessions.expire()
