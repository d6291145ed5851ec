"""The watchdog: main memory is held softly where it ends offenders, since some time passes before it does."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.means import Means


class WatchdogEnforcer:
    """Stands for ``xinfer.worker.watchdog`` among the mechanisms."""

    name: ClassVar[str] = "watchdog"

    def hold(self, device: Device, means: Means) -> Hold | None:
        """Main memory, which can always be told by replica."""
        return Hold(memory="soft") if device.kind == "cpu" and means.ends_offenders else None

    def environment(
        self, _lease: Lease, _devices: Mapping[str, Device], _means: Means, _instance: str
    ) -> dict[str, str]:
        """Nothing: it watches from outside."""
        return {}


ENFORCER = WatchdogEnforcer()
