"""The CPU as a device: what this process may use of it, not what the machine has."""

import math
import os
import platform
from pathlib import Path
from typing import ClassVar

import psutil

from xinfer.devices import Device
from xinfer.worker.inventory.base import MIB, DeviceReading, InventoryReading, default_reserve_mib

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


class CpuInventory:
    """One device: the cores of our affinity and CPU quota, the memory of the host or of our cgroup's limit."""

    name: ClassVar[str] = "cpu"

    def read(self) -> InventoryReading:
        """The CPU; every worker has one."""
        cgroups = own_cgroups(CGROUP_ROOT, OWN_CGROUPS)
        host = psutil.virtual_memory()
        limit = memory_limit_bytes(cgroups)
        total = int(host.total) if limit is None else min(int(host.total), limit)
        room = memory_room_bytes(cgroups)
        free = int(host.available) if room is None else min(int(host.available), room)
        quota = core_quota(cgroups)
        cores = _allowed_cores()
        cpu = Device(
            device_id="cpu",
            kind="cpu",
            name=_processor_name(),
            memory_mib=total // MIB,
            cores=cores if quota is None else max(1, min(cores, math.ceil(quota))),
            reserve_mib=default_reserve_mib(total // MIB),
            source="cpu",
        )
        return InventoryReading(
            devices=(DeviceReading(device=cpu, used_mib=max(0, total - free) // MIB, free_mib=free // MIB),)
        )


INVENTORY = CpuInventory()


def own_cgroups(root: Path, membership: Path) -> list[Path]:
    """The directories whose limits hold for this process: its own cgroups and all above them, v2 and v1.

    Inside a container the path that the kernel names is often not mounted; then only the root is left, which is ours.
    """
    found: dict[Path, None] = {}
    for controllers, path in _memberships(membership):
        top = root if not controllers else root / controllers
        own = top / path.lstrip("/")
        for directory in (own, *own.parents):
            if directory.is_dir():
                found[directory] = None
            if directory == top:
                break
    return list(found)


def memory_limit_bytes(cgroups: list[Path]) -> int | None:
    """The tightest memory limit; None: none is set. v1 writes "no limit" as a number beyond any machine."""
    limits = [
        number
        for directory in cgroups
        for file in ("memory.max", "memory.limit_in_bytes")
        if (number := _number(directory / file)) is not None
    ]
    return min(limits, default=None)


def memory_room_bytes(cgroups: list[Path]) -> int | None:
    """How much the fullest cgroup can still take; None: none has a limit. File cache that can go counts as room."""
    rooms = []
    for directory in cgroups:
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _number(directory / limit), _number(directory / usage)
            if most is not None and used is not None:
                statistics = _words(directory / "memory.stat")
                idle = dict(zip(statistics[::2], statistics[1::2], strict=False)).get(cache, "0")
                rooms.append(max(0, most - used + int(idle)))
    return min(rooms, default=None)


def core_quota(cgroups: list[Path]) -> float | None:
    """The tightest CPU quota, in cores; None: no quota."""
    quotas = []
    for directory in cgroups:
        words = _words(directory / "cpu.max")
        if len(words) == 2 and words[0].isdigit():
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
        if quota is not None and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def in_cpu_cgroup(cgroups: list[Path], membership: Path) -> bool:
    """Whether a cgroup, v2 or v1, groups this process with others for the scheduler."""
    if any((directory / "cpu.weight").exists() for directory in cgroups):
        return True  # only the cgroup of the whole machine has none
    return any("cpu" in controllers.split(",") and path != "/" for controllers, path in _memberships(membership))


def _memberships(membership: Path) -> list[tuple[str, str]]:
    """Of each hierarchy, its controllers (v2: none are named) and the path of this process in it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    return [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines)]


def _number(path: Path) -> int | None:
    """A file with one number that is not negative; anything else ("max", "-1", no file) is None."""
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
