"""The book of what is given away on this worker's devices. Pure: it decides, others enforce.

The key of a lease is (replica_id, generation): booking it again returns the lease that is there, and while a later
generation of a replica holds a lease, an earlier one gets none. So a message may come twice, or too late. A lease is a
reservation at first: unless it is confirmed by what runs on it, it expires. Times are given, in seconds.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from xinfer.devices import Device, DeviceSlice, DeviceUse, Lease
from xinfer.errors import Conflict, NoCapacity
from xinfer.slices.choose import choose
from xinfer.slices.explain import explain, no_capacity, summary, verdict
from xinfer.slices.fit import Reason, closed, is_whole, lack
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.slices.usage import used_by

Key = tuple[str, int]
"""(replica_id, generation)."""
Wanted = tuple[DeviceSlice, ...] | SliceRequest
"""Slices that were chosen already, or what to choose them by."""


class DeviceInUse(NoCapacity):
    """There is room by the books, but the device has less memory free than that, or had when it was last looked at."""


@dataclass(slots=True)
class _Entry:
    lease: Lease
    wanted: Wanted
    expires_at: float | None
    observed_mib: dict[str, int] = field(default_factory=dict)
    """By device id, what the replica was last seen to use."""

    @property
    def tenancy(self) -> list[DeviceSlice]:
        """What the lease takes of each device."""
        return per_device(self.lease.slices)


class LeaseBook:
    """Books all slices of a replica or none. Integers: MiB of memory, percent of cores (0: no claim on cores)."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self.rooms = Rooms(devices)
        """The devices, and what is taken of them. To be read, and to cordon; the rest is up to the book."""
        self._entries: dict[str, dict[int, _Entry]] = {}

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Everything that is booked."""
        return tuple(entry.lease for entry in self._all())

    def free_mib(self, device_id: str) -> int:
        """Memory of a device that can be booked; negative when what was adopted exceeds the device."""
        return self.rooms.by_id[device_id].free_mib

    def book(self, replica_id: str, generation: int, wanted: Wanted, *, expires_at: float | None = None) -> Lease:
        """Book every slice, or none. With ``expires_at`` it is a reservation until ``confirm`` makes it last.

        Raises:
            NoCapacity: some device is unknown or has too little left; says by how many MiB or percent on each. As
                DeviceInUse: it is only what devices report that stands against the slices.
            Conflict: the key stands for other slices, or a later generation of the replica has a lease.
        """
        entries = self._entries.get(replica_id, {})
        known = entries.get(generation)
        if known is not None:
            if wanted not in (known.wanted, known.lease.slices):
                raise Conflict(f"generation {generation} of {replica_id!r} has a lease of other slices already")
            return known.lease
        latest = max(entries, default=generation)
        if latest > generation:
            raise Conflict(f"generation {generation} of {replica_id!r} is out of date: {latest} has a lease")
        if isinstance(wanted, SliceRequest):
            slices = self._choose(replica_id, wanted)
        else:
            slices = self._marked(wanted)
            self._require_room(replica_id, slices, held=())
        return self._enter(replica_id, generation, _Entry(_lease(replica_id, generation, slices), wanted, expires_at))

    def record(self, replica_id: str, generation: int, slices: tuple[DeviceSlice, ...]) -> Lease:
        """Book what runs already: it uses its memory whether or not that fits, and the book has to say so."""
        self.release(replica_id, generation)
        lease = _lease(replica_id, generation, self._marked(slices))
        return self._enter(replica_id, generation, _Entry(lease, slices, None))

    def confirm(self, replica_id: str, generation: int) -> Lease:
        """Make a reservation last. A lease that lasts already is left as it is.

        Raises:
            Conflict: it is not there: it has expired or was given back, or was never made.
        """
        entry = self._entry(replica_id, generation)
        entry.expires_at = None
        return entry.lease

    def release(self, replica_id: str, generation: int) -> None:
        """Give a lease back; none is there: nothing to do."""
        entries = self._entries.get(replica_id, {})
        entry = entries.pop(generation, None)
        if entry is not None:
            self.rooms.give_back(entry.tenancy, entry.observed_mib)
        if not entries:
            self._entries.pop(replica_id, None)

    def resize(self, replica_id: str, generation: int, slices: tuple[DeviceSlice, ...]) -> Lease:
        """Exchange the slices of a lease for others, all or none.

        Raises:
            NoCapacity: they do not fit; the lease is what it was.
            Conflict: there is no such lease.
        """
        entry = self._entry(replica_id, generation)
        before, after = entry.tenancy, self._marked(slices)
        self.rooms.give_back(before, entry.observed_mib)
        try:
            self._require_room(replica_id, after, held={piece.device_id for piece in before})
            entry.lease = _lease(replica_id, generation, after)
        finally:
            self.rooms.take(entry.tenancy, entry.observed_mib)
        return entry.lease

    def reconcile(self, live: Collection[Key]) -> tuple[Lease, ...]:
        """Give back every lease but those of the replicas that live; returns what was given back."""
        return self._drop(lease for lease in self.leases if (lease.replica_id, lease.generation) not in live)

    def expire(self, now: float) -> tuple[Lease, ...]:
        """Give back the reservations whose time is over; returns them."""
        return self._drop(
            entry.lease for entry in self._all() if entry.expires_at is not None and entry.expires_at <= now
        )

    def observe(self, uses: Iterable[DeviceUse]) -> None:
        """Take over what devices report. From then on they give away only what is free.

        What others use there counts, however firmly our own are held; and so does what our replicas have booked and
        not used yet.
        """
        for use in uses:
            if use.device_id not in self.rooms.by_id:
                continue
            held = [
                (entry, piece.memory_mib)
                for entry in self._all()
                for piece in entry.tenancy
                if piece.device_id == use.device_id
            ]
            # Of two generations of a replica the earlier one runs: the later starts when it is gone.
            used = used_by(use, {entry.lease.replica_id: mib for entry, mib in reversed(held)})
            promised_mib = 0
            for entry, mib in held:
                entry.observed_mib[use.device_id] = used.pop(entry.lease.replica_id, 0)
                promised_mib += max(0, mib - entry.observed_mib[use.device_id])
            self.rooms.observe(use.device_id, use.free_mib, promised_mib)

    def update(self, devices: Iterable[Device]) -> None:
        """Replace the devices by what the inventory sees now. One that is lost takes nothing new; leases remain."""
        known = set(self.rooms.by_id)
        self.rooms.update(devices)
        for entry in self._all():
            returned = [piece for piece in entry.tenancy if piece.device_id not in known]
            self.rooms.take(returned, entry.observed_mib)

    def _all(self) -> Iterator[_Entry]:
        return (entry for entries in self._entries.values() for entry in entries.values())

    def _entry(self, replica_id: str, generation: int) -> _Entry:
        entry = self._entries.get(replica_id, {}).get(generation)
        if entry is None:
            raise Conflict(f"generation {generation} of {replica_id!r} has no lease; it expired or was given back")
        return entry

    def _enter(self, replica_id: str, generation: int, entry: _Entry) -> Lease:
        self._entries.setdefault(replica_id, {})[generation] = entry
        self.rooms.take(entry.tenancy)
        return entry.lease

    def _drop(self, leases: Iterable[Lease]) -> tuple[Lease, ...]:
        dropped = tuple(leases)
        for lease in dropped:
            self.release(lease.replica_id, lease.generation)
        return dropped

    def _choose(self, replica_id: str, request: SliceRequest) -> tuple[DeviceSlice, ...]:
        slices = choose(request, self.rooms.by_id.values())
        if slices is None:
            raise no_capacity(f"no room for {replica_id}", explain(request, [self.rooms]))
        return slices

    def _marked(self, slices: tuple[DeviceSlice, ...]) -> tuple[DeviceSlice, ...]:
        """The slices, with those that have all the cores of a card marked as exclusive."""
        rooms = self.rooms.by_id
        return tuple(
            msgspec.structs.replace(piece, exclusive=True)
            if piece.device_id in rooms and is_whole(rooms[piece.device_id], piece.cores_percent)
            else piece
            for piece in slices
        )

    def _require_room(self, replica_id: str, slices: tuple[DeviceSlice, ...], held: Collection[str]) -> None:
        """``held``: devices that the replica is on already; what keeps others off does not matter there."""
        found: list[tuple[DeviceSlice, Reason | None]] = []
        for piece in per_device(slices):
            room = self.rooms.by_id.get(piece.device_id)
            if room is None:
                found.append((piece, Reason.UNKNOWN_DEVICE))
            else:
                barred = None if piece.device_id in held else closed(room)
                found.append((piece, barred or lack(room, piece)))
        if any(reason for _, reason in found):
            verdicts = [verdict(self.rooms, piece, reason) for piece, reason in found]
            refusal = no_capacity(f"no room for {replica_id}", summary(verdicts))
            if all(reason is None or self._is_room_by_the_books(piece, reason) for piece, reason in found):
                raise DeviceInUse(refusal.message, details=refusal.details)
            raise refusal

    def _is_room_by_the_books(self, piece: DeviceSlice, reason: Reason) -> bool:
        if reason is not Reason.INSUFFICIENT_MEMORY:
            return False
        return piece.memory_mib <= self.rooms.by_id[piece.device_id].unreserved_mib


def per_device(slices: Iterable[DeviceSlice]) -> list[DeviceSlice]:
    """One slice per device: two slices of a replica on one device have to fit together."""
    total: dict[str, DeviceSlice] = {}
    for one in slices:
        before = total.get(one.device_id)
        total[one.device_id] = (
            one
            if before is None
            else msgspec.structs.replace(
                one,
                memory_mib=before.memory_mib + one.memory_mib,
                cores_percent=before.cores_percent + one.cores_percent,
                exclusive=before.exclusive or one.exclusive,
            )
        )
    return list(total.values())


def _lease(replica_id: str, generation: int, slices: tuple[DeviceSlice, ...]) -> Lease:
    return Lease(replica_id=replica_id, generation=generation, slices=slices)
