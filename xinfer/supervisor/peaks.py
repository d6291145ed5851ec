"""What replicas were seen to use at most, so that the next launch of the same need not be estimated. Pure.

A peak counts only where a device tells what each replica uses, of a replica that has served, and not of engines that
fill whatever they are given.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from xinfer.engines.base import EngineMemory
from xinfer.protocol import ReplicaStatus, WorkerHello, WorkerReport
from xinfer.spec import Deployment, Estimate, ReplicaState
from xinfer.supervisor import sizing

GROWTH = 1.02
"""A peak is noted anew when it grew by more than this factor: usage moves all the time, and every note is a write."""


class PeakKey(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be the same for a replica to need the same memory."""

    model: str
    """Its source, or its name where it has none."""
    format: str
    quantization: str
    engine: str
    context_length: int
    concurrency: int
    devices: int
    device_kind: str
    options: str = ""
    """The other options of the engine, as JSON: any of them may change what it needs."""


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The most that replicas of one kind were seen to use on one device, in MiB."""

    key: PeakKey
    mib: int


def peak_key(deployment: Deployment, memory: EngineMemory, device_kind: str) -> PeakKey:
    """Names the replicas that need as much as those of this deployment on such devices."""
    spec = deployment.spec
    wanted = sizing.demand(deployment, memory, on_cpu=device_kind == sizing.CPU)
    resolved = {*memory.context_options, *memory.concurrency_options}
    rest = {name: value for name, value in deployment.options.items() if name not in resolved}
    return PeakKey(
        model=spec.source or spec.name,
        format=spec.format,
        quantization=spec.quantization,
        engine=deployment.engine,
        context_length=wanted.context,
        concurrency=wanted.concurrency,
        devices=deployment.request.devices * deployment.request.workers,
        device_kind=device_kind,
        options=msgspec.json.encode(rest, order="deterministic").decode() if rest else "",
    )


class Peaks:
    """The peaks that are known, by what they are of."""

    def __init__(self, known: Iterable[Peak], memory_of: Callable[[str], EngineMemory]) -> None:
        """``known``: from the last time. ``memory_of``: what an engine declares, by its name."""
        self._mib = {peak.key: peak.mib for peak in known}
        self._memory_of = memory_of

    def estimates(self, deployment: Deployment) -> tuple[Estimate, ...]:
        """What a replica needs on CPUs and on accelerators, each with what was observed of its like."""
        memory = self._memory_of(deployment.engine)
        return tuple(
            sizing.estimate(deployment, memory, kind, self._mib.get(peak_key(deployment, memory, kind)))
            for kind in (sizing.CPU, sizing.ACCELERATOR)
        )

    def learn(
        self, hello: WorkerHello, report: WorkerReport, deployments: Mapping[str, Deployment]
    ) -> tuple[Peak, ...]:
        """Take in a worker's report; the peaks that are higher than what was known, which have to be written down.

        ``deployments`` are the desired ones by model_uid: a replica of an older revision tells nothing about them.
        """
        found = []
        for status in report.replicas:
            deployment = deployments.get(status.model_uid)
            if deployment is None or deployment.revision != status.revision:
                continue
            peak = self._peak(hello, report, status, deployment)
            if peak is not None and peak.mib > GROWTH * self._mib.get(peak.key, 0):
                self._mib[peak.key] = peak.mib
                found.append(peak)
        return tuple(found)

    def _peak(
        self, hello: WorkerHello, report: WorkerReport, status: ReplicaStatus, deployment: Deployment
    ) -> Peak | None:
        memory = self._memory_of(deployment.engine)
        if status.state is not ReplicaState.READY or not status.served or memory.fills_budget:
            return None
        used = {use.device_id: use.by_replica.get(status.replica_id) for use in report.uses}
        kinds = {device.device_id: device.kind for device in hello.devices}
        told = [used.get(piece.device_id) for piece in status.slices]
        on = {kinds.get(piece.device_id) for piece in status.slices}
        if not told or None in told or None in on:
            return None
        kind = sizing.CPU if on == {sizing.CPU} else sizing.ACCELERATOR
        return Peak(key=peak_key(deployment, memory, kind), mib=max(mib for mib in told if mib is not None))


def memory_of_engines(engines: Mapping[str, Any]) -> Callable[[str], EngineMemory]:
    """Looks up what an engine declares; one that is not known here, or says nothing, gets the defaults."""
    return lambda name: getattr(engines.get(name), "memory", EngineMemory())
