"""What answers the calls of all sessions, on one model; it knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..world.options import RolloutOptions
from ..world.slices import Slices, in_one_slice
from ..world.state import WorldState
from ..world.world_model import WorldModel
from . import messages
from .batching import MAX_BATCH_ROWS, Batcher, OtherJob, StepJob, StoppingError
from .defaults import ServerLimits
from .limits import ByteBudget
from .prometheus import ServerMetrics
from .sessions import Sessions
from .state_room import StateRoom

POLL_SECONDS = 0.02
ABANDON_SECONDS = 5.0


class NotFiniteError(Exception):
    """The model's answer holds a number that JSON has no word for, as weights make it that are not finite."""


class Service:
    """Answers calls; knows nothing of HTTP.

    Args:
        world: model that answers.
        starts: frames (S, C, 3, H, W) uint8 that `BeginCall` starts from; None: none.
        limits: limits of the server.
        metrics: counts and times of the calls.
    """

    def __init__(self, world: WorldModel, starts: Tensor | None, limits: ServerLimits, metrics: ServerMetrics) -> None:
        self.world, self.metrics, self.limits = world, metrics, limits
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
        self._room = StateRoom(world, limits.max_state_bytes, self.sessions.kept)
        remedy = "ask for fewer frames, or again when other calls have been answered"
        self._frames = ByteBudget(limits.max_frame_bytes, "frames (--max-frame-bytes)", remedy)
        self.batcher = Batcher(world, limits.max_waiting, metrics.note_batch, limits.max_call_seconds)
        self.stopping = asyncio.Event()
        self._num_busy = 0

    async def answer(self, session: str, call: messages.Call) -> messages.Answer:
        """Answer a call within a session.

        Raises:
            NoSessionError, NoStateError, TooManyError: see `Sessions`.
            OverloadedError: if too many calls wait for the model.
            NoRoomError: if frames or states leave no room for those of the call.
            TooLongError: if the call took too much of the model's time.
            StoppingError: if the server stops.
            NotFiniteError: if the answer holds a number that is not finite.
            ValueError, IndexError: if the call does not fit the model.
        """
        self.check_running()
        self.sessions.begin_call(session)
        try:
            with self.busy(), self.metrics.time(call.call), self._reserved(session, call):
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

    async def _encode(self, frames: Tensor | None, frame_format: messages.FrameFormat = "png") -> list[str] | None:
        """Frames of an answer. Other calls are answered meanwhile."""
        return None if frames is None else await asyncio.to_thread(messages.frames_to_text, frames, frame_format)

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
        frames = await self._decode([frame for clip in call.frames for frame in clip])
        frames = frames.unflatten(0, (len(call.frames), -1))
        return self._state_answer(session, await self._run(session, self.world.calls.reset(frames)))

    async def _begin(self, session: str, call: messages.BeginCall) -> messages.BeginAnswer:
        self.sessions.check_room(session)
        if max(call.starts) >= len(self.starts):
            raise ValueError(
                f"starts must be below {len(self.starts)}, the number of starts in the episode that came with the "
                f"checkpoint, got {call.starts}"
            )
        frames = self.starts[call.starts]
        state = self._state_answer(session, await self._run(session, self.world.calls.reset(frames)))
        shown = await self._encode(frames[:, -1], call.frame_format)
        return messages.BeginAnswer(**dict(state), frames=shown or [])

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
        rewards, log_probs = None if step.reward is None else _numbers(step.reward), _numbers(step.log_prob)
        number = self.sessions.put(session, after, replacing=call.state if call.replace else None)
        return messages.StepAnswer(
            state=number,
            num_rows=after.batch_size,
            num_frames=list(after.num_frames),
            frames=await self._encode(step.frame, call.frame_format),
            rewards=rewards,
            tokens=step.tokens.tolist() if "tokens" in call.outputs else None,
            log_probs=log_probs,
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
            frames=await self._encode(frames),
            decoded_steps=list(rollout.decoded_steps),
            rewards=None if rollout.rewards is None else _numbers(rollout.rewards),
            tokens=None if rollout.tokens is None else rollout.tokens.flatten(0, -2).tolist(),
            log_probs=_numbers(rollout.log_probs),
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
        return messages.FramesAnswer(frames=await self._encode(frames) or [])

    async def _observe(self, session: str, call: messages.ObserveCall) -> messages.StateAnswer:
        self.sessions.check_room(session)
        state, frames = self.sessions.get(session, call.state), await self._decode(call.frames)
        actions = torch.zeros(state.batch_size, self.world.spec.action_dim) if self.world.spec.action_dim else None
        return self._state_answer(session, await self._run(session, self.world.calls.observe(state, actions, frames)))


def _numbers(values: Tensor) -> list[float]:
    """The values of an answer, flat.

    Raises:
        NotFiniteError: if one is not finite.
    """
    if not torch.isfinite(values).all():
        raise NotFiniteError("the model's answer holds a number that is not finite: its weights may not be either")
    numbers: list[float] = values.flatten().tolist()
    return numbers


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
    if steps > messages.MAX_STEPS:
        raise ValueError(f"a rollout has {messages.MAX_STEPS} steps at most, got {steps}")
    if (
        state.batch_size * candidates > messages.MAX_ROWS
        or state.batch_size * candidates * steps > messages.MAX_ANSWER_FRAMES
    ):
        raise ValueError(
            f"a rollout predicts {messages.MAX_ROWS} futures and {messages.MAX_ANSWER_FRAMES} frames at most, got "
            f"{state.batch_size * candidates} futures of {steps} frames"
        )
