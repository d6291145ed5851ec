"""The worker's devices while it runs: looked at again and again, in a thread, because drivers may take seconds."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.errors import describe
from xinfer.processes import group_of
from xinfer.settings import Settings
from xinfer.worker.enforce.base import held
from xinfer.worker.enforce.hami_core import obstacle
from xinfer.worker.enforce.means import NOTHING, Means, read_means
from xinfer.worker.hami.region import NoRegion, read_region
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
    region: Path | None = None
    """Where HAMi-core counts what it uses, if it was started with that."""


@dataclass(frozen=True)
class Look:
    """The devices at one moment."""

    devices: tuple[Device, ...]
    """As the books should have them: a lost device stays, not healthy."""
    uses: tuple[DeviceUse, ...] = ()
    means: Means = NOTHING


class DeviceWatch:
    """Looks at the devices, and logs what happened since the last time."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, InventoryReading]] = read_inventory,
        *,
        settings: Settings | None = None,
        cgroups: bool = False,
    ) -> None:
        self._read = read
        self._settings = settings
        self._cgroups = cgroups
        self._latest: Mapping[str, InventoryReading] = {}
        self._monitor = DeviceMonitor(lambda: self._latest)
        self._reasons: Mapping[str, str] = {}
        self._without_core: Mapping[str, str | None] = {}

    def look(self, tenants: Iterable[Tenant] = ()) -> Look:
        """Look now. Talks to drivers and may take seconds: call it in a thread, once at a time.

        Raises:
            OSError: the operating system does not say what it should.
        """
        tenants = tuple(tenants)
        with _one_at_a_time:
            self._latest = self._read()
        shown = max((source.cards_shown for source in self._latest.values()), default=0)
        means = read_means(self._settings, cards=shown, cgroups=self._cgroups)
        readings = [reading for source in self._latest.values() for reading in source.devices]
        used = used_by_replicas(readings, tenants, group_of, resident_mib(tenants), used_in_regions(tenants))
        snapshot = self._monitor.refresh(ours_mib(readings, tenants, used))
        for warning in snapshot.warnings:
            log.warning("%s", warning)
        for source, reason in snapshot.reasons.items():
            if self._reasons.get(source) != reason:
                log.info("%s: no devices: %s", source, reason)
        self._reasons = snapshot.reasons
        for event in snapshot.events:
            _log_event(event)
        if self._settings is not None and self._settings.hami_core:
            self._say_where_it_is_not_used(snapshot.devices, means)
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

    def _say_where_it_is_not_used(self, devices: Iterable[Device], means: Means) -> None:
        """The operator gave us HAMi-core, and relies on it."""
        reasons = {device.device_id: obstacle(device, means) for device in devices if device.kind != CPU}
        for device_id, reason in reasons.items():
            if reason is not None and self._without_core.get(device_id) != reason:
                log.warning("HAMi-core does not hold replicas on device %s: %s", device_id, reason)
        self._without_core = reasons


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
    counted: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, dict[str, int]]:
    """MiB by device and replica, as far as that can be told.

    Args:
        readings: what the sources saw.
        tenants: our processes.
        group: the process group of a pid; None: there is no such process.
        resident: MiB of main memory by replica.
        counted: MiB by replica and UUID of the card, where HAMi-core counts; goes before what the source saw.
    """
    counted = counted or {}
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
        of_device |= {
            replica: cards[reading.device.uuid]
            for replica, cards in counted.items()
            if reading.device.uuid in cards and reading.device.source == "nvml"
        }
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


def resident_mib(tenants: Iterable[Tenant]) -> dict[str, int]:
    """MiB of main memory that each replica has with all its processes.

    What its processes share is counted once: as much as the one has that shares most. To know better, the kernel would
    have to walk through all their pages.
    """
    replicas = {tenant.pid: tenant.replica_id for tenant in tenants}
    found: dict[str, int] = {}
    for group, pids in processes_by_group(replicas).items():
        own, shared = 0, [0]
        for pid in pids:
            with contextlib.suppress(psutil.Error):  # it has just ended
                memory = psutil.Process(pid).memory_info()
                shared.append(getattr(memory, "shared", 0))  # only Linux tells
                own += memory.rss - shared[-1]
        found[replicas[group]] = (own + max(shared)) // MIB
    return found


def processes_by_group(groups: Collection[int]) -> dict[int, list[int]]:
    """The processes that are in each of these process groups now."""
    found: dict[int, list[int]] = {}
    for pid in psutil.pids() if groups else ():
        group = group_of(pid)
        if group in groups and group is not None:
            found.setdefault(group, []).append(pid)
    return found


def used_in_regions(tenants: Iterable[Tenant]) -> dict[str, dict[str, int]]:
    """MiB by replica and UUID of a card, of the replicas that HAMi-core counts for."""
    counted: dict[str, dict[str, int]] = {}
    for tenant in tenants:
        if tenant.region is None:
            continue
        with contextlib.suppress(NoRegion):  # it is made with the first use of a card
            region = read_region(tenant.region)
            counted[tenant.replica_id] = {
                device.uuid: region.used(position) // MIB for position, device in enumerate(region.devices)
            }
    return counted


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
