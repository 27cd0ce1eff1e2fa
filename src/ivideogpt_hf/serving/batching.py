"""One thread that owns the model. Steps that wait while it is busy are taken together, as one batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch

from ..world.joining import Joiner, split
from ..world.options import RolloutOptions
from ..world.results import Step
from ..world.state import WorldState
from ..world.world_model import WorldModel

MAX_BATCH_ROWS = 64


class OverloadedError(Exception):
    """Too many calls wait."""


@dataclass(eq=False)
class StepJob:
    """One step of one client's worlds. Jobs of one ``kind`` can be done together.

    Args:
        state: state of the client's B worlds.
        actions: actions (B, A), or None.
        options: options of the step; the seed is one number for all rows, or one for each row.
        future: future of the result.
    """

    state: WorldState
    actions: torch.Tensor | None
    options: RolloutOptions
    future: Future = field(default_factory=Future)

    @property
    def kind(self) -> RolloutOptions:
        """The options without the seed, which rows must have in common to be stepped together."""
        return replace(self.options, sampling=replace(self.options.sampling, seed=None))


@dataclass(eq=False)
class OtherJob:
    """Anything else that needs the model."""

    call: Callable[[], Any]
    future: Future = field(default_factory=Future)


class Batcher:
    """Runs jobs in the order in which they come.

    A step is taken together with the waiting steps of the same kind. Its result does not depend on them.

    Args:
        world: model that is stepped.
        max_waiting: number of jobs that may wait; more are refused.
        on_batch: function that is called with the number of rows of each batch.

    Raises (from `submit`):
        OverloadedError: if too many jobs wait, or the batcher was closed.
    """

    def __init__(
        self, world: WorldModel, max_waiting: int, on_batch: Callable[[int], None] = lambda num_rows: None
    ) -> None:
        self.world, self.max_waiting, self._on_batch = world, max_waiting, on_batch
        self._waiting: deque[StepJob | OtherJob] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._joiner = Joiner()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

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
        """Finish the waiting jobs, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                jobs = self._take()
            # A client that gave up waiting has cancelled its future.
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs and isinstance(jobs[0], StepJob):
                self._step(jobs)
            elif jobs:
                _finish(jobs[0], jobs[0].call)

    def _take(self) -> list[StepJob | OtherJob]:
        """Take the first job from the queue, and all others that can be done together with it."""
        first = self._waiting.popleft()
        jobs = [first]
        if isinstance(first, StepJob):
            num_rows = first.state.batch_size
            for job in [job for job in self._waiting if isinstance(job, StepJob) and job.kind == first.kind]:
                if num_rows + job.state.batch_size <= MAX_BATCH_ROWS:
                    num_rows += job.state.batch_size
                    jobs.append(job)
                    self._waiting.remove(job)
        return jobs

    def _step(self, jobs: Sequence[StepJob]) -> None:
        if len(jobs) == 1:
            _finish(jobs[0], lambda: self._step_alone(jobs[0]))
            return
        try:
            results = self._step_together(jobs)
        except Exception:  # an input of one job is wrong: step each alone, so that only that job gets the error
            for job in jobs:
                _finish(job, lambda job=job: self._step_alone(job))
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)

    def _step_alone(self, job: StepJob) -> tuple[Step, WorldState]:
        self._on_batch(job.state.batch_size)
        return self._step_world(job.state, job.actions, job.options)

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
        return list(zip(steps, split(after, before, states), strict=True))

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


def _finish(job: StepJob | OtherJob, call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def _row_seeds(job: StepJob) -> list[int]:
    """The seeds of a job's rows."""
    return job.options.sampling.row_seeds(job.state.batch_size, torch.device("cpu")).tolist()
