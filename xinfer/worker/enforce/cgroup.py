"""Cgroups (v2): the kernel holds the processes of a replica to its slice of the main memory, and to its cores."""

from collections.abc import Mapping
from typing import ClassVar

from xinfer.devices import Device, Hold, Lease
from xinfer.worker.enforce.means import Means


class CgroupEnforcer:
    """Stands for ``xinfer.worker.cgroups`` among the mechanisms."""

    name: ClassVar[str] = "cgroup"

    def hold(self, device: Device, means: Means) -> Hold | None:
        """Both, where the worker may make cgroups. Cores only of replicas that have booked some."""
        return Hold(memory="hard", cores="hard") if device.kind == "cpu" and means.cgroups else None

    def environment(
        self, _lease: Lease, _devices: Mapping[str, Device], _means: Means, _instance: str
    ) -> dict[str, str]:
        """Nothing: its process is put into the cgroup from outside."""
        return {}


ENFORCER = CgroupEnforcer()
