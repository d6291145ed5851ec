"""The book under random lives of a worker: whatever is asked for in whatever order, its rules hold."""

import copy
from itertools import combinations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xinfer.devices import Device, DeviceSlice, DeviceUse, Lease
from xinfer.errors import Conflict, NoCapacity
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Room, totals
from xinfer.spec import Policy
from xinfer.worker.leases import Key, LeaseBook, per_device


def card(device_id: str = "gpu-0", memory_mib: int = 1000, **fields: object) -> Device:
    return Device(device_id=device_id, kind="cuda", memory_mib=memory_mib, cores=100, **fields)


def part(memory_mib: int, device_id: str = "gpu-0", cores_percent: int = 0) -> DeviceSlice:
    return DeviceSlice(device_id=device_id, memory_mib=memory_mib, cores_percent=cores_percent)


asks = st.lists(
    st.builds(part, st.integers(0, 500), st.sampled_from(["gpu-0", "gpu-1"]), st.sampled_from([0, 20, 100])),
    min_size=1,
    max_size=2,
)


@given(st.lists(asks, max_size=6), st.randoms())
def test_giving_everything_back_in_any_order_restores_the_book(wanted: list[list[DeviceSlice]], random) -> None:
    book = LeaseBook([card("gpu-0", slots=3), card("gpu-1")])
    book.observe([DeviceUse(device_id="gpu-1", free_mib=900)])
    before = copy.deepcopy(book.rooms.by_id)
    booked: list[Lease] = []
    for number, slices in enumerate(wanted):
        try:
            booked.append(book.book(f"r{number}", 1, tuple(slices)))
        except NoCapacity:
            continue
    random.shuffle(booked)
    for lease in booked:
        book.release(lease.replica_id, lease.generation)
    assert book.rooms.by_id == before


DEVICES = (
    card("gpu-0", name="NVIDIA L4", uuid="GPU-a", numa=0, slots=2),
    card("gpu-1", name="NVIDIA L4", uuid="GPU-b", numa=0, reserve_mib=100),
    card("gpu-2", name="NVIDIA A100", uuid="GPU-c", numa=1, cap_cores=150),
    card("gpu-3", name="NVIDIA A100", uuid="GPU-c", parent_uuid="GPU-c", numa=1, cap_cores=30),
)
replicas = st.sampled_from("abcdef")
amounts = st.integers(0, 1000)
generations = st.integers(1, 3)
device_ids = st.sampled_from([device.device_id for device in DEVICES])
requests = st.builds(
    lambda memory, **fields: SliceRequest(**fields, **memory),
    st.one_of(
        st.fixed_dictionaries({"memory_mib": st.integers(1, 900)}),
        st.fixed_dictionaries({"memory_percent": st.integers(1, 100)}),
    ),
    count=st.integers(1, 3),
    cores=st.sampled_from([0, 0, 10, 30, 60, 100]),
    types=st.sampled_from([(), (), ("l4",)]),
    uuids_denied=st.sampled_from([(), ("GPU-b",)]),
    numa_bind=st.booleans(),
    anti_affinity=st.sampled_from([frozenset(), frozenset({"GPU-a"})]),
    device_policy=st.sampled_from(list(Policy)),
)


