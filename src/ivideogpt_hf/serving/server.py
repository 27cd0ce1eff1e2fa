"""A world model over HTTP and WebSocket: sessions with reset, step, rollout, fork and observe, batched on one model."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..world.options import RolloutOptions
from ..world.slices import Slices, in_one_slice
from ..world.state import WorldState
from ..world.world_model import WorldModel
from . import CALL_SECONDS, messages
from .batching import (
    MAX_BATCH_ROWS,
    Batcher,
    OtherJob,
    OverloadedError,
    StepJob,
    StoppingError,
    TooLongError,
)
from .disconnects import CancelWhenGone
from .limits import LimitBody
from .prometheus import ServerMetrics
from .sessions import NoSessionError, NoStateError, Sessions, TooManyError
from .streams import answer_messages

SWEEP_SECONDS = 5.0
POLL_SECONDS = 0.02
ABANDON_SECONDS = 5.0
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
        max_call_seconds: number of seconds of the model's time that one call may take.
    """

    max_sessions: int = 64
    max_states: int = 64
    expires_after: float = 600.0
    max_waiting: int = 256
    max_bytes: int = 32 * 2**20
    max_call_seconds: float = CALL_SECONDS


class Service:
    """Answers calls; knows nothing of HTTP.

    Args:
        world: model that answers.
        limits: limits of the server.
        metrics: counts and times of the calls.
    """

    def __init__(self, world: WorldModel, limits: ServerLimits, metrics: ServerMetrics) -> None:
        self.world, self.metrics = world, metrics
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
        self.batcher = Batcher(world, limits.max_waiting, metrics.note_batch, limits.max_call_seconds)
        self.stopping = asyncio.Event()
        self._num_busy = 0

    async def answer(self, session: str, call: messages.Call) -> messages.Answer:
        """Answer a call within a session.

        Raises:
            NoSessionError, NoStateError, TooManyError: see `Sessions`.
            OverloadedError: if too many calls wait for the model.
            TooLongError: if the call took too much of the model's time.
            StoppingError: if the server stops.
            ValueError, IndexError: if the call does not fit the model.
        """
        self.check_running()
        self.sessions.begin_call(session)
        try:
            with self.busy(), self.metrics.time(call.call):
                return await self._answers[call.call](session, call)
        finally:
            self.sessions.end_call(session)

    def check_running(self) -> None:
        """Raise StoppingError if the server stops."""
        if self.stopping.is_set():
            raise StoppingError("the server stops, and takes no calls any more")

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Let `drain` wait for the block."""
        self._num_busy += 1
        try:
            yield
        finally:
            self._num_busy -= 1

    async def drain(self, seconds: float | None) -> None:
        """Take no calls any more, and wait until those that are being answered have ended. After so many seconds they
        are given up, and a moment later also clients that do not take their answers."""
        self.stopping.set()
        self.batcher.finish_in_order()
        try:
            async with asyncio.timeout(seconds):
                await self._quiet()
        except TimeoutError:
            self.batcher.abandon()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ABANDON_SECONDS):
                    await self._quiet()

    async def _quiet(self) -> None:
        while self._num_busy:
            await asyncio.sleep(POLL_SECONDS)

    async def _run(self, session: str, slices: Slices[Any]) -> Any:
        job = OtherJob(self.world.calls.in_turns(slices), session)
        return await asyncio.wrap_future(self.batcher.submit(job))

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
        return self._state_answer(session, await self._run(session, self.world.calls.reset(frames)))

    async def _step(self, session: str, call: messages.StepCall) -> messages.StepAnswer:
        state = self.sessions.get(session, call.state)
        if not call.replace:
            self.sessions.check_room(session)
        actions = None if call.actions is None else _tensor(call.actions)
        options = RolloutOptions(call.sampling.sampling(), call.outputs, "all", call.horizon_policy)
        if state.batch_size > MAX_BATCH_ROWS:
            slices = self.world.calls.step(
                state,
                actions,
                sampling=options.sampling,
                outputs=tuple(options.outputs),
                horizon_policy=options.horizon_policy,
            )
            step, after = await self._run(session, slices)
        else:
            job = StepJob(state, actions, options, session)
            step, after = await asyncio.wrap_future(self.batcher.submit(job))
        number = self.sessions.put(session, after, replacing=call.state if call.replace else None)
        return messages.StepAnswer(
            state=number,
            num_rows=after.batch_size,
            num_frames=list(after.num_frames),
            frames=None if step.frame is None else messages.frames_to_text(step.frame),
            rewards=None if step.reward is None else step.reward.tolist(),
            tokens=step.tokens.tolist() if "tokens" in call.outputs else None,
            log_probs=step.log_prob.tolist(),
        )

    async def _rollout(self, session: str, call: messages.RolloutCall) -> messages.RolloutAnswer:
        state = self.sessions.get(session, call.state)
        actions = None if call.actions is None else _tensor(call.actions)
        _check_size(state, actions, call)
        slices = self.world.calls.rollout(
            state,
            actions,
            num_frames=call.num_frames,
            num_samples=call.num_samples,
            sampling=call.sampling.sampling(),
            outputs=call.outputs,
            decode_steps=call.decode_steps,
            horizon_policy=call.horizon_policy,
        )
        rollout = await self._run(session, slices)
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
        forked = await self._run(session, in_one_slice(lambda: state.fork(call.num_branches)))
        return self._state_answer(session, forked)

    async def _index(self, session: str, call: messages.IndexCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state = self.sessions.get(session, call.state)
        return self._state_answer(session, await self._run(session, in_one_slice(lambda: state.index(call.rows))))

    async def _cat(self, session: str, call: messages.CatCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        states = [self.sessions.get(session, number) for number in call.states]
        num_rows = sum(state.batch_size for state in states)
        if num_rows > messages.MAX_ROWS:
            raise ValueError(f"a state holds {messages.MAX_ROWS} worlds at most, these would be {num_rows}")
        return self._state_answer(session, await self._run(session, in_one_slice(lambda: WorldState.cat(states))))

    async def _show(self, session: str, call: messages.ShowCall) -> messages.FramesAnswer:
        state = self.sessions.get(session, call.state)
        frames = await self._run(session, self.world.calls.last_frame(state))
        return messages.FramesAnswer(frames=messages.frames_to_text(frames))

    async def _observe(self, session: str, call: messages.ObserveCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state, frames = self.sessions.get(session, call.state), messages.text_to_frames(call.frames)
        actions = torch.zeros(state.batch_size, self.world.spec.action_dim) if self.world.spec.action_dim else None
        return self._state_answer(session, await self._run(session, self.world.calls.observe(state, actions, frames)))


def create_app(
    world: WorldModel, name: str, *, token: str | None = None, limits: ServerLimits | None = None
) -> FastAPI:
    """Make the web application.

    Args:
        world: model that answers.
        name: name of the checkpoint, for clients to see.
        token: token that clients must show as ``Authorization: Bearer TOKEN``; None: nobody is asked.
        limits: limits of the server; None: `ServerLimits()`.
    """
    limits = limits or ServerLimits()
    metrics = ServerMetrics()
    service = Service(world, limits, metrics)
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
    app.add_middleware(CancelWhenGone)
    _add_error_handlers(app, metrics)
    guarded = {"dependencies": [Depends(check_token)], "responses": _RESPONSES}

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
        return messages.ServedSpec(checkpoint=name, **asdict(world.spec))

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
        if not _is_allowed(socket.headers.get("authorization"), token):
            await socket.close(POLICY_VIOLATION, "a token is needed")
            return
        if service.stopping.is_set():
            await socket.send_denial_response(JSONResponse({"detail": "the server stops"}, 503, _RETRY))
            return
        await socket.accept()
        with service.busy():
            await answer_messages(socket, lambda message: _answer_message(service, session, message), service.stopping)

    return app


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
        404: "There is no such session or state, or the session has expired.",
        413: "The request is too large, or takes too much of the model's time.",
        429: "Too many sessions, states or waiting calls; try later.",
        503: "The server stops; try later.",
    }.items()
}
_RETRY = {"Retry-After": "1"}
# The HTTP status of each kind of error.
_STATUS: dict[type[Exception], int] = {
    NoSessionError: 404,
    NoStateError: 404,
    TooManyError: 429,
    OverloadedError: 429,
    TooLongError: 413,
    StoppingError: 503,
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
        headers = _RETRY if status in (429, 503) else None
        is_lost = isinstance(error, (NoSessionError, NoStateError))
        return JSONResponse({"detail": _describe(error), "lost": is_lost}, status, headers)

    async def describe(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer repeats the input, which may hold a NaN and then cannot be written as JSON.
        return JSONResponse({"detail": _problems(error)}, 422)

    for kind in _STATUS:
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(RequestValidationError, describe)


def _problems(error: RequestValidationError | ValidationError) -> list[dict[str, Any]]:
    return [{name: problem[name] for name in ("loc", "msg", "type")} for problem in error.errors()]


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
