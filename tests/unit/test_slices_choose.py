"""The choice among devices that fit, held against looking at every set of devices."""

from collections.abc import Iterable
from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice
from xinfer.slices import choose as choose_module
from xinfer.slices.choose import choose
from xinfer.slices.fit import refusal, wanted_slice
from xinfer.slices.place import place
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Room, Rooms
from xinfer.slices.score import FULL, device_score
from xinfer.spec import Policy, Weights


def card(index: int, **fields: object) -> Device:
    plain = {"device_id": f"gpu-{index}", "kind": "cuda", "index": index, "memory_mib": 1000, "cores": 100}
    return Device(**(plain | fields))


def rooms(*devices: Device, taken: Iterable[DeviceSlice] = (), name: str = "w") -> Rooms:
    worker = Rooms(devices, worker_id=name)
    for piece in taken:
        worker.take([piece])
    return worker


def part(memory_mib: int, index: int = 0, cores: int = 0, **fields: object) -> DeviceSlice:
    return DeviceSlice(device_id=f"gpu-{index}", memory_mib=memory_mib, cores_percent=cores, **fields)


def chosen(request: SliceRequest, worker: Rooms) -> list[str] | None:
    slices = choose(request, worker.by_id.values())
    return slices and [piece.device_id for piece in slices]


@pytest.mark.parametrize(
    ("policy", "expected"), [(Policy.BINPACK, "gpu-1"), (Policy.SPREAD, "gpu-2"), (Policy.TOPOLOGY, "gpu-2")]
)
def test_the_fullest_or_the_emptiest_that_fits(policy: Policy, expected: str) -> None:
    worker = rooms(card(0), card(1), card(2), taken=[part(950, 0), part(500, 1)])
    assert chosen(SliceRequest(memory_mib=100, device_policy=policy), worker) == [expected]


def test_equal_devices_are_taken_by_numa_node_and_index() -> None:
    worker = rooms(card(0, numa=1), card(1, numa=0), card(2, numa=0))
    assert chosen(SliceRequest(memory_mib=1), worker) == ["gpu-1"]
    assert chosen(SliceRequest(memory_mib=1, device_policy=Policy.BINPACK), worker) == ["gpu-1"]


def test_weights_decide_what_full_means() -> None:
    worker = rooms(card(0), card(1), taken=[part(500, 0, 10), part(100, 1, 60)])
    ask = {"memory_mib": 1, "cores": 1, "device_policy": Policy.SPREAD}
    assert chosen(SliceRequest(**ask, weights=Weights(memory=5)), worker) == ["gpu-1"]
    assert chosen(SliceRequest(**ask, weights=Weights(core=5)), worker) == ["gpu-0"]


def linked(index: int, **scores: int) -> Device:
    return card(index, pair_scores={name.replace("gpu", "gpu-"): score for name, score in scores.items()})


def test_topology_takes_the_best_connected_pair() -> None:
    worker = rooms(
        linked(0, gpu1=20, gpu2=20, gpu3=200),
        linked(1, gpu2=100, gpu3=20),
        linked(2, gpu3=20),
        linked(3),
        taken=[part(100, 3)],
    )
    assert chosen(SliceRequest(count=2, memory_mib=1, device_policy=Policy.TOPOLOGY), worker) == ["gpu-0", "gpu-3"]
    assert chosen(SliceRequest(count=2, memory_mib=1), worker) == ["gpu-0", "gpu-1"]


def test_topology_spares_the_well_connected_when_one_is_enough() -> None:
    worker = rooms(linked(0, gpu1=200, gpu2=20), linked(1, gpu2=20), linked(2))
    assert chosen(SliceRequest(memory_mib=1, device_policy=Policy.TOPOLOGY), worker) == ["gpu-2"]


def test_topology_prefers_one_numa_node_where_links_are_not_known() -> None:
    worker = rooms(card(0, numa=0), card(1, numa=1), card(2, numa=1))
    assert chosen(SliceRequest(count=2, memory_mib=1, device_policy=Policy.TOPOLOGY), worker) == ["gpu-1", "gpu-2"]


def test_numa_bind_takes_all_from_one_node() -> None:
    worker = rooms(*(card(index, numa=index % 2) for index in range(5)), taken=[part(600, 0), part(600, 2)])
    assert chosen(SliceRequest(count=2, memory_mib=100, numa_bind=True), worker) == ["gpu-1", "gpu-3"]
    assert chosen(SliceRequest(count=2, memory_mib=100, numa_bind=True, device_policy=Policy.BINPACK), worker) == [
        "gpu-0",
        "gpu-2",
    ]
    assert chosen(SliceRequest(count=3, memory_mib=100, numa_bind=True), worker) == ["gpu-4", "gpu-0", "gpu-2"]
    assert chosen(SliceRequest(count=4, memory_mib=100, numa_bind=True), worker) is None
    assert chosen(SliceRequest(count=3, memory_mib=500, numa_bind=True), worker) is None


