"""The devices of a worker over time: read them all, and say what happened since the last time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xinfer.devices import Device
from xinfer.worker.inventory.base import DeviceReading, InventoryReading, read_inventory
from xinfer.worker.inventory.watch import DeviceEvent, Watched, watch


@dataclass(frozen=True)
class Snapshot:
    """All devices at one moment."""

    devices: tuple[Device, ...]
    """As the books should have them: a lost device stays, not healthy."""
    readings: tuple[DeviceReading, ...]
    """What the sources saw just now: use and free memory; no lost devices."""
    events: tuple[DeviceEvent, ...]
    """Since the snapshot before; the first one adds every device."""
    warnings: tuple[str, ...]
    """Those that the snapshot before did not have."""
    reasons: Mapping[str, str]
    """Why a source has no device, by its name."""


class DeviceMonitor:
    """Reads every source again and again. ``refresh`` talks to drivers and may take seconds: call it in a thread."""

    def __init__(self, read: Callable[[], Mapping[str, InventoryReading]] = read_inventory) -> None:
        self._read = read
        self._watched = Watched()
        self._warned: frozenset[str] = frozenset()

    def refresh(self, ours_mib: Mapping[str, int] | None = None) -> Snapshot:
        """Read all devices now. ``ours_mib``: what our replicas use of each, by device id. One call at a time."""
        sources = self._read()
        readings = tuple(reading for source in sources.values() for reading in source.devices)
        warnings = [f"{name}: {warning}" for name, source in sources.items() for warning in source.warnings]
        self._watched, events = watch(self._watched, readings, ours_mib)
        fresh = tuple(warning for warning in dict.fromkeys(warnings) if warning not in self._warned)
        self._warned = frozenset(warnings)
        return Snapshot(
            devices=self._watched.devices,
            readings=tuple(reading for reading in readings if not reading.lost),
            events=events,
            warnings=fresh,
            reasons={name: source.reason for name, source in sources.items() if source.reason},
        )
