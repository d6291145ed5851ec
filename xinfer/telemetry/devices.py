"""The devices of a cluster and their slices as Prometheus metrics, with labels that join them with HAMi's.

Read at each scrape and not kept: what is gone leaves no series behind. Sizes in bytes; cores in percent of a device,
0 to 100, because HAMi calls that a ratio too. What nobody can tell has no sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

MIB = 1024 * 1024
Value: TypeAlias = float | None

DEVICE_LABELS = ("worker", "node", "device_uuid", "device_index", "device_type", "device_id")
SLICE_LABELS = ("model", "replica", *DEVICE_LABELS)
WORKER_LABELS = ("worker", "node")


@dataclass(frozen=True, kw_only=True)
class DeviceSample:
    """One device; ``labels`` in the order of DEVICE_LABELS, memory in MiB."""

    labels: tuple[str, ...]
    limit_mib: int
    allocated_mib: int
    used_mib: int | None
    others_mib: int | None
    cores_allocated: int
    shared_count: int
    healthy: bool
    cordoned: bool


@dataclass(frozen=True, kw_only=True)
class SliceSample:
    """What one replica has of a device; ``labels`` in the order of SLICE_LABELS, memory in MiB."""

    labels: tuple[str, ...]
    allocated_mib: int
    used_mib: int | None
    cores_allocated: int


@dataclass(frozen=True, kw_only=True)
class WorkerSample:
    """One worker; ``labels`` in the order of WORKER_LABELS."""

    labels: tuple[str, ...]
    alive: bool
    fragmentation: Mapping[str, float] = field(default_factory=dict)
    """0..1, by kind of device."""


@dataclass(frozen=True, kw_only=True)
class ClusterSample:
    """The cluster as the supervisor last described it, ``age_s`` seconds ago."""

    age_s: float
    workers: Sequence[WorkerSample] = ()
    devices: Sequence[DeviceSample] = ()
    slices: Sequence[SliceSample] = ()
    fragmentation: Mapping[str, float] = field(default_factory=dict)
    """0..1, by kind of device."""
    rejects: Mapping[str, int] = field(default_factory=dict)
    """By reason."""


class ClusterCollector(Collector):
    """The metrics of one moment."""

    def __init__(self, cluster: ClusterSample) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Metric]:
        """All families; one without samples still says that it exists."""
        cluster = self._cluster
        yield _gauge(
            "xinfer_supervisor_age_seconds",
            "Since the supervisor last described the cluster; it is away when this grows.",
            (),
            [((), cluster.age_s)],
        )
        yield from _of_workers(cluster)
        yield from _of_devices(cluster.devices)
        yield from _of_slices(cluster.slices)
        rejects = CounterMetricFamily(
            "xinfer_placement_rejects",
            "Launches and scalings that were refused for lack of room, by each reason that stood against a device.",
            labels=("reason",),
        )
        for reason, count in sorted(cluster.rejects.items()):
            rejects.add_metric([reason], count)
        yield rejects


def _of_workers(cluster: ClusterSample) -> Iterable[Metric]:
    yield _gauge(
        "xinfer_worker_alive",
        "1 while the supervisor hears of the worker.",
        WORKER_LABELS,
        [(one.labels, one.alive) for one in cluster.workers],
    )
    yield _gauge(
        "xinfer_worker_memory_fragmentation_ratio",
        "Share (0 to 1) of the worker's free memory that is not in the largest free piece.",
        (*WORKER_LABELS, "device_kind"),
        [((*one.labels, kind), ratio) for one in cluster.workers for kind, ratio in sorted(one.fragmentation.items())],
    )
    yield _gauge(
        "xinfer_cluster_memory_fragmentation_ratio",
        "The same over the devices of all living workers.",
        ("device_kind",),
        [((kind,), ratio) for kind, ratio in sorted(cluster.fragmentation.items())],
    )


def _of_devices(devices: Sequence[DeviceSample]) -> Iterable[Metric]:
    def family(name: str, text: str, values: Iterable[Value]) -> Metric:
        pairs = zip((one.labels for one in devices), values, strict=True)
        return _gauge(f"xinfer_device_{name}", text, DEVICE_LABELS, pairs)

    yield family(
        "memory_limit_bytes", "What of the device may be given away.", [_bytes(one.limit_mib) for one in devices]
    )
    yield family(
        "memory_allocated_bytes",
        "Reserved by replicas, whether or not they use it.",
        [_bytes(one.allocated_mib) for one in devices],
    )
    yield family(
        "memory_used_bytes",
        "Used by everybody on it, as the device reports.",
        [_bytes(one.used_mib) for one in devices],
    )
    yield family(
        "memory_foreign_bytes",
        "Used by processes that are no replicas.",
        [_bytes(one.others_mib) for one in devices],
    )
    yield family(
        "cores_allocated_ratio",
        "Percent of its cores that replicas have claimed, 0 to 100.",
        [one.cores_allocated for one in devices],
    )
    yield family("shared_count", "Replicas that have a slice of it.", [one.shared_count for one in devices])
    yield family("healthy", "0 when it is lost or faulty.", [one.healthy for one in devices])
    yield family("cordoned", "1 when it takes no new replicas.", [one.cordoned for one in devices])


def _of_slices(slices: Sequence[SliceSample]) -> Iterable[Metric]:
    def family(name: str, text: str, values: Iterable[Value]) -> Metric:
        pairs = zip((one.labels for one in slices), values, strict=True)
        return _gauge(f"xinfer_slice_{name}", text, SLICE_LABELS, pairs)

    yield family(
        "memory_allocated_bytes", "The replica's slice of the device.", [_bytes(one.allocated_mib) for one in slices]
    )
    yield family("memory_used_bytes", "What the replica uses of the device.", [_bytes(one.used_mib) for one in slices])
    yield family(
        "cores_allocated_ratio",
        "Percent of the device's cores that the replica has claimed, 0 to 100; 0: no claim and no limit.",
        [one.cores_allocated for one in slices],
    )


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], Value]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _bytes(mib: int | None) -> Value:
    return None if mib is None else mib * MIB
