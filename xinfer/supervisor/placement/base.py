"""What a placement policy is given, and what it answers. Policies are pure: same input, same answer.

To add one, write a module in this package that exposes ``POLICY`` with a ``name`` and ``place``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from xinfer.devices import Device, DeviceSlice, Placement

FULL = 100
"""Percent of the cores of one device."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica needs on each of ``devices`` devices of one worker: MiB, and percent of cores (0: no limit)."""

    devices: int
    memory_mib: int
    cores_percent: int = 0


@dataclass(slots=True)
class DeviceRoom:
    """A device and what is committed on it."""

    device: Device
    committed_mib: int = 0
    committed_cores: int = 0
    leaving_mib: int = 0
    """Held by replicas that are stopping; comes back soon."""
    replicas: int = 0

    @property
    def free_mib(self) -> int:
        """MiB that can be given now."""
        return self.device.memory_mib - self.committed_mib - self.leaving_mib

    @property
    def load(self) -> float:
        """The committed fraction of its memory."""
        return (self.committed_mib + self.leaving_mib) / max(1, self.device.memory_mib)

    def fits(self, need: Need) -> bool:
        """Whether one device's share of the need fits."""
        return need.memory_mib <= self.free_mib and need.cores_percent <= FULL - self.committed_cores


@dataclass(slots=True)
class WorkerRoom:
    """A worker that may run the replica, with those of its devices that the request allows."""

    worker_id: str
    name: str
    devices: list[DeviceRoom]


class PlacementPolicy(Protocol):
    """Chooses where one replica runs."""

    name: str

    def place(self, need: Need, workers: Sequence[WorkerRoom]) -> Placement | None:
        """A place where the need fits now, or None."""


def placement(worker: WorkerRoom, devices: Iterable[DeviceRoom], need: Need) -> Placement:
    """The slices of a choice."""
    slices = tuple(
        DeviceSlice(device_id=room.device.device_id, memory_mib=need.memory_mib, cores_percent=need.cores_percent)
        for room in devices
    )
    return Placement(worker_id=worker.worker_id, slices=slices)


def shortfalls(need: Need, workers: Sequence[WorkerRoom]) -> str:
    """Why the need fits nowhere: for every device, by how much it falls short."""
    return "; ".join(f"{worker.name}: {_shortfall(need, worker)}" for worker in workers)


def _shortfall(need: Need, worker: WorkerRoom) -> str:
    if len(worker.devices) < need.devices:
        return f"has {len(worker.devices)} suitable devices, {need.devices} are needed"
    return ", ".join(_lack(need, room) for room in worker.devices)


def _lack(need: Need, room: DeviceRoom) -> str:
    name = f"device {room.device.device_id}"
    missing_mib = need.memory_mib - room.free_mib
    if missing_mib > 0:
        leaving = f", {room.leaving_mib} MiB of stopping replicas come back soon" if room.leaving_mib else ""
        return (
            f"{name} falls short by {missing_mib} MiB ({room.free_mib} of {room.device.memory_mib} MiB free{leaving})"
        )
    missing_cores = need.cores_percent - (FULL - room.committed_cores)
    return f"{name} falls short by {missing_cores} % of its cores" if missing_cores > 0 else f"{name} has room"