class Bank(RuleBasedStateMachine):
    """A book in which everything happens that may happen to a worker, held against a plain list of what is booked."""

    @initialize()
    def open(self) -> None:
        self.book = LeaseBook(DEVICES)
        self.devices = {device.device_id: device for device in DEVICES}
        self.leases: dict[Key, Lease] = {}
        self.expiry: dict[Key, float] = {}
        self.now = 0.0
        self.overfull: set[str] = set()
        """Devices on which something was found running, or which shrank: they may hold more than they have."""

    def snapshot(self) -> object:
        return copy.deepcopy((self.book.rooms.by_id, self.book.leases))

    def booked(self, key: Key, lease: Lease, expires_at: float | None) -> None:
        self.leases[key] = lease
        if expires_at is not None:
            self.expiry[key] = expires_at

    def stale(self, key: Key) -> bool:
        return any(replica == key[0] and generation > key[1] for replica, generation in self.leases)

    @rule(replica=replicas, generation=generations, request=requests, lasts=st.none() | st.floats(0.0, 20.0))
    def book_by_request(self, replica: str, generation: int, request: SliceRequest, lasts: float | None) -> None:
        key, before = (replica, generation), self.snapshot()
        expires_at = None if lasts is None else self.now + lasts
        possible = self.fitting_sets(request)
        try:
            lease = self.book.book(replica, generation, request, expires_at=expires_at)
        except Conflict as refused:
            assert self.snapshot() == before
            if not isinstance(refused, NoCapacity):
                assert key in self.leases or self.stale(key)
            else:
                assert possible == []
            return
        if key in self.leases:
            assert self.snapshot() == before
            return
        assert not self.stale(key)
        ids = {piece.device_id for piece in lease.slices}
        assert len(ids) == request.count
        assert ids in possible
        self.booked(key, lease, expires_at)
        # Booked again it is the same, and given back it never was.
        after = self.snapshot()
        assert self.book.book(replica, generation, request) is lease
        assert self.snapshot() == after
        self.book.release(replica, generation)
        self.book.release(replica, generation)
        assert self.snapshot() == before
        self.leases[key] = self.book.book(replica, generation, request, expires_at=expires_at)
        assert self.leases[key] == lease

    @rule(replica=replicas, generation=generations, slices=st.lists(st.builds(part, st.integers(0, 600), device_ids)))
    def book_slices(self, replica: str, generation: int, slices: list[DeviceSlice]) -> None:
        key, before = (replica, generation), self.snapshot()
        try:
            lease = self.book.book(replica, generation, tuple(slices))
        except Conflict:
            assert self.snapshot() == before
        else:
            self.leases.setdefault(key, lease)

    @rule(replica=replicas, generation=generations, memory_mib=st.integers(0, 800), device_id=device_ids)
    def record(self, replica: str, generation: int, memory_mib: int, device_id: str) -> None:
        slices = (part(memory_mib, device_id, 10),)
        self.expiry.pop((replica, generation), None)
        self.leases[replica, generation] = self.book.record(replica, generation, slices)
        self.overfull.add(device_id)

    @rule(replica=replicas, generation=generations)
    def release(self, replica: str, generation: int) -> None:
        self.book.release(replica, generation)
        self.leases.pop((replica, generation), None)
        self.expiry.pop((replica, generation), None)

    @rule(replica=replicas, generation=generations)
    def confirm(self, replica: str, generation: int) -> None:
        key = (replica, generation)
        try:
            assert self.book.confirm(replica, generation) == self.leases[key]
            self.expiry.pop(key, None)
        except Conflict:
            assert key not in self.leases

    @rule(passed=st.floats(0.0, 20.0))
    def expire(self, passed: float) -> None:
        self.now += passed
        due = {key for key, at in self.expiry.items() if at <= self.now}
        assert {(lease.replica_id, lease.generation) for lease in self.book.expire(self.now)} == due
        for key in due:
            del self.leases[key], self.expiry[key]

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), slices=st.lists(st.builds(part, st.integers(0, 900), device_ids), min_size=1, max_size=2))
    def resize(self, data: st.DataObject, slices: list[DeviceSlice]) -> None:
        key, before = data.draw(st.sampled_from(sorted(self.leases))), self.snapshot()
        try:
            self.leases[key] = self.book.resize(*key, tuple(slices))
        except NoCapacity:
            assert self.snapshot() == before

    @rule(live=st.sets(st.tuples(replicas, generations)))
    def crash(self, live: set[Key]) -> None:
        gone = self.book.reconcile(live)
        assert {(lease.replica_id, lease.generation) for lease in gone} == self.leases.keys() - live
        self.leases = {key: lease for key, lease in self.leases.items() if key in live}
        self.expiry = {key: at for key, at in self.expiry.items() if key in live}

    @rule(device_id=device_ids, cordoned=st.booleans())
    def cordon(self, device_id: str, cordoned: bool) -> None:
        if device_id in self.book.rooms.by_id:
            self.book.rooms.cordon(device_id, cordoned)

    @rule(device_id=device_ids, change=st.sampled_from(["lost", "back", "sick", "smaller"]))
    def device_changes(self, device_id: str, change: str) -> None:
        original = next(device for device in DEVICES if device.device_id == device_id)
        if change == "lost":
            self.devices.pop(device_id, None)
        elif change == "sick":
            self.devices[device_id] = msgspec.structs.replace(original, healthy=False)
        elif change == "smaller":
            self.devices[device_id] = msgspec.structs.replace(original, cap_mib=500)
            self.overfull.add(device_id)
        else:
            self.devices[device_id] = original
        self.book.update(self.devices.values())

    @rule(device_id=device_ids, used=amounts, free=st.none() | amounts, told=st.dictionaries(replicas, amounts))
    def observe(self, device_id: str, used: int, free: int | None, told: dict[str, int]) -> None:
        self.book.observe([DeviceUse(device_id=device_id, used_mib=used, free_mib=free, by_replica=told)])

    def fitting_sets(self, request: SliceRequest) -> list[set[str]]:
        """Every set of devices that would do, found by trying all."""
        able = [room for room in self.book.rooms.by_id.values() if may_serve(request, room)]
        return [
            {room.device.device_id for room in found}
            for found in combinations(able, request.count)
            if not request.numa_bind or len({room.device.numa for room in found}) == 1
        ]

    @invariant()
    def nothing_is_given_away_twice(self) -> None:
        over = {
            device_id
            for device_id, room in self.book.rooms.by_id.items()
            if room.used_mib > room.cap_mib
            or room.used_cores > room.device.cap_cores
            or (room.device.slots and room.tenants > room.device.slots)
            or (room.exclusive_tenants and room.tenants > 1)
        }
        assert over <= self.overfull
        self.overfull = over

    @invariant()
    def the_books_add_up(self) -> None:
        assert {(lease.replica_id, lease.generation): lease for lease in self.book.leases} == self.leases
        pieces = [piece for lease in self.leases.values() for piece in per_device(lease.slices)]
        for device_id, room in self.book.rooms.by_id.items():
            here = [piece for piece in pieces if piece.device_id == device_id]
            assert room.used_mib == sum(piece.memory_mib for piece in here)
            assert room.used_cores == sum(piece.cores_percent for piece in here)
            assert room.tenants == len(here)
            assert room.exclusive_tenants == sum(piece.exclusive for piece in here)
            assert 0 <= room.unfilled_mib <= room.used_mib
        rooms = self.book.rooms
        assert rooms.totals == totals(rooms.by_id.values())
        assert rooms.largest_free_mib == max((room.free_mib for room in rooms.by_id.values()), default=0)


def may_serve(request: SliceRequest, room: Room) -> bool:
    device = room.device
    whole = request.cores == 100 and device.cap_cores == 100
    if request.memory_mib is not None:
        memory_mib = request.memory_mib
    else:
        memory_mib = min(room.cap_mib, device.memory_mib * request.memory_percent // 100)
    return (
        device.healthy
        and not room.cordoned
        and (not request.types or "L4" in device.name)
        and device.uuid not in request.uuids_denied
        and device.uuid not in request.anti_affinity
        and (not device.slots or room.tenants < device.slots)
        and memory_mib <= room.free_mib
        and room.used_cores + request.cores <= device.cap_cores
        and not (room.exclusive_tenants or (whole and room.tenants))
        and (request.cores > 0 or room.used_cores < device.cap_cores)
    )


TestBank = Bank.TestCase
TestBank.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
