"""The book of one worker at one moment: its devices, and everything that is committed on them.

What a device itself reports as free counts too, as it does in the worker's own book.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xinfer.devices import DeviceSlice
from xinfer.slices.rooms import LateRooms, Rooms, Totals
from xinfer.spec import ReplicaState
from xinfer.supervisor.readings import CPU
from xinfer.supervisor.records import WorkerRecord


class Tenant(NamedTuple):
    """A replica that takes a part of a worker's devices."""

    model_uid: str
    replica_id: str
    """Empty: it was planned just now."""
    slices: tuple[DeviceSlice, ...]
    state: ReplicaState = ReplicaState.PENDING

    @property
    def given_up(self) -> bool:
        """Its slices are kept for it, and not used."""
        return self.state is ReplicaState.FAILED

    @property
    def runs(self) -> bool:
        """It has a process, which uses memory."""
        return not self.state.is_final and self.state is not ReplicaState.PENDING


@dataclass(slots=True)
class Entries:
    """Who has a part of a worker's devices."""

    committed: list[Tenant] = field(default_factory=list)
    leaving: list[Tenant] = field(default_factory=list)
    """Those that have no place any more and still run."""
    count_leaving: bool = True
    """Whether what those have is taken; else it is as good as free."""
    cordoned: set[str] = field(default_factory=set)
    """Devices that take nothing new; an empty id: all."""

    @property
    def counted(self) -> Sequence[Tenant]:
        """Those whose parts are taken."""
        return (*self.committed, *self.leaving) if self.count_leaving else self.committed


def open_rooms(worker: WorkerRecord, entries: Entries, *, on_cpu: bool) -> Rooms:
    """The CPU or the accelerators of a worker; made when somebody looks at them, for there may be thousands."""
    return LateRooms(
        functools.partial(_made, worker, entries, on_cpu),
        _totals(worker, entries, on_cpu=on_cpu),
        worker_id=worker.worker_id,
        name=worker.hello.name,
    )


def _made(worker: WorkerRecord, entries: Entries, on_cpu: bool) -> Rooms:
    made = Rooms(device for device in worker.hello.devices if (device.kind == CPU) == on_cpu)
    running = (tenant for tenant in (*entries.committed, *entries.leaving) if tenant.runs)
    used = worker.readings.used_by(_reserved(running))
    made.report(_free(worker.readings.free_mib, used, entries.counted))
    for tenant in entries.committed:
        made.take(tenant.slices, _observed(tenant, used))
    if entries.count_leaving:
        for tenant in entries.leaving:
            made.hold(tenant.slices)
    for device_id in made.by_id:
        made.cordon(device_id, not entries.cordoned.isdisjoint(("", device_id)))
    return made


def _totals(worker: WorkerRecord, entries: Entries, *, on_cpu: bool) -> Totals:
    """The sums of the rooms as they will be."""
    size = worker.sizes[on_cpu]
    sums = Totals(slots=size.slots, cores=size.cores, mib=size.mib)
    for tenant in entries.counted:
        for piece in tenant.slices:
            device = worker.devices.get(piece.device_id)
            if device is not None and (device.kind == CPU) == on_cpu:
                sums.used_mib += piece.memory_mib
    for tenant in entries.committed:
        for piece in tenant.slices:
            device = worker.devices.get(piece.device_id)
            if device is not None and (device.kind == CPU) == on_cpu:
                sums.used_cores += piece.cores_percent
                sums.used_slots += bool(device.slots)
    return sums


def _free(
    free_mib: Mapping[str, int], used: Mapping[str, Mapping[str, int]], counted: Iterable[Tenant]
) -> Mapping[str, int]:
    """What devices report as free, with what is used by replicas that are not counted: that comes back."""
    if not used:
        return free_mib
    names = {(piece.device_id, tenant.replica_id) for tenant in counted for piece in tenant.slices}
    return dict(free_mib) | {
        device_id: free_mib[device_id] + sum(mib for name, mib in of.items() if (device_id, name) not in names)
        for device_id, of in used.items()
    }


def _reserved(tenants: Iterable[Tenant]) -> dict[str, dict[str, int]]:
    """MiB by device and replica."""
    reserved: dict[str, dict[str, int]] = {}
    for tenant in tenants:
        for piece in tenant.slices:
            of_device = reserved.setdefault(piece.device_id, {})
            of_device[tenant.replica_id] = of_device.get(tenant.replica_id, 0) + piece.memory_mib
    return reserved


def _observed(tenant: Tenant, used: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """By device, what a replica has filled of its slices already; one that does not run will not fill them."""
    if tenant.given_up:
        return {piece.device_id: piece.memory_mib for piece in tenant.slices}
    return {
        piece.device_id: used[piece.device_id].get(tenant.replica_id, 0)
        for piece in tenant.slices
        if piece.device_id in used
    }
