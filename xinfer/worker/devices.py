"""The worker's devices while it runs: looked at again and again, in a thread, because drivers may take seconds."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.errors import describe
from xinfer.worker.enforce.base import held
from xinfer.worker.enforce.means import NOTHING, Means, read_means
from xinfer.worker.inventory.base import MIB, DeviceReading, InventoryReading, read_inventory
from xinfer.worker.inventory.monitor import DeviceMonitor
from xinfer.worker.inventory.watch import (
    DeviceAdded,
    DeviceChanged,
    DeviceEvent,
    DeviceHealthy,
    DeviceLost,
    DeviceReturned,
    DeviceUnhealthy,
    ForeignMemoryChanged,
)

log = logging.getLogger(__name__)

CPU = "cpu"
_one_at_a_time = threading.Lock()
"""The sources are one for the whole process and not for several threads; workers may be several."""


@dataclass(frozen=True)
class Tenant:
    """A process of ours and what was given to it. Its children are in its process group, which bears its pid."""

    replica_id: str
    pid: int
    slices: tuple[DeviceSlice, ...]


@dataclass(frozen=True)
class Look:
    """The devices at one moment."""

    devices: tuple[Device, ...]
    """As the books should have them: a lost device stays, not healthy."""
    uses: tuple[DeviceUse, ...] = ()
    means: Means = NOTHING


class DeviceWatch:
    """Looks at the devices, and logs what happened since the last time."""

    def __init__(self, read: Callable[[], Mapping[str, InventoryReading]] = read_inventory) -> None:
        self._read = read
        self._latest: Mapping[str, InventoryReading] = {}
        self._monitor = DeviceMonitor(lambda: self._latest)
        self._reasons: Mapping[str, str] = {}

    def look(self, tenants: Iterable[Tenant] = ()) -> Look:
        """Look now. Talks to drivers and may take seconds: call it in a thread, once at a time.

        Raises:
            OSError: the operating system does not say what it should.
        """
        tenants = tuple(tenants)
        with _one_at_a_time:
            self._latest = self._read()
        means = read_means()
        readings = [reading for source in self._latest.values() for reading in source.devices]
        used = used_by_replicas(readings, tenants, group_of, resident_mib(tenants))
        snapshot = self._monitor.refresh(ours_mib(readings, tenants, used))
        for warning in snapshot.warnings:
            log.warning("%s", warning)
        for source, reason in snapshot.reasons.items():
            if self._reasons.get(source) != reason:
                log.info("%s: no devices: %s", source, reason)
        self._reasons = snapshot.reasons
        for event in snapshot.events:
            _log_event(event)
        uses = tuple(
            DeviceUse(
                device_id=reading.device.device_id,
                used_mib=reading.used_mib,
                free_mib=reading.free_mib,
                by_replica=used.get(reading.device.device_id, {}),
                hold=held(reading.device, means),
            )
            for reading in snapshot.readings
        )
        return Look(snapshot.devices, uses, means)


async def watch_devices(
    watch: DeviceWatch, period_s: float, tenants: Callable[[], Iterable[Tenant]], take: Callable[[Look], None]
) -> None:
    """Look every ``period_s`` seconds, and hand over what was seen, until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        try:
            take(await asyncio.to_thread(watch.look, tuple(tenants())))
        except OSError as error:
            log.warning("the devices could not be read: %s", describe(error))


def used_by_replicas(
    readings: Iterable[DeviceReading],
    tenants: Iterable[Tenant],
    group: Callable[[int], int | None],
    resident: Mapping[str, int],
) -> dict[str, dict[str, int]]:
    """MiB by device and replica, as far as that can be told.

    Args:
        readings: what the sources saw.
        tenants: our processes.
        group: the process group of a pid; None: there is no such process.
        resident: MiB of main memory by replica.
    """
    replicas = {tenant.pid: tenant.replica_id for tenant in tenants}
    used: dict[str, dict[str, int]] = {}
    for reading in readings:
        device_id = reading.device.device_id
        if reading.device.kind == CPU:
            used[device_id] = dict(resident)
            continue
        of_device = used.setdefault(device_id, {})
        for pid, mib in reading.used_by_pid.items():
            replica = replicas.get(group(pid) or 0)
            if replica is not None:
                of_device[replica] = of_device.get(replica, 0) + mib
    return used


def ours_mib(
    readings: Iterable[DeviceReading], tenants: Iterable[Tenant], used: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    """MiB that are ours, by device. Where nobody tells processes apart, all that we have booked counts as ours."""
    booked: dict[str, int] = {}
    for piece in (piece for tenant in tenants for piece in tenant.slices):
        booked[piece.device_id] = booked.get(piece.device_id, 0) + piece.memory_mib
    ours = {}
    for reading in readings:
        device_id = reading.device.device_id
        told = used.get(device_id)
        ours[device_id] = sum(told.values()) if told else min(booked.get(device_id, 0), reading.used_mib or 0)
    return ours


def group_of(pid: int) -> int | None:
    """The process group of a process; None: there is no such process."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def resident_mib(tenants: Iterable[Tenant]) -> dict[str, int]:
    """MiB of main memory that each replica has with all its processes."""
    replicas = {tenant.pid: tenant.replica_id for tenant in tenants}
    found: dict[str, int] = {}
    for pid in psutil.pids() if replicas else ():
        replica = replicas.get(group_of(pid) or 0)
        if replica is not None:
            with contextlib.suppress(psutil.Error):  # it has just ended
                found[replica] = found.get(replica, 0) + psutil.Process(pid).memory_info().rss
    return {replica: size // MIB for replica, size in found.items()}


def _log_event(event: DeviceEvent) -> None:
    match event:
        case DeviceLost(device_id, reason):
            log.error("device %s is lost: %s", device_id, reason)
        case DeviceUnhealthy(device_id, reason):
            log.error("device %s takes nothing new: %s", device_id, reason)
        case DeviceHealthy(device_id):
            log.warning("device %s can be used again", device_id)
        case DeviceReturned(device):
            log.warning("device %s is back", device.device_id)
        case DeviceAdded(device):
            log.info("device %s: %s, %d MiB", device.device_id, device.name or device.kind, device.memory_mib)
        case DeviceChanged(device):
            log.warning("device %s is another now: %d MiB", device.device_id, device.memory_mib)
        case ForeignMemoryChanged(device_id, foreign_mib, free_mib):
            # Everybody uses main memory, all the time; on a card it is worth to know.
            level = logging.DEBUG if device_id == CPU else logging.WARNING
            log.log(level, "others use %d MiB of device %s; %d MiB are free", foreign_mib, device_id, free_mib)
