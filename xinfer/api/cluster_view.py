"""The cluster as the supervisor last described it, for scrapes: they do not wait, and old values say more than none."""

import asyncio
import time
from collections.abc import Iterable

from xinfer.api.control import Supervisor
from xinfer.errors import XinferError
from xinfer.protocol import ClusterInfo, WorkerInfo
from xinfer.slices.tally import DeviceTally, fragmentation, tallies
from xinfer.telemetry.devices import ClusterSample, DeviceSample, SliceSample, WorkerSample

PATIENCE_S = 1.0
"""A scrape waits so long for the supervisor."""


class ClusterView:
    """What one gateway knows of the cluster, and since when."""

    def __init__(self) -> None:
        self._info: ClusterInfo | None = None
        self._seen_at = 0.0

    async def sample(self, supervisor: Supervisor) -> ClusterSample | None:
        """The cluster now; while the supervisor is away as it last was. None: it has never been heard of."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._info = await supervisor.call("info", timeout_s=PATIENCE_S)
            self._seen_at = time.monotonic()
        except (XinferError, TimeoutError):
            pass  # the age of what is known says so
        if self._info is None:
            return None
        return cluster_sample(self._info, time.monotonic() - self._seen_at)


def cluster_sample(info: ClusterInfo, age_s: float) -> ClusterSample:
    """The numbers of a cluster. Of a lost worker only that it is lost: nobody knows what its devices do."""
    seen = [(worker, tallies(worker)) for worker in info.workers if worker.alive]
    everything = [tally for _, devices in seen for tally in devices]
    lost = [WorkerSample(labels=_worker_labels(worker), alive=False) for worker in info.workers if not worker.alive]
    return ClusterSample(
        age_s=age_s,
        workers=[
            *(
                WorkerSample(labels=_worker_labels(worker), alive=True, fragmentation=_by_kind(devices))
                for worker, devices in seen
            ),
            *lost,
        ],
        devices=[_device_sample(worker, tally) for worker, devices in seen for tally in devices],
        slices=[sample for worker, devices in seen for tally in devices for sample in _slice_samples(worker, tally)],
        fragmentation=_by_kind(everything),
        rejects=info.rejects,
    )


def _device_sample(worker: WorkerInfo, tally: DeviceTally) -> DeviceSample:
    return DeviceSample(
        labels=_device_labels(worker, tally),
        limit_mib=tally.capacity_mib,
        allocated_mib=tally.reserved_mib,
        used_mib=tally.use.used_mib if tally.use else None,
        others_mib=tally.others_mib,
        cores_allocated=tally.reserved_cores,
        shared_count=len(tally.slices),
        healthy=tally.device.healthy,
        cordoned=tally.cordoned,
    )


def _slice_samples(worker: WorkerInfo, tally: DeviceTally) -> Iterable[SliceSample]:
    for one in tally.slices:
        yield SliceSample(
            labels=(one.replica.model_uid, one.replica.replica_id, *_device_labels(worker, tally)),
            allocated_mib=one.piece.memory_mib,
            used_mib=one.used_mib,
            cores_allocated=one.piece.cores_percent,
        )


def _by_kind(devices: Iterable[DeviceTally]) -> dict[str, float]:
    """CPUs and accelerators apart: nothing fits partly on the one and partly on the other."""
    kinds: dict[str, list[DeviceTally]] = {}
    for tally in devices:
        kinds.setdefault("cpu" if tally.device.kind == "cpu" else "accelerator", []).append(tally)
    return {kind: fragmentation(those) for kind, those in kinds.items()}


def _worker_labels(worker: WorkerInfo) -> tuple[str, ...]:
    return (worker.hello.name, worker.hello.node or worker.hello.name)


def _device_labels(worker: WorkerInfo, tally: DeviceTally) -> tuple[str, ...]:
    device = tally.device
    return (
        *_worker_labels(worker),
        device.parent_uuid or device.uuid,
        str(device.index),
        device.name or device.kind,
        device.device_id,
    )
