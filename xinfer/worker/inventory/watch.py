"""From one look at the devices to the next: what happened. Pure; the caller reads the devices and the clock.

Bad news is believed at once where the source is certain, or when it repeats; good news only when it lasts. So a call
that fails once moves nobody, and a device that comes and goes does not take models with it each time it comes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from xinfer.devices import Device
from xinfer.worker.inventory.base import DeviceReading

FAILURES_TO_BELIEVE = 3
"""Readings in a row that miss a device, or find it faulty, without being certain."""
SUCCESSES_TO_BELIEVE = 2
"""Readings in a row that find it well again, or show less foreign memory."""
FOREIGN_STEP_MIB = 256
"""Smaller changes of what others use are noise (or 1 % of the device, if that is more)."""


@dataclass(frozen=True)
class DeviceAdded:
    """A device that was not there before."""

    device: Device


@dataclass(frozen=True)
class DeviceLost:
    """A device is gone; what ran on it has failed, or will."""

    device_id: str
    reason: str


@dataclass(frozen=True)
class DeviceReturned:
    """A lost device is back, and empty."""

    device: Device


@dataclass(frozen=True)
class DeviceUnhealthy:
    """A device is there, but nothing new may start on it."""

    device_id: str
    reason: str


@dataclass(frozen=True)
class DeviceHealthy:
    """An unhealthy device can be used again."""

    device_id: str


@dataclass(frozen=True)
class DeviceChanged:
    """Its size, its limits or who enforces them are others now."""

    device: Device


@dataclass(frozen=True)
class ForeignMemoryChanged:
    """Somebody who is none of us uses more, or less, of a device. ``free_mib``: what it reports as free now."""

    device_id: str
    foreign_mib: int
    free_mib: int


DeviceEvent = (
    DeviceAdded | DeviceLost | DeviceReturned | DeviceUnhealthy | DeviceHealthy | DeviceChanged | ForeignMemoryChanged
)


@dataclass(frozen=True)
class WatchedDevice:
    """What is believed of a device, and for how many readings in a row they said otherwise."""

    device: Device
    lost: bool = False
    failures: int = 0
    successes: int = 0
    foreign_mib: int = 0
    lower_foreign: int = 0


@dataclass(frozen=True)
class Watched:
    """What is believed of all devices, the lost ones too, by device id."""

    by_id: Mapping[str, WatchedDevice] = field(default_factory=dict)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device as the books should have it; a lost one is not healthy."""
        return tuple(watched.device for watched in self.by_id.values())


def watch(
    before: Watched, readings: Iterable[DeviceReading], ours_mib: Mapping[str, int] | None = None
) -> tuple[Watched, tuple[DeviceEvent, ...]]:
    """Take one more reading of all devices: what is believed now, and what happened.

    Args:
        before: what the previous call returned; ``Watched()`` for the first.
        readings: the devices that are there now.
        ours_mib: MiB that our own replicas use, by device id; the rest of what is used is foreign.
    """
    found = {reading.device.device_id: reading for reading in readings}
    events: list[DeviceEvent] = []
    after: dict[str, WatchedDevice] = {}
    for device_id, watched in before.by_id.items():
        reading = found.pop(device_id, None)
        after[device_id] = _missed(watched, events) if reading is None else _seen(watched, reading, events)
        if reading is not None and not after[device_id].lost:
            after[device_id] = _foreign(after[device_id], reading, (ours_mib or {}).get(device_id, 0), events)
    for device_id, reading in found.items():
        events.append(DeviceAdded(reading.device))
        new = WatchedDevice(reading.device, lost=reading.lost)
        after[device_id] = _foreign(new, reading, (ours_mib or {}).get(device_id, 0), events)
    return Watched(after), tuple(events)


def _missed(watched: WatchedDevice, events: list[DeviceEvent]) -> WatchedDevice:
    if watched.lost:
        return replace(watched, successes=0)
    failures = watched.failures + 1
    if failures < FAILURES_TO_BELIEVE:
        return replace(watched, failures=failures, successes=0)
    return _lose(watched, "it is not there any more", events)


def _lose(watched: WatchedDevice, reason: str, events: list[DeviceEvent]) -> WatchedDevice:
    events.append(DeviceLost(watched.device.device_id, reason))
    return WatchedDevice(_with_health(watched.device, reason), lost=True)


def _seen(watched: WatchedDevice, reading: DeviceReading, events: list[DeviceEvent]) -> WatchedDevice:
    if reading.lost:
        return replace(watched, successes=0) if watched.lost else _lose(watched, reading.device.health_reason, events)
    if not reading.device.healthy:
        return _faulty(watched, reading, events)
    if watched.device.healthy:
        if _facts(watched.device) != _facts(reading.device):
            events.append(DeviceChanged(reading.device))
        return replace(watched, device=reading.device, failures=0)
    successes = watched.successes + 1
    if successes < SUCCESSES_TO_BELIEVE:
        return replace(watched, failures=0, successes=successes)
    if watched.lost:
        events.append(DeviceReturned(reading.device))
    else:
        events.append(DeviceHealthy(reading.device.device_id))
        if _facts(watched.device) != _facts(reading.device):
            events.append(DeviceChanged(reading.device))
    return WatchedDevice(reading.device, foreign_mib=watched.foreign_mib)


def _faulty(watched: WatchedDevice, reading: DeviceReading, events: list[DeviceEvent]) -> WatchedDevice:
    """A device that answers and says that it is broken, or does not answer a call."""
    reason = reading.device.health_reason
    failures = watched.failures + 1
    if watched.lost or not watched.device.healthy:
        return replace(watched, failures=0, successes=0)
    if not reading.certain and failures < FAILURES_TO_BELIEVE:
        return replace(watched, failures=failures, successes=0)
    events.append(DeviceUnhealthy(reading.device.device_id, reason))
    return replace(watched, device=_with_health(watched.device, reason), failures=0, successes=0)


def _foreign(watched: WatchedDevice, reading: DeviceReading, ours_mib: int, events: list[DeviceEvent]) -> WatchedDevice:
    """More foreign memory counts at once, for it may not be given away; less only when it lasts."""
    if reading.used_mib is None or reading.free_mib is None:
        return watched
    foreign = max(0, reading.used_mib - ours_mib)
    step = max(FOREIGN_STEP_MIB, watched.device.memory_mib // 100)
    if abs(foreign - watched.foreign_mib) < step:
        return replace(watched, lower_foreign=0)
    if foreign < watched.foreign_mib and watched.lower_foreign + 1 < SUCCESSES_TO_BELIEVE:
        return replace(watched, lower_foreign=watched.lower_foreign + 1)
    events.append(ForeignMemoryChanged(watched.device.device_id, foreign, reading.free_mib))
    return replace(watched, foreign_mib=foreign, lower_foreign=0)


def _with_health(device: Device, reason: str) -> Device:
    return msgspec.structs.replace(device, healthy=False, health_reason=reason)


def _facts(device: Device) -> Device:
    """Everything of a device but its health, and but its neighbours, whose loss is an event of theirs."""
    return msgspec.structs.replace(device, healthy=True, health_reason="", pair_scores={})
