"""A world model over HTTP and WebSocket: sessions with reset, step, rollout, fork and observe, batched on one model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from .. import __version__
from ..world.options import RolloutOptions
from ..world.state import WorldState
from ..world.world_model import WorldModel
from . import messages
from .access import Access, AccessRules
from .batching import Batcher, OtherJob, OverloadedError, StepJob
from .limits import BodyLimits, ByteBudget, LimitBody, NoRoomError
from .prometheus import ServerMetrics
from .sessions import NoSessionError, NoStateError, Sessions, TooManyError
from .state_room import StateRoom

TITLE = "iVideoGPT world model"
SWEEP_SECONDS = 5.0
MAX_PROBLEMS, MAX_NAME, MAX_REASON = 20, 80, 500  # of what an answer tells of a call that is wrong
CALLS = TypeAdapter(messages.Call)


@dataclass(frozen=True)
class ServerLimits:
    """Limits of a server.

    Args:
        max_sessions: number of sessions at a time.
        max_states: number of states of a session.
        expires_after: seconds without a call after which a session is forgotten.
        max_waiting: number of calls that may wait for the model; more get status 429.
        max_bytes: largest size of a request.
        max_request_bytes: largest size of all requests together that are being read or answered.
        max_frame_bytes: largest size of all decoded frames together, of calls and of answers.
        max_state_bytes: largest size of the states of all sessions together; what they share counts once.
        request_seconds: number of seconds in which a request must arrive.
    """

    max_sessions: int = 64
    max_states: int = 64
    expires_after: float = 600.0
    max_waiting: int = 256
    max_bytes: int = 32 * 2**20
    max_request_bytes: int = 128 * 2**20
    max_frame_bytes: int = 2**30
    max_state_bytes: int = 4 * 2**30
    request_seconds: float = 30.0


class Service:
    """Answers calls; knows nothing of HTTP.

    Args:
        world: model that answers.
        limits: limits of the server.
        metrics: counts and times of the calls.
    """

    def __init__(self, world: WorldModel, limits: ServerLimits, metrics: ServerMetrics) -> None:
        self.world, self.metrics, self.limits = world, metrics, limits
        self._answers: dict[str, Callable[[str, Any], Awaitable[messages.Answer]]] = {
            "reset": self._reset,
            "step": self._step,
            "rollout": self._rollout,
            "fork": self._fork,
            "index": self._index,
            "cat": self._cat,
            "observe": self._observe,
            "show": self._show,
        }
        self.sessions = Sessions(limits.max_sessions, limits.max_states, limits.expires_after)
        self._room = StateRoom(world, limits.max_state_bytes, self.sessions.kept)
        remedy = "ask for fewer frames, or again when other calls have been answered"
        self._frames = ByteBudget(limits.max_frame_bytes, "frames (--max-frame-bytes)", remedy)
        self.batcher = Batcher(world, limits.max_waiting, metrics.note_batch)

    async def answer(self, session: str, call: messages.Call) -> messages.Answer:
        """Answer a call within a session.

        Raises:
            NoSessionError, NoStateError, TooManyError: see `Sessions`.
            OverloadedError: if too many calls wait for the model.
            NoRoomError: if frames or states leave no room for those of the call.
            ValueError, IndexError: if the call does not fit the model.
        """
        self.sessions.begin_call(session)
        try:
            with self.metrics.time(call.call), self._reserved(session, call):
                return await self._answers[call.call](session, call)
        finally:
            self.sessions.end_call(session)

    @contextlib.contextmanager
    def _reserved(self, session: str, call: messages.Call) -> Iterator[None]:
        """Keep room for what a call takes: its frames, those of its answer, and the state that it makes."""
        numbers = call.states if isinstance(call, messages.CatCall) else [getattr(call, "state", None)]
        states = [self.sessions.get(session, number) for number in numbers if number is not None]
        height, width = self.world.spec.frame_size
        num_frames = messages.num_frames_of(call, sum(state.batch_size for state in states))
        with self._frames.taking(num_frames * 3 * height * width), self._room.reserved(call, states):
            yield

    async def _decode(self, texts: list[messages.Png]) -> Tensor:
        """Frames of a call. Other calls are answered meanwhile."""
        return await asyncio.to_thread(messages.text_to_frames, texts, self.world.spec.frame_size)

    async def _encode(self, frames: Tensor | None) -> list[messages.Png] | None:
        """Frames of an answer. Other calls are answered meanwhile."""
        return None if frames is None else await asyncio.to_thread(messages.frames_to_text, frames)

    async def _run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self.batcher.submit(OtherJob(call)))

    def _state_answer(self, session: str, state: WorldState) -> messages.StateAnswer:
        number = self.sessions.put(session, state)
        return messages.StateAnswer(state=number, num_rows=state.batch_size, num_frames=list(state.num_frames))

    async def _reset(self, session: str, call: messages.ResetCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        lengths = {len(clip) for clip in call.frames}
        if lengths != {self.world.spec.num_context_frames}:
            raise ValueError(
                f"every world needs {self.world.spec.num_context_frames} context frames, got {sorted(lengths)}"
            )
        frames = await self._decode([frame for clip in call.frames for frame in clip])
        frames = frames.unflatten(0, (len(call.frames), -1))
        return self._state_answer(session, await self._run(lambda: self.world.reset(frames)))

    async def _step(self, session: str, call: messages.StepCall) -> messages.StepAnswer:
        state = self.sessions.get(session, call.state)
        if not call.replace:
            self.sessions.check_room(session)
        actions = None if call.actions is None else _tensor(call.actions)
        options = RolloutOptions(call.sampling.sampling(), call.outputs, "all", call.horizon_policy)
        step, after = await asyncio.wrap_future(self.batcher.submit(StepJob(state, actions, options)))
        number = self.sessions.put(session, after, replacing=call.state if call.replace else None)
        return messages.StepAnswer(
            state=number,
            num_rows=after.batch_size,
            num_frames=list(after.num_frames),
            frames=await self._encode(step.frame),
            rewards=None if step.reward is None else step.reward.tolist(),
            tokens=step.tokens.tolist() if "tokens" in call.outputs else None,
            log_probs=step.log_prob.tolist(),
        )

    async def _rollout(self, session: str, call: messages.RolloutCall) -> messages.RolloutAnswer:
        state = self.sessions.get(session, call.state)
        actions = None if call.actions is None else _tensor(call.actions)
        _check_size(state, actions, call)
        rollout = await self._run(
            lambda: self.world.rollout(
                state,
                actions,
                num_frames=call.num_frames,
                num_samples=call.num_samples,
                sampling=call.sampling.sampling(),
                outputs=call.outputs,
                decode_steps=call.decode_steps,
                horizon_policy=call.horizon_policy,
            )
        )
        frames = None if rollout.frames is None else rollout.frames.flatten(0, -4)
        return messages.RolloutAnswer(
            shape=list(rollout.log_probs.shape),
            frames=await self._encode(frames),
            decoded_steps=list(rollout.decoded_steps),
            rewards=None if rollout.rewards is None else rollout.rewards.flatten().tolist(),
            tokens=None if rollout.tokens is None else rollout.tokens.flatten(0, -2).tolist(),
            log_probs=rollout.log_probs.flatten().tolist(),
            reanchored_at=list(rollout.reanchored_at),
        )

    async def _fork(self, session: str, call: messages.ForkCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state = self.sessions.get(session, call.state)
        if state.batch_size * call.num_branches > messages.MAX_ROWS:
            raise ValueError(
                f"a state holds {messages.MAX_ROWS} worlds at most, these would be "
                f"{state.batch_size * call.num_branches}"
            )
        return self._state_answer(session, await self._run(lambda: state.fork(call.num_branches)))

    async def _index(self, session: str, call: messages.IndexCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state = self.sessions.get(session, call.state)
        return self._state_answer(session, await self._run(lambda: state.index(call.rows)))

    async def _cat(self, session: str, call: messages.CatCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        states = [self.sessions.get(session, number) for number in call.states]
        num_rows = sum(state.batch_size for state in states)
        if num_rows > messages.MAX_ROWS:
            raise ValueError(f"a state holds {messages.MAX_ROWS} worlds at most, these would be {num_rows}")
        return self._state_answer(session, await self._run(lambda: WorldState.cat(states)))

    async def _show(self, session: str, call: messages.ShowCall) -> messages.FramesAnswer:
        state = self.sessions.get(session, call.state)
        frames = await self._run(lambda: self.world.last_frame(state))
        return messages.FramesAnswer(frames=await self._encode(frames) or [])

    async def _observe(self, session: str, call: messages.ObserveCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state, frames = self.sessions.get(session, call.state), await self._decode(call.frames)
        actions = torch.zeros(state.batch_size, self.world.spec.action_dim) if self.world.spec.action_dim else None
        return self._state_answer(session, await self._run(lambda: self.world.observe(state, actions, frames)))


def create_app(
    world: WorldModel, name: str, *, access: AccessRules | None = None, limits: ServerLimits | None = None
) -> FastAPI:
    """Make the web application.

    Args:
        world: model that answers.
        name: name of the checkpoint, for clients to see.
        access: who may ask; None: `AccessRules()`, whoever names this machine as the host.
        limits: limits of the server; None: `ServerLimits()`.
    """
    limits, access = limits or ServerLimits(), access or AccessRules()
    metrics = ServerMetrics()
    service = Service(world, limits, metrics)
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
    _add_limits(app, limits, access, world.spec.action_dim)
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
        """Whether the server answers, and the model's thread lives."""
        if not service.batcher.is_alive:
            raise HTTPException(503, "the model's thread has ended")
        return {"status": "ok", "checkpoint": name}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(metrics.render(), media_type=metrics.content_type)

    @app.get("/v1/spec", **guarded)
    async def spec() -> messages.ServedSpec:
        """Sizes of frames and actions, and abilities of the model."""
        return messages.ServedSpec(checkpoint=name, **asdict(world.spec))

    @app.post("/v1/sessions", status_code=201, **guarded)
    async def open_session() -> messages.OpenedSession:
        """Begin a session."""
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
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_json(await _answer_text(service, session, await socket.receive_text()))

    return app


