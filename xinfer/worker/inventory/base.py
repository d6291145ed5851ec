"""Where devices come from: one module per source in this package, each exposing ``INVENTORY``."""

from typing import ClassVar, Protocol

from xinfer import plugins
from xinfer.devices import Device


class Inventory(Protocol):
    """A source of devices."""

    name: ClassVar[str]

    def devices(self) -> tuple[Device, ...]:
        """The devices that this source sees now; empty where it does not apply. Reads state, changes none."""


def all_devices() -> tuple[Device, ...]:
    """The devices of this worker, from every source."""
    sources: list[Inventory] = plugins.exposed("xinfer.worker.inventory", "INVENTORY")
    return tuple(device for source in sources for device in source.devices())
