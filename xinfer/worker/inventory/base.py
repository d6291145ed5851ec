"""Where devices come from: one module per source in this package, each exposing ``INVENTORY``."""

from typing import ClassVar, Protocol

import msgspec

from xinfer import plugins
from xinfer.devices import Device

MIB = 1024 * 1024


class DeviceReading(msgspec.Struct, frozen=True, kw_only=True):
    """One device as its source sees it at one moment. Memory in MiB."""

    device: Device
    used_mib: int | None = None
    """What everybody on it uses; None: the source cannot tell, or counts neighbours that share the card with us."""
    free_mib: int | None = None
    processes: int = 0
    processes_mib: int = 0
    """What those processes use, as far as the source counts it."""
    used_by_pid: dict[int, int] = {}
    """MiB by process id, only where these are ids of our own PID namespace: nobody may act on others."""
    lost: bool = False
    """The source is certain that it is gone; other faults are in ``device.healthy`` and may pass."""
    certain: bool = False
    """Its fault is no matter of a failed call: believe it at once."""


class InventoryReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one source sees now."""

    devices: tuple[DeviceReading, ...] = ()
    warnings: tuple[str, ...] = ()
    """For people: readings that disagree, limits that nothing enforces."""
    reason: str = ""
    """For people: why this source has no device."""
    cards_shown: int = 0
    """How many cards its driver shows to every process here, also those that are not ours."""


class Inventory(Protocol):
    """A source of devices."""

    name: ClassVar[str]

    def read(self) -> InventoryReading:
        """The devices that this source sees now; none, and a reason, where it does not apply. Changes nothing.

        Talks to drivers and may take seconds: call it in a thread. One call at a time.
        """


def read_inventory() -> dict[str, InventoryReading]:
    """What every source sees, by the name of the source."""
    sources: list[Inventory] = plugins.exposed("xinfer.worker.inventory", "INVENTORY")
    return {source.name: source.read() for source in sources}


def default_reserve_mib(total_mib: int) -> int:
    """What is kept for the system: 512 MiB or 2 %, whichever is more, but never more than a tenth."""
    return min(max(512, total_mib // 50), total_mib // 10)
