"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from kit.serving.pool import Pool
    from kit.serving.replica import Replica

_SECONDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


class Metrics:
    """What the front counts; each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.opened = Counter("kit_streams_opened", "Streams that began", ["kind"], registry=self.registry)
        self.ended = Counter("kit_streams_ended", "Streams that ended, by how", ["how"], registry=self.registry)
        self.refused = Counter("kit_refused", "Clients that were refused, by code", ["code"], registry=self.registry)
        self.audio = Counter("kit_audio_seconds", "Seconds of audio that were heard", registry=self.registry)
        self.restarts = Counter(
            "kit_engine_restarts", "Engines that were started again", ["engine"], registry=self.registry
        )
        self.latency = Histogram(
            "kit_event_latency_seconds",
            "Seconds from when the audio came, or its end was asked for, to the event",
            ["event"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        ProcessCollector(namespace="kit_front", registry=self.registry)

    def watch(self, pool: Pool) -> None:
        """Tell of a pool's engines, too."""
        self.registry.register(_Engines(pool))
        for replica in pool.replicas:
            name = f"kit_engine{replica.index}"
            ProcessCollector(namespace=name, pid=partial(_pid, replica), registry=self.registry)


def _pid(replica: Replica) -> int:
    return replica.process.pid if replica.process else -1


class _Engines:
    """What is true of the engines when it is asked for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client wants it."""
        streams = GaugeMetricFamily("kit_streams", "Streams that are open", labels=["engine"])
        ready = GaugeMetricFamily("kit_engine_ready", "Whether an engine takes streams", labels=["engine"])
        late = GaugeMetricFamily("kit_engine_step_seconds", "What a step takes on average", labels=["engine"])
        for replica in self._pool.replicas:
            label = [str(replica.index)]
            streams.add_metric(label, len(replica.streams))
            ready.add_metric(label, replica.ready)
            late.add_metric(label, replica.late)
        return [streams, ready, late]
