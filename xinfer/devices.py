"""Accelerators (or the CPU) and the slices of them that replicas run on. All integers: MiB and percent of a device."""

import msgspec


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device of one worker. Keyed by (worker, device_id), never by UUID alone: two slices of a card share one."""

    device_id: str
    kind: str
    """"cpu", "cuda", ..."""
    index: int = 0
    name: str = ""
    memory_mib: int
    cores: int
    """Cores for a CPU; 100 (percent) for an accelerator."""


class DeviceSlice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one device."""

    device_id: str
    memory_mib: int
    cores_percent: int = 0


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where the supervisor proposes that a replica runs."""

    worker_id: str
    slices: tuple[DeviceSlice, ...]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has booked for a replica, all or nothing."""

    replica_id: str
    generation: int
    slices: tuple[DeviceSlice, ...]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A lease with the environment that the engine's process starts with. ``threads`` bounds its CPU threads."""

    lease: Lease
    env: dict[str, str] = {}
    threads: int = 1