def test_of_two_numa_nodes_the_better_connected_is_taken() -> None:
    worker = rooms(
        card(0, numa=0, pair_scores={"gpu-1": 20}),
        card(1, numa=0),
        card(2, numa=1, pair_scores={"gpu-3": 100}),
        card(3, numa=1),
    )
    request = SliceRequest(count=2, memory_mib=1, numa_bind=True, device_policy=Policy.TOPOLOGY)
    assert chosen(request, worker) == ["gpu-2", "gpu-3"]


def test_replicas_are_kept_apart_by_the_physical_card() -> None:
    halves = [card(0, uuid="MIG-1", parent_uuid="GPU-a"), card(1, uuid="MIG-2", parent_uuid="GPU-a")]
    worker = rooms(*halves, card(2, uuid="GPU-b"))
    assert chosen(SliceRequest(memory_mib=1, anti_affinity=frozenset({"GPU-a"})), worker) == ["gpu-2"]
    assert chosen(SliceRequest(memory_mib=1, anti_affinity=frozenset({"GPU-a", "GPU-b"})), worker) is None


def test_nobody_joins_a_device_that_somebody_has_for_himself() -> None:
    alone = part(1, 0, 100, exclusive=True)
    assert chosen(SliceRequest(memory_mib=1), rooms(card(0), taken=[alone])) is None
    assert chosen(SliceRequest(memory_mib=1, exclusive=True), rooms(card(0), taken=[part(1)])) is None
    # Also where the device has no cores to claim, so that only the mark keeps others off.
    coreless = card(0, cap_cores=0)
    assert chosen(SliceRequest(memory_mib=1), rooms(coreless, taken=[part(1, exclusive=True)])) is None