def _add_limits(app: FastAPI, limits: ServerLimits, access: AccessRules, action_dim: int) -> None:
    """Add what stands before the calls. The last one is asked first."""
    remedy = "ask again when other requests have been answered"
    requests = ByteBudget(limits.max_request_bytes, "requests (--max-request-bytes)", remedy)
    body = BodyLimits(limits.max_bytes, messages.max_values(action_dim), limits.request_seconds, limits.expires_after)
    app.add_middleware(LimitBody, limits=body, budget=requests)
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
        413: "The request is too large.",
        429: "Too many sessions, states or waiting calls; try later.",
        503: "The memory for requests, frames or states is in use; free some, or try later.",
    }.items()
}
# The HTTP status of each kind of error.
_STATUS: dict[type[Exception], int] = {
    NoSessionError: 404,
    NoStateError: 404,
    TooManyError: 429,
    OverloadedError: 429,
    NoRoomError: 503,
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
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse({"detail": _describe(error), "lost": isinstance(error, NoSessionError)}, status, headers)

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


async def _answer_text(service: Service, session: str, text: str) -> dict[str, Any]:
    """Answer one message of a WebSocket."""
    try:
        return (await service.answer(session, CALLS.validate_json(text))).model_dump()
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


def _tensor(values: list[Any]) -> Tensor:
    """Nested lists of numbers as float32.

    Raises:
        ValueError: if they are no table of numbers.
    """
    try:
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"actions must be a table of numbers: {error}") from error


def _check_size(state: WorldState, actions: Tensor | None, call: messages.RolloutCall) -> None:
    """Refuse a rollout that is larger than one answer may be."""
    steps = call.num_frames or 0 if actions is None else actions.shape[-2] if actions.ndim > 1 else 0
    candidates = actions.shape[1] if actions is not None and actions.ndim == 4 else call.num_samples or 1
    if (
        state.batch_size * candidates > messages.MAX_ROWS
        or state.batch_size * candidates * steps > messages.MAX_ANSWER_FRAMES
    ):
        raise ValueError(
            f"a rollout predicts {messages.MAX_ROWS} futures and {messages.MAX_ANSWER_FRAMES} frames at most, got "
            f"{state.batch_size * candidates} futures of {steps} frames"
        )
