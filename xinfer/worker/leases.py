"""The book of what is given away on this worker's devices. Pure: it decides, others enforce."""

from collections.abc import Iterable

from xinfer.devices import Device, DeviceSlice, Lease
from xinfer.errors import NoCapacity

WHOLE_DEVICE_PERCENT = 100


class LeaseBook:
    """Books all slices of a replica or none. Integers: MiB of memory, percent of cores (0: no claim on cores)."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._devices = {device.device_id: device for device in devices}
        self._leases: dict[tuple[str, int], Lease] = {}

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Everything that is booked."""
        return tuple(self._leases.values())

    def free_mib(self, device_id: str) -> int:
        """Memory of a device that nobody has booked; negative when what was adopted exceeds the device."""
        return self._devices[device_id].memory_mib - sum(slice_.memory_mib for slice_ in self._booked(device_id))

    def free_percent(self, device_id: str) -> int:
        """Cores of a device that nobody has booked, in percent of it."""
        return WHOLE_DEVICE_PERCENT - sum(slice_.cores_percent for slice_ in self._booked(device_id))

    def book(self, replica_id: str, generation: int, slices: tuple[DeviceSlice, ...]) -> Lease:
        """Book every slice, or none. Booking the same (replica_id, generation) again returns its lease.

        Raises:
            NoCapacity: some device is unknown or has too little left; says by how many MiB or percent on each.
        """
        known = self._leases.get((replica_id, generation))
        if known is not None:
            return known
        shortfalls = [text for text in map(self._shortfall, _per_device(slices)) if text]
        if shortfalls:
            raise NoCapacity(f"no room for {replica_id}: {'; '.join(shortfalls)}")
        return self.record(replica_id, generation, slices)

    def record(self, replica_id: str, generation: int, slices: tuple[DeviceSlice, ...]) -> Lease:
        """Book what runs already: it uses its memory whether or not that fits, and the book has to say so."""
        lease = Lease(replica_id=replica_id, generation=generation, slices=slices)
        self._leases[replica_id, generation] = lease
        return lease

    def release(self, replica_id: str, generation: int) -> None:
        """Give a lease back; none is there: nothing to do."""
        self._leases.pop((replica_id, generation), None)

    def _booked(self, device_id: str) -> Iterable[DeviceSlice]:
        return (slice_ for lease in self._leases.values() for slice_ in lease.slices if slice_.device_id == device_id)

    def _shortfall(self, wanted: DeviceSlice) -> str:
        name = wanted.device_id
        if name not in self._devices:
            return f"this worker has no device {name!r}"
        memory, cores = self.free_mib(name), self.free_percent(name)
        if wanted.memory_mib > memory:
            return f"{name} has {memory} of {wanted.memory_mib} MiB free, {wanted.memory_mib - memory} MiB short"
        if wanted.cores_percent > cores:
            return f"{name} has {cores} of {wanted.cores_percent} % of its cores free"
        return ""


def _per_device(slices: tuple[DeviceSlice, ...]) -> list[DeviceSlice]:
    """One slice per device: two slices of a replica on one device have to fit together."""
    total: dict[str, DeviceSlice] = {}
    for one in slices:
        before = total.get(one.device_id, DeviceSlice(device_id=one.device_id, memory_mib=0))
        total[one.device_id] = DeviceSlice(
            device_id=one.device_id,
            memory_mib=before.memory_mib + one.memory_mib,
            cores_percent=before.cores_percent + one.cores_percent,
        )
    return list(total.values())
