"""One thread that owns the model: what waits while it is busy is stepped together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import is_not
from typing import Any

import torch

from ..decoding.sampling import Sampling
from ..world.engine import HorizonPolicy
from ..world.results import Step
from ..world.state import Contexts, WorldState
from ..world.world_model import WorldModel

MAX_BATCH_ROWS = 64


class OverloadedError(Exception):
    """More waits than the server takes on."""


@dataclass(eq=False)
class StepJob:
    """One step of one client's worlds; jobs of one ``kind`` can be taken together.

    Args:
        state: (B rows).
        actions: (B, A) or None.
        seed: of these rows, one or one per row, or None.
        options: of `Sampling`, without the seed.
        outputs, horizon_policy: see `WorldModel.step`.
    """

    state: WorldState
    actions: torch.Tensor | None
    seed: int | list[int] | None
    options: dict[str, Any]
    outputs: tuple[str, ...]
    horizon_policy: HorizonPolicy
    future: Future = field(default_factory=Future)

    @property
    def kind(self) -> tuple[Any, ...]:
        return (*sorted(self.options.items()), self.outputs, self.horizon_policy)


@dataclass(eq=False)
class OtherJob:
    """Anything else that needs the model."""

    call: Callable[[], Any]
    future: Future = field(default_factory=Future)


class Batcher:
    """Runs jobs in the order in which they come, steps together with all others that wait and that they can be joined
    with. The result of a step does not depend on its company.

    Args:
        world: the model.
        max_waiting: jobs; more are refused.
        on_batch: is told how many rows were stepped together.

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
        # Contexts of the clients that were stepped together last: they mostly come together again.
        self._joined: tuple[tuple[Contexts, ...], Contexts] | None = None
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs that are not begun."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether there is anyone to do the jobs."""
        return self._thread.is_alive()

    def submit(self, job: StepJob | OtherJob) -> Future:
        """Have a job done; returns its future."""
        with self._changed:
            if self._closed or len(self._waiting) >= self.max_waiting:
                raise OverloadedError(f"{len(self._waiting)} calls wait already")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Do what waits, and stop."""
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
            # Whoever gave up waiting is left out.
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if jobs and isinstance(jobs[0], StepJob):
                self._step(jobs)
            elif jobs:
                _finish(jobs[0], jobs[0].call)

    def _take(self) -> list[StepJob | OtherJob]:
        """The first job, and all that can be done with it."""
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
        # The same order as before, so that joined contexts can be used again.
        jobs = sorted(jobs, key=lambda job: id(job.state.contexts))
        try:
            results = self._step_together(jobs)
        except Exception:  # somebody's input does not fit: everyone hears of their own only
            for job in jobs:
                _finish(job, lambda job=job: self._step_alone(job))
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)

    def _step_alone(self, job: StepJob) -> tuple[Step, WorldState]:
        self._on_batch(job.state.batch_size)
        return self.world.step(
            job.state,
            job.actions,
            sampling=Sampling(seed=job.seed, **job.options),
            outputs=job.outputs,
            horizon_policy=job.horizon_policy,
        )

    def _step_together(self, jobs: Sequence[StepJob]) -> list[tuple[Step, WorldState]]:
        parts = list({id(job.state.contexts): job.state.contexts for job in jobs}.values())
        contexts = self._join(parts)
        starts = dict(zip(map(id, parts), accumulate(map(len, parts), initial=0), strict=False))
        shifted = []
        for job in jobs:
            start = starts[id(job.state.contexts)]
            rows = tuple(start + context for context in job.state.context_of_row)
            shifted.append(replace(job.state, contexts=contexts, context_of_row=rows))
        seeds = [seed for job in jobs for seed in _row_seeds(job)]
        actions = None if jobs[0].actions is None else torch.cat([job.actions for job in jobs])
        step, state = self.world.step(
            WorldState.cat(shifted),
            actions,
            sampling=Sampling(seed=seeds, **jobs[0].options),
            outputs=jobs[0].outputs,
            horizon_policy=jobs[0].horizon_policy,
        )
        self._on_batch(state.batch_size)
        results, start = [], 0
        for job in jobs:
            rows = range(start, start + job.state.batch_size)
            start = rows.stop
            if state.contexts is contexts:
                kept = {"contexts": job.state.contexts, "context_of_row": job.state.context_of_row}
                own_state = replace(state.select_rows(rows), **kept)
            else:  # some were re-anchored
                own_state = state.index(list(rows))
            results.append((_rows_of(step, rows), own_state))
        return results

    def _join(self, parts: Sequence[Contexts]) -> Contexts:
        """All contexts as one; it holds on to the parts, so that they can be recognised."""
        before = self._joined
        if before is None or len(before[0]) != len(parts) or any(map(is_not, before[0], parts)):
            self._joined = before = (tuple(parts), Contexts.cat(parts))
        return before[1]


def _finish(job: StepJob | OtherJob, call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def _row_seeds(job: StepJob) -> list[int]:
    """One seed per row, as `Sampling` takes what the job has."""
    return Sampling(seed=job.seed).row_seeds(job.state.batch_size, torch.device("cpu")).tolist()


def _rows_of(step: Step, rows: range) -> Step:
    part = slice(rows.start, rows.stop)
    return Step(
        frame=None if step.frame is None else step.frame[part],
        reward=None if step.reward is None else step.reward[part],
        tokens=step.tokens[part],
        log_prob=step.log_prob[part],
    )