def test_the_beam_finds_the_island_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 devices in two islands of 8, numbered alternately: C(16, 8) sets are too many to look at."""
    devices = [
        card(index, pair_scores={f"gpu-{other}": 100 if other % 2 == index % 2 else 20 for other in range(16)})
        for index in range(16)
    ]
    request = SliceRequest(count=8, memory_mib=1, device_policy=Policy.TOPOLOGY)
    by_beam = chosen(request, rooms(*devices))
    assert by_beam == [f"gpu-{index}" for index in range(0, 16, 2)]
    monkeypatch.setattr(choose_module, "MAX_COMBINATIONS", 20_000)
    assert chosen(request, rooms(*devices)) == by_beam


pieces = st.builds(
    lambda index, mib, cores: part(mib, index, cores), st.integers(0, 4), st.integers(0, 900), st.integers(0, 60)
)
devices = st.lists(
    st.builds(
        card,
        st.integers(0, 4),
        memory_mib=st.integers(100, 1000),
        numa=st.integers(-1, 1),
        slots=st.integers(0, 3),
        cap_cores=st.sampled_from([0, 30, 100, 100]),
        healthy=st.integers(0, 5).map(bool),
        name=st.sampled_from(["NVIDIA L4", "NVIDIA A100"]),
        uuid=st.sampled_from(["GPU-a", "GPU-b", "GPU-c"]),
        pair_scores=st.dictionaries(st.sampled_from([f"gpu-{i}" for i in range(5)]), st.sampled_from([20, 60, 100])),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda device: device.device_id,
)
requests = st.builds(
    SliceRequest,
    count=st.integers(1, 3),
    memory_mib=st.integers(1, 800),
    cores=st.sampled_from([0, 0, 10, 40, 100]),
    types=st.sampled_from([(), (), ("l4",)]),
    types_denied=st.sampled_from([(), (), ("A100",)]),
    uuids=st.sampled_from([(), (), ("GPU-a", "GPU-b")]),
    uuids_denied=st.sampled_from([(), ("GPU-c",)]),
    numa_bind=st.booleans(),
    anti_affinity=st.sampled_from([frozenset(), frozenset({"GPU-b"})]),
    worker_policy=st.sampled_from([Policy.BINPACK, Policy.SPREAD]),
    device_policy=st.sampled_from(list(Policy)),
)
workers = st.builds(lambda devices, taken: rooms(*devices, taken=taken), devices, st.lists(pieces, max_size=4))


def may_serve(request: SliceRequest, room: Room) -> bool:
    """Whether a device could be one of those of a request: said once more, as plainly as possible."""
    device, claim = room.device, room.device.cap_cores if request.exclusive else request.cores
    whole = request.exclusive or (request.cores == 100 and device.cap_cores == 100)
    allowed = (
        (not request.types or any(word.lower() in device.name.lower() for word in request.types))
        and not any(word.lower() in device.name.lower() for word in request.types_denied)
        and (not request.uuids or device.uuid in request.uuids)
        and device.uuid not in request.uuids_denied
        and device.uuid not in request.anti_affinity
    )
    has_room = (
        room.used_mib + request.memory_mib <= room.cap_mib
        and room.used_cores + claim <= device.cap_cores
        and (device.slots == 0 or room.tenants < device.slots)
        and not (whole and room.tenants)
        and not (claim == 0 and 0 < device.cap_cores <= room.used_cores)
    )
    return device.healthy and allowed and has_room


def every_fitting_set(request: SliceRequest, worker: Rooms) -> list[tuple[Room, ...]]:
    able = [room for room in worker.by_id.values() if may_serve(request, room)]
    sets = combinations(able, request.count)
    return [found for found in sets if not request.numa_bind or len({room.device.numa for room in found}) == 1]


def link(one: Room, other: Room) -> int:
    a, b = one.device, other.device
    known = max(a.pair_scores.get(b.device_id, 0), b.pair_scores.get(a.device_id, 0))
    return known or int(a.numa == b.numa >= 0)


@settings(max_examples=300)
@given(workers, requests)
def test_a_place_is_found_exactly_if_there_is_one_and_it_is_the_best(worker: Rooms, request: SliceRequest) -> None:
    possible = every_fitting_set(request, worker)
    slices = choose(request, worker.by_id.values())
    assert (slices is not None) == bool(possible)
    if slices is None:
        return
    found = tuple(worker.by_id[piece.device_id] for piece in slices)
    assert {frozenset(room.device.device_id for room in found)} <= {
        frozenset(room.device.device_id for room in one) for one in possible
    }

    def filled(devices: tuple[Room, ...]) -> int:
        return sum(device_score(r, wanted_slice(r, request), request.weights, request.count) for r in devices)

    def connected(devices: tuple[Room, ...]) -> int:
        return sum(link(a, b) for a, b in combinations(devices, 2))

    if request.device_policy is Policy.BINPACK:
        assert filled(found) == max(map(filled, possible))
    elif request.device_policy is Policy.SPREAD:
        assert filled(found) == min(map(filled, possible))
    elif request.count > 1:
        assert connected(found) == max(map(connected, possible))


@given(st.lists(workers, min_size=1, max_size=4), requests, st.randoms())
def test_the_order_of_devices_and_workers_does_not_matter(
    fleet: list[Rooms], request: SliceRequest, random: st.DataObject
) -> None:
    for number, worker in enumerate(fleet):
        worker.worker_id = worker.name = f"w{number}"
    first = place(request, fleet)
    for worker in fleet:
        shuffled = list(worker.by_id.items())
        random.shuffle(shuffled)
        worker.by_id = dict(shuffled)
    random.shuffle(fleet)
    assert place(request, fleet) == first
    assert (first is None) == (not any(every_fitting_set(request, worker) for worker in fleet))


@given(workers, requests, st.integers(1, 3), st.integers(1, 800), st.integers(0, 100))
def test_less_fits_wherever_more_does(
    worker: Rooms, request: SliceRequest, count: int, memory_mib: int, cores: int
) -> None:
    assume(choose(request, worker.by_id.values()) is not None)
    less = SliceRequest(
        count=min(count, request.count),
        memory_mib=min(memory_mib, request.memory_mib or 1),
        cores=min(cores, request.cores),
        types=request.types,
        types_denied=request.types_denied,
        uuids=request.uuids,
        uuids_denied=request.uuids_denied,
        numa_bind=request.numa_bind,
        anti_affinity=request.anti_affinity,
    )
    assert choose(less, worker.by_id.values()) is not None


@given(workers, requests)
def test_scores_of_devices_that_fit_are_shares(worker: Rooms, request: SliceRequest) -> None:
    weights = request.weights
    for room in worker.by_id.values():
        if refusal(room, request) is None:
            score = device_score(room, wanted_slice(room, request), weights)
            assert 0 <= score <= FULL * (weights.slot + weights.core + weights.memory)
