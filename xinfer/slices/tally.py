"""A worker's devices as it reported them: what is reserved and used of each, and by whom. MiB, and percent of cores."""

from collections.abc import Iterable
from typing import NamedTuple

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.protocol import Cordon, ReplicaStatus, WorkerInfo
from xinfer.slices.rooms import cap_mib


class SliceTally(NamedTuple):
    """What one replica has of a device. ``used_mib``: None where nobody can tell."""

    replica: ReplicaStatus
    piece: DeviceSlice
    used_mib: int | None
    over_limit_mib: int
    """By how much it has been over its slice for a while."""


class DeviceTally(NamedTuple):
    """A device as its slices. ``use``: None where it reports nothing, because it is lost or its worker is new."""

    device: Device
    use: DeviceUse | None
    slices: tuple[SliceTally, ...]
    cordoned: bool
    """It takes nothing new: it, or its worker as a whole, is cordoned."""
    drained: bool
    """What runs on it is being moved away."""

    @property
    def capacity_mib(self) -> int:
        """What of its memory may be reserved."""
        return cap_mib(self.device)

    @property
    def reserved_mib(self) -> int:
        """What is reserved, whether or not it is used."""
        return sum(one.piece.memory_mib for one in self.slices)

    @property
    def reserved_cores(self) -> int:
        """Percent of its cores that are claimed."""
        return sum(one.piece.cores_percent for one in self.slices)

    @property
    def free_mib(self) -> int:
        """What can still be reserved, nothing where it is not healthy; negative: more is reserved than there is."""
        return self.capacity_mib - self.reserved_mib if self.device.healthy else 0

    @property
    def others_mib(self) -> int | None:
        """What is used by processes that are none of ours; None where nobody can tell."""
        if self.use is None or self.use.used_mib is None:
            return None
        if not self.use.by_replica and self.slices:
            return None
        return max(0, self.use.used_mib - sum(self.use.by_replica.values()))


def tallies(worker: WorkerInfo) -> list[DeviceTally]:
    """Every device of a worker. A replica that has ended has given its slices back."""
    uses = {use.device_id: use for use in worker.uses}
    cordons = {cordon.device_id: cordon for cordon in worker.cordons}
    return [_tally(device, uses.get(device.device_id), worker, cordons) for device in worker.hello.devices]


def fragmentation(devices: Iterable[DeviceTally]) -> float:
    """Which share (0..1) of the free memory is not in the largest free piece; 0 where nothing is free."""
    free = [max(0, one.free_mib) for one in devices if not one.cordoned]
    return 1 - max(free) / sum(free) if any(free) else 0.0


def _tally(device: Device, use: DeviceUse | None, worker: WorkerInfo, cordons: dict[str, Cordon]) -> DeviceTally:
    slices = tuple(
        SliceTally(
            replica,
            piece,
            use.by_replica.get(replica.replica_id) if use else None,
            use.over_limit_mib.get(replica.replica_id, 0) if use else 0,
        )
        for replica in worker.replicas
        if not replica.state.is_final
        for piece in replica.slices
        if piece.device_id == device.device_id
    )
    said = [cordons[target] for target in ("", device.device_id) if target in cordons]
    return DeviceTally(device, use, slices, cordoned=bool(said), drained=any(cordon.drain for cordon in said))
