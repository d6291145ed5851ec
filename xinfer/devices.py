"""Accelerators (or the CPU) and the slices of them that replicas run on. All integers: MiB and percent of a device."""

from typing import Literal

import msgspec

Strength = Literal["hard", "soft", "none"]
"""How firmly a limit holds: passing it fails; what is expected to pass it does not, but could; or nothing stops it."""


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
    uuid: str = ""
    """The card's own name; what CUDA_VISIBLE_DEVICES takes. Not unique: slices of one card share it."""
    parent_uuid: str = ""
    """The physical card: the same as ``uuid`` except for a MIG instance. Replicas are kept apart by it."""
    vendor: str = ""
    numa: int = -1
    """The NUMA node; -1: not known."""
    pair_scores: dict[str, int] = {}
    """How near other devices of this worker are, by device id: PCIe 10 to 60, NVLink 100 for each link."""
    healthy: bool = True
    health_reason: str = ""
    reserve_mib: int = 0
    """Kept for the system."""
    cap_mib: int = 0
    """What may be leased; 0: ``memory_mib - reserve_mib``."""
    cap_cores: int = 100
    """Percent of the device's cores that may be leased."""
    slots: int = 0
    """How many slices may share it; 0: any number."""
    source: str = ""
    """Who knows of it: "nvml", "hami", "mps", "mig" or "cpu"."""
    driver: str = ""
    compute_capability: str = ""
    cuda_version: str = ""
    """The newest CUDA that the driver can run."""
    view_mib: int = 0
    """What a process on it sees as its total memory, where that is not ``memory_mib``; 0: it is the same."""
    enforced_by: str = ""
    """Who holds processes to ``memory_mib`` without our doing ("hami", "mig"); empty: nobody."""


class DeviceSlice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one device."""

    device_id: str
    memory_mib: int
    cores_percent: int = 0
    exclusive: bool = False
    """Nobody else on the device while this slice lasts."""


class Placement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the supervisor proposes that a replica runs."""

    worker_id: str
    slices: tuple[DeviceSlice, ...]
    followers: tuple["Placement", ...] = ()
    """Of a replica that runs on several workers: its places on the others."""


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a gang a process is: of the processes on several workers that are one replica together."""

    gang: str
    """The replica_id that all of them are."""
    rank: int
    """From 0, who leads: clients' requests reach that one only."""
    size: int
    rendezvous: str = ""
    """host:port where they find each other, which the leader's worker picks as that starts; empty: it has not yet."""

    @property
    def leads(self) -> bool:
        """Whether it is the one that answers."""
        return self.rank == 0

    @property
    def waits(self) -> bool:
        """Whether it cannot start yet: nobody knows where its leader is."""
        return not self.leads and not self.rendezvous


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has booked for a replica, all or nothing."""

    replica_id: str
    generation: int
    slices: tuple[DeviceSlice, ...]


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine may use of one device, in its own view: engines that plan with a share need to know of what."""

    device_id: str
    kind: str
    """As in ``Device``."""
    memory_mib: int
    total_mib: int
    """What the process sees as the total memory of the device: that of the slice, where an enforcer shows only that."""
    cores_percent: int = 0
    """0: no limit."""

    @property
    def share(self) -> float:
        """The budget as a share (0..1) of what the process sees, rounded down to four decimals."""
        return min(1.0, self.memory_mib * 10_000 // max(1, self.total_mib) / 10_000)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A lease with the environment that the engine's process starts with. ``threads`` bounds its CPU threads."""

    lease: Lease
    env: dict[str, str] = {}
    threads: int = 1
    budgets: tuple[Budget, ...] = ()
    """One for each device of the lease, in the order in which the process counts them."""
    model_uid: str = ""
    """The name that clients use, for engines that check or echo it."""
    seat: Seat | None = None
    """None: the replica is one process."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """How replicas are held to their slices of a device, as opposed to everybody here to the device itself."""

    memory: Strength = "none"
    cores: Strength = "none"
    view: Literal["slice", "device"] = "device"
    """What a process sees as its total memory: an engine that plans with a share of it has to know."""
    per: Literal["replica", "process"] = "replica"
    """Who may use as much as the slice: with "process", a replica of two processes may use twice that."""
    by: tuple[str, ...] = ()
    """The mechanisms."""


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a device reports at one moment; memory in MiB, None where nobody can tell."""

    device_id: str
    used_mib: int | None = None
    """What everybody on it uses."""
    free_mib: int | None = None
    by_replica: dict[str, int] = {}
    """What each replica uses, by its replica_id, where that can be told."""
    hold: Hold = Hold()
    over_limit_mib: dict[str, int] = {}
    """By how much a replica is over its slice, by its replica_id; only of those that have been for a while."""
