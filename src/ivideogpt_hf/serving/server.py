"""A world model over HTTP and WebSocket: sessions with reset, step, rollout, fork and observe, batched on one model."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..world.options import RolloutOptions
from ..world.state import WorldState
from ..world.world_model import WorldModel
from . import messages
from .batching import Batcher, OtherJob, OverloadedError, StepJob
from .limits import LimitBody
from .prometheus import ServerMetrics
from .sessions import NoSessionError, NoStateError, Sessions, TooManyError

SWEEP_SECONDS = 5.0
POLICY_VIOLATION = 1008  # a WebSocket's code
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
    """

    max_sessions: int = 64
    max_states: int = 64
    expires_after: float = 600.0
    max_waiting: int = 256
    max_bytes: int = 32 * 2**20


class Service:
    """Answers calls; knows nothing of HTTP.

    Args:
        world: model that answers.
        starts: frames (S, C, 3, H, W) uint8 that `BeginCall` starts from; None: none.
        limits: limits of the server.
        metrics: counts and times of the calls.
    """

    def __init__(self, world: WorldModel, starts: Tensor | None, limits: ServerLimits, metrics: ServerMetrics) -> None:
        self.world, self.metrics = world, metrics
        self.starts = torch.zeros(0) if starts is None else starts
        self._answers: dict[str, Callable[[str, Any], Awaitable[messages.Answer]]] = {
            "reset": self._reset,
            "begin": self._begin,
            "step": self._step,
            "rollout": self._rollout,
            "fork": self._fork,
            "index": self._index,
            "cat": self._cat,
            "observe": self._observe,
            "show": self._show,
        }
        self.sessions = Sessions(limits.max_sessions, limits.max_states, limits.expires_after)
        self.batcher = Batcher(world, limits.max_waiting, metrics.note_batch)

    async def answer(self, session: str, call: messages.Call) -> messages.Answer:
        """Answer a call within a session.

        Raises:
            NoSessionError, NoStateError, TooManyError: see `Sessions`.
            OverloadedError: if too many calls wait for the model.
            ValueError, IndexError: if the call does not fit the model.
        """
        self.sessions.begin_call(session)
        try:
            with self.metrics.time(call.call):
                return await self._answers[call.call](session, call)
        finally:
            self.sessions.end_call(session)

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
        frames = messages.text_to_frames([frame for clip in call.frames for frame in clip])
        frames = frames.unflatten(0, (len(call.frames), -1))
        return self._state_answer(session, await self._run(lambda: self.world.reset(frames)))

    async def _begin(self, session: str, call: messages.BeginCall) -> messages.BeginAnswer:
        self.sessions.check_room(session)
        if max(call.starts) >= len(self.starts):
            raise ValueError(
                f"starts must be below {len(self.starts)}, the number of starts in the episode that came with the "
                f"checkpoint, got {call.starts}"
            )
        frames = self.starts[call.starts]
        state = self._state_answer(session, await self._run(lambda: self.world.reset(frames)))
        shown = messages.frames_to_text(frames[:, -1], call.frame_format)
        return messages.BeginAnswer(**dict(state), frames=shown)

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
            frames=None if step.frame is None else messages.frames_to_text(step.frame, call.frame_format),
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
            frames=None if frames is None else messages.frames_to_text(frames),
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
        return messages.FramesAnswer(frames=messages.frames_to_text(frames))

    async def _observe(self, session: str, call: messages.ObserveCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state, frames = self.sessions.get(session, call.state), messages.text_to_frames(call.frames)
        actions = torch.zeros(state.batch_size, self.world.spec.action_dim) if self.world.spec.action_dim else None
        return self._state_answer(session, await self._run(lambda: self.world.observe(state, actions, frames)))


def create_app(
    world: WorldModel,
    name: str,
    *,
    starts: Tensor | None = None,
    token: str | None = None,
    limits: ServerLimits | None = None,
) -> FastAPI:
    """Make the web application.

    Args:
        world: model that answers.
        name: name of the checkpoint, for clients to see.
        starts: frames (S, C, 3, H, W) uint8 that clients may start from without sending any; None: none.
        token: token that clients must show as ``Authorization: Bearer TOKEN``; None: nobody is asked.
        limits: limits of the server; None: `ServerLimits()`.
    """
    limits = limits or ServerLimits()
    metrics = ServerMetrics()
    service = Service(world, starts, limits, metrics)
    metrics.watch(service.sessions, service.batcher)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(service.sessions))
        yield
        sweeper.cancel()
        await asyncio.to_thread(service.batcher.close)

    def check_token(authorization: Annotated[str | None, Header()] = None) -> None:
        if not _is_allowed(authorization, token):
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="iVideoGPT world model", lifespan=lifespan)
    app.state.service = service
    app.add_middleware(LimitBody, max_bytes=limits.max_bytes)
    _add_error_handlers(app, metrics)
    guarded = {"dependencies": [Depends(check_token)], "responses": _RESPONSES}

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
        return messages.ServedSpec(checkpoint=name, num_starts=len(service.starts), **asdict(world.spec))

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
        if not _is_allowed(socket.headers.get("authorization"), token):
            await socket.close(POLICY_VIOLATION, "a token is needed")
            return
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_json(await _answer_text(service, session, await socket.receive_text()))

    return app


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
        404: "There is no such session or state, or the session has expired.",
        413: "The request is too large.",
        429: "Too many sessions, states or waiting calls; try later.",
    }.items()
}
# The HTTP status of each kind of error.
_STATUS: dict[type[Exception], int] = {
    NoSessionError: 404,
    NoStateError: 404,
    TooManyError: 429,
    OverloadedError: 429,
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
        headers = {"Retry-After": "1"} if status == 429 else None
        return JSONResponse({"detail": _describe(error), "lost": isinstance(error, NoSessionError)}, status, headers)

    async def describe(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, which may hold a NaN and then cannot be written as JSON.
        return JSONResponse({"detail": _problems(error)}, 422)

    for kind in _STATUS:
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(RequestValidationError, describe)


def _problems(error: RequestValidationError | ValidationError) -> list[dict[str, Any]]:
    return [{name: problem[name] for name in ("loc", "msg", "type")} for problem in error.errors()]


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


def _is_allowed(authorization: str | None, token: str | None) -> bool:
    return token is None or hmac.compare_digest((authorization or "").encode(), f"Bearer {token}".encode())


def _tensor(values: list[Any]) -> Tensor:
    """Nested lists of numbers as float32.

    Raises:
        ValueError: if they are no table of numbers.
    """
    try:
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
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
