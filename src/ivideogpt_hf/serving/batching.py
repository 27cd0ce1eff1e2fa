"""One thread that owns the model. Steps that wait while it is busy are taken together, as one batch. All else is done
in slices, in turns that are fair to clients."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from ..world.joining import Joiner, split
from ..world.options import RolloutOptions
from ..world.results import Step
from ..world.slices import Slices
from ..world.state import WorldState
from ..world.world_model import WorldModel
from .cores import claim_cores
from .defaults import CALL_SECONDS
from .shares import FairShares

MAX_BATCH_ROWS = 64
# Whoever was in the last two steps is waited for, at most for this share of the time that the last one took, and for so
# many seconds. Else, of clients who ask at about the same time, the first one goes alone, and all others wait for it.
GATHERING_SHARE, GATHERING_SECONDS = 0.35, 0.2


class OverloadedError(Exception):
    """Too many calls wait."""


class StoppingError(Exception):
    """The server stops, and takes no calls any more."""


class TooLongError(Exception):
    """A call took more of the model's time than one may."""


@dataclass(eq=False)
class StepJob:
    """One step of one client's worlds. Jobs of one ``kind`` can be done together.

    Args:
        state: state of the client's B worlds.
        actions: actions (B, A), or None.
        options: options of the step; the seed is one number for all rows, or one for each row.
        client: name of the client.
        future: future of the result; the job is given up when it is cancelled.
    """

    state: WorldState
    actions: torch.Tensor | None
    options: RolloutOptions
    client: str = ""
    future: Future = field(default_factory=Future)

    @cached_property
    def kind(self) -> RolloutOptions:
        """The options without the seed, which rows must have in common to be stepped together."""
        return replace(self.options, sampling=replace(self.options.sampling, seed=None))

    @property
    def num_frames(self) -> int:
        """Number of frames that are predicted, and of those that are decoded."""
        return self.state.batch_size * (2 if "frames" in self.options.outputs else 1)


@dataclass(eq=False)
class OtherJob:
    """Anything else that needs the model, slice by slice.

    Args:
        slices: slices of the work, see `Calls.in_turns`.
        client: name of the client.
        future: future of the result; the job is given up when it is cancelled.
        seconds: seconds that its slices have taken.
    """

    slices: Slices[Any]
    client: str = ""
    future: Future = field(default_factory=Future)
    seconds: float = 0.0


