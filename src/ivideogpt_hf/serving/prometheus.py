"""Counts and times of a server, for Prometheus."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batching import Batcher
from .sessions import Sessions

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """Counts and times of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram("ivideogpt_call_seconds", "time to answer a call", ["call"], registry=self._registry)
        self._rows = Histogram(
            "ivideogpt_batch_rows", "worlds stepped together", buckets=BATCH_ROWS, registry=self._registry
        )
        self._refused = Counter("ivideogpt_refused", "calls refused", ["status"], registry=self._registry)

    def watch(self, sessions: Sessions, batcher: Batcher) -> None:
        """Add the numbers of sessions, states and waiting calls, which are read whenever Prometheus asks."""
        for name, text, value in (
            ("ivideogpt_sessions", "open sessions", lambda: len(sessions)),
            ("ivideogpt_states", "states kept for clients", lambda: sessions.num_states),
            ("ivideogpt_waiting", "calls that wait for the model", lambda: batcher.num_waiting),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def time(self, call: str) -> AbstractContextManager[None]:
        """Count a call and measure its time, around a block."""
        return self._seconds.labels(call).time()

    def note_batch(self, num_rows: int) -> None:
        """Count a batch of worlds that were stepped together."""
        self._rows.observe(num_rows)

    def note_refused(self, status: int) -> None:
        """Count a call that was refused."""
        self._refused.labels(str(status)).inc()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
