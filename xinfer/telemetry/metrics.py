"""What a gateway measures, in Prometheus' format. The model label only takes names that are deployed."""

import functools
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from xinfer.telemetry.devices import ClusterCollector, ClusterSample

ReplicaLoad: TypeAlias = tuple[str, int, int]
"""(replica_id, requests running, requests queued)"""

SHARED_DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Set before this module is imported, it names the folder in which several gateways keep one set of counters."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The boundaries of the OpenTelemetry GenAI conventions, with longer ones for long prompts, in seconds.
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_BYTE_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)


class GatewayMetrics:
    """Requests by operation, model and status; durations in seconds.

    ``shared``: the counters are those of all gateways of the port, because a scrape reaches any of them.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self.registry = CollectorRegistry()
        labels = ("op", "model")
        self._requests = Counter(
            "xinfer_requests_total", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self._fallbacks = Counter(
            "xinfer_fallbacks_total", "Requests given to another model.", ("model", "fallback"), registry=self.registry
        )
        self._duration = Histogram(
            "xinfer_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            labels,
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "xinfer_time_to_first_byte_seconds",
            "From the request's first byte to the first of a streamed answer.",
            labels,
            buckets=FIRST_BYTE_BUCKETS,
            registry=self.registry,
        )
        # A labelled child costs a lock and a dictionary look-up each time; the hot path keeps them.
        self._duration_of = functools.lru_cache(1024)(self._duration.labels)
        self._first_byte_of = functools.lru_cache(1024)(self._first_byte.labels)
        self._requests_of = functools.lru_cache(4096)(self._requests.labels)

    def finished(self, op: str, model: str, status: int, seconds: float) -> None:
        """A request has its whole answer."""
        self._requests_of(op, model, str(status)).inc()
        self._duration_of(op, model).observe(seconds)

    def fell_back(self, model: str, other: str) -> None:
        """A request for a model is given to the one that stands in for it."""
        self._fallbacks.labels(model, other).inc()

    def first_byte(self, op: str, model: str, seconds: float) -> None:
        """A streamed answer begins."""
        self._first_byte_of(op, model).observe(seconds)

    def exposition(self, loads: Sequence[ReplicaLoad], cluster: ClusterSample | None = None) -> bytes:
        """All of it as text, with the ``loads`` of the replicas now, and what is known of the cluster's devices."""
        registry = self.registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
        now = CollectorRegistry()
        now.register(_Loads(loads))
        if cluster is not None:
            now.register(ClusterCollector(cluster))
        return generate_latest(registry) + generate_latest(now)


class _Loads(Collector):
    """Read at each scrape, not kept: a replica that is gone leaves no series behind."""

    def __init__(self, loads: Sequence[ReplicaLoad]) -> None:
        self._loads = loads

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        running = GaugeMetricFamily(
            "xinfer_replica_requests_running", "Requests the engine works on.", labels=["replica"]
        )
        queued = GaugeMetricFamily(
            "xinfer_replica_requests_queued", "Requests that wait in the engine.", labels=["replica"]
        )
        for replica, busy, waiting in self._loads:
            running.add_metric([replica], busy)
            queued.add_metric([replica], waiting)
        return running, queued