class Batcher:
    """Runs jobs in turns: the client who was given the fewest frames comes next, with the first of its jobs.

    A step is taken together with the waiting steps of the same kind. Its result does not depend on them. Any other job
    goes back after each slice until its client's next turn. A job whose future is cancelled is dropped there.

    Args:
        world: model that is stepped.
        max_waiting: number of jobs that may wait for their first turn; more are refused.
        on_batch: function that is called with the number of rows of each batch.
        max_seconds: number of seconds that the slices of a job may take in all.

    Raises (from `submit`):
        OverloadedError: if too many jobs wait, or the batcher was closed.

    Raises (from the future of a job):
        TooLongError: if its slices took too long.
        StoppingError: if it was not done when `abandon` was called.
    """

    def __init__(
        self,
        world: WorldModel,
        max_waiting: int,
        on_batch: Callable[[int], None] = lambda num_rows: None,
        max_seconds: float = CALL_SECONDS,
    ) -> None:
        self.world, self.max_waiting, self.max_seconds, self._on_batch = world, max_waiting, max_seconds, on_batch
        self._waiting: list[StepJob | OtherJob] = []
        self._begun: list[OtherJob] = []  # at most one of each client
        self._shares = FairShares()
        self._changed = threading.Condition()
        self._closed = self._abandoned = self._in_order = False
        self._joiner = Joiner()
        # Of the last two steps: their kind, and of each context the number of jobs that took part.
        self._last_two: deque[tuple[RolloutOptions, Counter[int]]] = deque(maxlen=2)
        self._gather_until = 0.0
        has_cores = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(has_cores,), name="batcher", daemon=True)
        self._thread.start()
        has_cores.wait()

    @property
    def num_waiting(self) -> int:
        """Number of jobs that have not begun."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, job: StepJob | OtherJob) -> Future:
        """Add a job to the queue; returns its future."""
        with self._changed:
            if self._closed or len(self._waiting) >= self.max_waiting:
                raise OverloadedError(f"{len(self._waiting)} calls wait already")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish the jobs, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def finish_in_order(self) -> None:
        """From now on do the jobs one after the other, those first that have begun. Where nobody comes any more, this
        gets more of them done in a time than turns do."""
        with self._changed:
            self._in_order = True

    def abandon(self) -> None:
        """Give up all jobs, each after its present slice, and stop. It does not wait for that."""
        with self._changed:
            self._closed = self._abandoned = True
            self._changed.notify()

    def _work(self, has_cores: threading.Event) -> None:
        try:
            claim_cores()
        finally:
            has_cores.set()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._begun or self._closed)
                self._changed.wait_for(self._is_gathered, timeout=self._gather_until - time.perf_counter())
                if self._abandoned:
                    self._fail_all()
                jobs = self._take()
                if not jobs and self._closed and not self._waiting:
                    return
            if jobs and isinstance(jobs[0], StepJob):
                start = time.perf_counter()
                # A client that gave up waiting has cancelled its future.
                self._step([job for job in jobs if job.future.set_running_or_notify_cancel()])
                end = time.perf_counter()
                self._last_two.append((jobs[0].kind, Counter(id(job.state.contexts) for job in jobs)))
                self._gather_until = end + min(GATHERING_SHARE * (end - start), GATHERING_SECONDS)
                self._charge([(job.client, job.num_frames) for job in jobs])
            elif jobs:
                self._charge([(jobs[0].client, self._advance(jobs[0]))])
            del jobs  # else their states would be kept until somebody calls again

    def _is_gathered(self) -> bool:
        """Whether nobody is waited for: there is something else to do, a batch is full, or all steps of a kind wait."""
        if self._closed or self._begun or any(isinstance(job, OtherJob) for job in self._waiting):
            return True
        if sum(job.state.batch_size for job in self._waiting) >= MAX_BATCH_ROWS:
            return True
        counts = Counter(job.kind for job in self._waiting)
        recent: dict[RolloutOptions, Counter[int]] = {kind: Counter() for kind in counts}
        for kind, took in self._last_two:
            if kind in recent:
                recent[kind] |= took  # the larger number of each context
        return any(count >= recent[kind].total() for kind, count in counts.items())

    def _take(self) -> list[StepJob | OtherJob]:
        """Take the job whose turn it is from the queue, and all others that can be done together with it."""
        self._begun = [job for job in self._begun if not job.future.cancelled()]
        self._waiting = [job for job in self._waiting if not job.future.cancelled()]
        jobs = [*self._begun, *self._waiting]
        if not jobs:
            return []
        first = jobs[0] if self._in_order else min(jobs, key=lambda job: self._shares.given(job.client))
        if isinstance(first, OtherJob):
            (self._begun if first in self._begun else self._waiting).remove(first)
            return [first]
        taken, num_rows = [first], first.state.batch_size
        others = (job for job in self._waiting if isinstance(job, StepJob) and job is not first)
        for job in others:
            if self._goes_with(job, first) and num_rows + job.state.batch_size <= MAX_BATCH_ROWS:
                num_rows += job.state.batch_size
                taken.append(job)
        self._waiting = [job for job in self._waiting if job not in taken]
        return taken

    def _goes_with(self, job: StepJob, other: StepJob) -> bool:
        """Whether two steps are taken together. Worlds that have to be re-anchored first keep to themselves: beside
        them the contexts of all others would be copied."""
        limit = self.world.spec.max_future_frames
        is_full, other_is_full = (max(of.state.num_frames) >= limit for of in (job, other))
        return job.kind == other.kind and is_full == other_is_full

    def _charge(self, costs: list[tuple[str, int]]) -> None:
        with self._changed:
            waiting = {job.client for job in (*self._begun, *self._waiting)}
        self._shares.charge(costs, len(waiting | {client for client, _ in costs}))

    def _fail_all(self) -> None:
        for job in (*self._begun, *self._waiting):
            _set(job.future, error=StoppingError("the server stops, and the call had not ended in time"))
        self._begun, self._waiting = [], []

    def _advance(self, job: OtherJob) -> int:
        """Do one slice of a job; returns its number of frames."""
        start = time.perf_counter()
        try:
            num_frames = next(job.slices)
        except StopIteration as end:
            _set(job.future, end.value)
            return 0
        except BaseException as error:
            _set(job.future, error=error)
            return 0
        job.seconds += time.perf_counter() - start
        if job.seconds > self.max_seconds:
            reason = f"a call may take {self.max_seconds:g} seconds of the model's time"
            _set(job.future, error=TooLongError(f"{reason}: ask for fewer or shorter futures"))
        else:
            with self._changed:
                self._begun.insert(0, job)
        return num_frames

    def _step(self, jobs: Sequence[StepJob]) -> None:
        if len(jobs) <= 1:
            for job in jobs:
                self._step_alone(job)
            return
        # The same clients in the same order as in the last step, whoever came first: so contexts that were joined are
        # used again, and rows are in the order of their contexts, which are not copied either.
        jobs = sorted(jobs, key=lambda job: id(job.state.contexts))
        try:
            results = self._step_together(jobs)
        except Exception:  # an input of one job is wrong: step each alone, so that only that job gets the error
            for job in jobs:
                self._step_alone(job)
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)

    def _step_alone(self, job: StepJob) -> None:
        self._on_batch(job.state.batch_size)
        try:
            job.future.set_result(self._step_world(job.state, job.actions, job.options))
        except BaseException as error:
            job.future.set_exception(error)

    def _step_together(self, jobs: Sequence[StepJob]) -> list[tuple[Step, WorldState]]:
        states = [job.state for job in jobs]
        before = self._joiner.join(states)
        seeds = [seed for job in jobs for seed in _row_seeds(job)]
        actions = None if jobs[0].actions is None else torch.cat([job.actions for job in jobs])
        options = replace(jobs[0].options, sampling=replace(jobs[0].options.sampling, seed=seeds))
        step, after = self._step_world(before, actions, options)
        self._on_batch(after.batch_size)
        ends = list(accumulate(state.batch_size for state in states))
        steps = [step.index(slice(end - state.batch_size, end)) for state, end in zip(states, ends, strict=True)]
        return list(zip(steps, split(after, states), strict=True))

    def _step_world(
        self, state: WorldState, actions: torch.Tensor | None, options: RolloutOptions
    ) -> tuple[Step, WorldState]:
        return self.world.step(
            state,
            actions,
            sampling=options.sampling,
            outputs=tuple(options.outputs),
            horizon_policy=options.horizon_policy,
        )


def _set(future: Future, result: Any = None, *, error: BaseException | None = None) -> None:
    """Give a future its result or error, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _row_seeds(job: StepJob) -> list[int]:
    """The seeds of a job's rows."""
    return job.options.sampling.row_seeds(job.state.batch_size, torch.device("cpu")).tolist()
