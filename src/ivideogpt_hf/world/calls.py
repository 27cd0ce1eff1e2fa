"""What a world model can be asked, checked, and done in slices. `WorldModel` does all slices of a call at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from torch import Tensor

from ..decoding.sampling import Sampling
from .checks import check_actions, check_frames, check_observed_frame, check_reward_head, check_state, resolve_futures
from .engine import RolloutEngine
from .options import STEP_OUTPUTS, DecodeSteps, HorizonPolicy, RolloutOptions, check_outputs
from .protocol import OnStep, Policy
from .results import Rollout, Step
from .slices import Slices, T
from .state import WorldState


class Calls:
    """The calls of `WorldModel`, where their arguments, results and errors are explained.

    Nothing is computed before the first slice, and the slices run inside `RolloutEngine.inference`.

    Args:
        engine: engine of the world model.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine

    def in_turns(self, slices: Slices[T]) -> Slices[T]:
        """The same slices for a caller who does other things between them: outside of them, modes of torch and of the
        networks are the caller's."""
        while True:
            with self._engine.inference():
                try:
                    num_frames = next(slices)
                except StopIteration as end:
                    result: T = end.value
                    return result
            yield num_frames

    def check(self, state: WorldState) -> None:
        """Check that a state is one of this world model.

        Raises:
            ValueError: naming what differs.
        """
        check_state(state, self._engine.vq_model, self._engine.transformer)

    def reset(self, frames: Tensor) -> Slices[WorldState]:
        """See `WorldModel.reset`."""
        check_frames(frames, self._engine.spec)
        return (yield from self._engine.start(frames))

    def step(
        self,
        state: WorldState,
        action: Tensor | None,
        *,
        sampling: Sampling | None,
        outputs: Sequence[str],
        horizon_policy: HorizonPolicy,
    ) -> Slices[tuple[Step, WorldState]]:
        """See `WorldModel.step`."""
        self.check(state)
        engine = self._engine
        actions = check_actions(action, (state.batch_size,), engine.spec)
        options = RolloutOptions(sampling or Sampling(), check_outputs(outputs, STEP_OUTPUTS), "all", horizon_policy)
        check_reward_head(options.outputs, engine.spec)
        seeds = options.sampling.row_seeds(state.batch_size, engine.device)
        state = yield from engine.with_room(state, options)
        advance = engine.advance(state, actions, options.sampling, seeds, read_reward="rewards" in options.outputs)
        yield state.batch_size
        state, frame = advance.state, None
        if "frames" in options.outputs:
            frame = yield from engine.last_frame(state)
        return replace(advance.step, frame=frame), state

    def observe(self, state: WorldState, action: Tensor | None, frame: Tensor) -> Slices[WorldState]:
        """See `WorldModel.observe`."""
        self.check(state)
        check_actions(action, (state.batch_size,), self._engine.spec)
        check_observed_frame(frame, state.batch_size, self._engine.spec)
        observed = yield from self._engine.reanchor(state, frame.to(self._engine.device)[:, None])
        return replace(observed, num_steps=tuple(step + 1 for step in state.num_steps))

    def make_room(self, state: WorldState) -> Slices[WorldState]:
        """See `WorldModel.make_room`."""
        self.check(state)
        return (yield from self._engine.make_room(state))

    def last_frame(self, state: WorldState) -> Slices[Tensor]:
        """See `WorldModel.last_frame`."""
        self.check(state)
        return (yield from self._engine.last_frame(state))

    def rollout(
        self,
        frames: Tensor | WorldState,
        actions: Tensor | Policy | None,
        *,
        num_frames: int | None,
        num_samples: int | None,
        sampling: Sampling | None,
        outputs: Sequence[str],
        decode_steps: DecodeSteps,
        horizon_policy: HorizonPolicy,
        on_step: OnStep | None = None,
        as_outside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Slices[Rollout]:
        """See `WorldModel.rollout`; the policy and ``on_step`` run inside ``as_outside``."""
        engine = self._engine
        options = RolloutOptions(sampling or Sampling(), outputs, decode_steps, horizon_policy)
        check_reward_head(options.outputs, engine.spec)
        state = frames if isinstance(frames, WorldState) else (yield from self.reset(frames))
        self.check(state)
        num_contexts = state.batch_size
        futures = resolve_futures(actions, num_contexts, num_frames, num_samples, engine.spec)
        num_candidates = futures.num_candidates or 1
        seeds = options.sampling.row_seeds(num_contexts, engine.device).repeat_interleave(num_candidates)
        state = state.fork(num_candidates) if num_candidates > 1 else state
        if horizon_policy == "error":
            engine.check_horizon(state, futures.num_frames)
        acts = self._checked(actions) if callable(actions) else futures.actions
        result = yield from engine.run(state, acts, futures.num_frames, seeds, options, on_step, as_outside)
        if "tokens" not in options.outputs:
            result = replace(result, tokens=None)
        return result if futures.num_candidates is None else result.split_candidates(num_candidates)

    def _checked(self, policy: Policy) -> Policy:
        """A policy whose actions are checked."""
        spec = self._engine.spec
        return lambda observation: check_actions(policy(observation), (observation.state.batch_size,), spec)
