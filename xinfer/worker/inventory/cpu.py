"""The CPU as a device: what this process may use of it, not what the machine has."""

import math
import os
import platform
from pathlib import Path
from typing import ClassVar

import psutil

from xinfer.devices import Device

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MIB = 1024 * 1024


class CpuInventory:
    """One device: the cores of our affinity and CPU quota, the memory of the host or of our cgroup's limit."""

    name: ClassVar[str] = "cpu"

    def devices(self) -> tuple[Device, ...]:
        """The CPU; every worker has one."""
        cgroups = own_cgroups(CGROUP_ROOT, OWN_CGROUPS)
        host_bytes = int(psutil.virtual_memory().total)
        limit = memory_limit_bytes(cgroups)
        quota = core_quota(cgroups)
        cores = _allowed_cores()
        return (
            Device(
                device_id="cpu",
                kind="cpu",
                name=_processor_name(),
                memory_mib=(host_bytes if limit is None else min(host_bytes, limit)) // MIB,
                cores=cores if quota is None else max(1, min(cores, math.ceil(quota))),
            ),
        )


INVENTORY = CpuInventory()


def own_cgroups(root: Path, membership: Path) -> list[Path]:
    """The directories whose limits hold for this process: its own cgroups and all above them, v2 and v1.

    Inside a container the path that the kernel names is often not mounted; then only the root is left, which is ours.
    """
    found: dict[Path, None] = {}
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
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
