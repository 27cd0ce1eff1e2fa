"""Counts and times of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

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


class _Merged(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(texts: Sequence[str | None]) -> bytes:
    """The metrics of several servers as one text, each with the label "replica", and which of them answered.

    Args:
        texts: what each server rendered, in the order of their numbers; None where one did not answer.
    """
    up = GaugeMetricFamily("ivideogpt_replica_up", "whether the replica answers", labels=["replica"])
    families: dict[str, Metric] = {up.name: up}
    for number, text in enumerate(texts):
        up.add_metric([str(number)], text is not None)
        for family in text_string_to_metric_families(text or ""):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            labels = {"replica": str(number)}
            whole.samples += [sample._replace(labels=labels | sample.labels) for sample in family.samples]
    registry = CollectorRegistry()
    registry.register(_Merged(families.values()))
    return generate_latest(registry)
