"""The devices of one worker, and what is taken of each: memory in MiB, cores in percent, slots."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from xinfer.devices import Device, DeviceSlice

GONE = "the device is gone"


@dataclass(slots=True)
class Room:
    """A device and what is taken of it. Changed only by the Rooms that it belongs to."""

    device: Device
    cap_mib: int
    used_mib: int = 0
    """Reserved, whether or not it is used."""
    used_cores: int = 0
    tenants: int = 0
    exclusive_tenants: int = 0
    leaving_mib: int = 0
    """Held by replicas that are stopping; comes back soon."""
    cordoned: bool = False
    """Takes no new slices; those that are there stay."""
    device_free_mib: int | None = None
    """What the device itself reports as free; None where it does not say."""
    unfilled_mib: int = 0
    """Reserved, but not yet used by its tenants: what the device reports as free and is promised already."""

    @property
    def free_mib(self) -> int:
        """MiB that can be given away; negative when more is taken than there is.

        Memory that somebody else uses on the device is not there, whatever the books say.
        """
        if self.device_free_mib is None:
            return self.unreserved_mib
        return min(self.unreserved_mib, self.device_free_mib - self.unfilled_mib)

    @property
    def unreserved_mib(self) -> int:
        """The same by the books alone, whatever the device reports."""
        return self.cap_mib - self.used_mib - self.leaving_mib

    @property
    def free_cores(self) -> int:
        """Percent of the device's cores that nobody has claimed."""
        return self.device.cap_cores - self.used_cores

    @property
    def card(self) -> str:
        """The UUID of the physical card, or what comes closest to it."""
        return self.device.parent_uuid or self.device.uuid or self.device.device_id


def cap_mib(device: Device) -> int:
    """MiB of a device that may be given away."""
    cap = device.cap_mib or device.memory_mib - device.reserve_mib
    return cap if cap > 0 else 0  # noqa: FURB136  max() costs more, and a decision asks for thousands


@dataclass(slots=True)
class Totals:
    """Sums over the devices of a worker. ``slots`` and ``used_slots``: only of devices whose slots are counted."""

    slots: int = 0
    used_slots: int = 0
    cores: int = 0
    used_cores: int = 0
    mib: int = 0
    used_mib: int = 0


class Rooms:
    """The devices of one worker, ``by_id``; counts what is taken of them, and refuses nothing.

    ``totals`` are kept with every change, so that a worker is scored without a look at its devices.
    """

    def __init__(self, devices: Iterable[Device] = (), *, worker_id: str = "", name: str = "") -> None:
        self.worker_id = worker_id
        self.name = name or worker_id
        self._devices = tuple(devices)
        self.totals = capacity(self._devices)
        self._largest_free_mib: int | None = None

    @functools.cached_property
    def by_id(self) -> dict[str, Room]:
        """The devices, each by its id."""
        return {device.device_id: Room(device, cap_mib(device)) for device in self._devices}

    @property
    def largest_free_mib(self) -> int:
        """The most memory that one device has left."""
        if self._largest_free_mib is None:
            self._largest_free_mib = max((room.free_mib for room in self.by_id.values()), default=0)
        return self._largest_free_mib

    def take(self, slices: Iterable[DeviceSlice], observed: Mapping[str, int] | None = None) -> None:
        """Count the slices of one tenant, at most one for each device. Devices that are not here are passed over.

        ``observed``: by device id, the MiB that the tenant was last seen to use.
        """
        self._count(slices, 1, observed or {})

    def give_back(self, slices: Iterable[DeviceSlice], observed: Mapping[str, int] | None = None) -> None:
        """Undo ``take``. What the tenant was seen to use is free when the device says so."""
        self._count(slices, -1, observed or {})

    def hold(self, slices: Iterable[DeviceSlice]) -> None:
        """Count memory of a tenant that is on its way out."""
        self._largest_free_mib = None
        for piece in slices:
            if (room := self.by_id.get(piece.device_id)) is not None:
                room.leaving_mib += piece.memory_mib
                self.totals.used_mib += piece.memory_mib

    def cordon(self, device_id: str, cordoned: bool = True) -> None:
        """Take a device out of service for new slices, or put it back.

        Raises:
            KeyError: there is no such device.
        """
        self.by_id[device_id].cordoned = cordoned

    def update(self, devices: Iterable[Device]) -> None:
        """Replace what is known of the devices. One that is missing is unhealthy while it has tenants, then gone."""
        current = {device.device_id: device for device in devices}
        for device_id, room in list(self.by_id.items()):
            if device_id not in current and room.tenants == 0:
                del self.by_id[device_id]
            elif device_id not in current:
                room.device = msgspec.structs.replace(room.device, healthy=False, health_reason=GONE)
        for device_id, device in current.items():
            room = self.by_id.setdefault(device_id, Room(device, 0))
            room.device, room.cap_mib = device, cap_mib(device)
        self.totals = totals(self.by_id.values())
        self._largest_free_mib = None

    def observe(self, device_id: str, device_free_mib: int | None, unfilled_mib: int) -> None:
        """Take over what a device reports as free, and how much of that is promised to its tenants.

        Raises:
            KeyError: there is no such device.
        """
        room = self.by_id[device_id]
        room.device_free_mib, room.unfilled_mib = device_free_mib, unfilled_mib
        self._largest_free_mib = None

    def report(self, free_mib: Mapping[str, int]) -> None:
        """The same for all devices at once, before anything is taken. Devices that are not here are passed over."""
        self._largest_free_mib = None
        for device_id, free in free_mib.items():
            if (room := self.by_id.get(device_id)) is not None:
                room.device_free_mib = free

    def _count(self, slices: Iterable[DeviceSlice], sign: int, observed: Mapping[str, int]) -> None:
        self._largest_free_mib = None
        for piece in slices:
            room = self.by_id.get(piece.device_id)
            if room is None:
                continue
            mib, cores = sign * piece.memory_mib, sign * piece.cores_percent
            room.used_mib += mib
            room.used_cores += cores
            room.tenants += sign
            room.exclusive_tenants += sign * piece.exclusive
            room.unfilled_mib += sign * max(0, piece.memory_mib - observed.get(piece.device_id, 0))
            self.totals.used_mib += mib
            self.totals.used_cores += cores
            if room.device.slots:
                self.totals.used_slots += sign


class LateRooms(Rooms):
    """The rooms of a worker that is one of very many: they are made when somebody looks at its devices.

    ``totals`` have to be right before that, for they decide at which workers anybody looks.
    """

    def __init__(self, make: Callable[[], Rooms], totals: Totals, *, worker_id: str, name: str) -> None:
        super().__init__(worker_id=worker_id, name=name)
        self.totals = totals
        self._make = make

    @functools.cached_property
    def by_id(self) -> dict[str, Room]:
        """The devices, each by its id."""
        return self._make().by_id


def capacity(devices: Iterable[Device]) -> Totals:
    """The sums over devices of which nothing is taken."""
    sums = Totals()
    for device in devices:
        sums.slots += device.slots
        sums.cores += device.cap_cores
        sums.mib += cap_mib(device)
    return sums


def totals(rooms: Iterable[Room]) -> Totals:
    """The sums, counted anew."""
    rooms = list(rooms)
    sums = capacity(room.device for room in rooms)
    for room in rooms:
        if room.device.slots:
            sums.used_slots += room.tenants
        sums.used_cores += room.used_cores
        sums.used_mib += room.used_mib + room.leaving_mib
    return sums
