from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice
from xinfer.slices.explain import MOST_DETAILED, MOST_NAMED, Explanation, explain, no_capacity
from xinfer.slices.fit import Reason
from xinfer.slices.nearest import Nearest
from xinfer.slices.place import place
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms


def card(index: int = 0, **fields: object) -> Device:
    plain = {"device_id": f"gpu-{index}", "kind": "cuda", "index": index, "memory_mib": 1000, "cores": 100}
    return Device(**(plain | fields))


def part(memory_mib: int, index: int = 0, cores: int = 0, **fields: object) -> DeviceSlice:
    return DeviceSlice(device_id=f"gpu-{index}", memory_mib=memory_mib, cores_percent=cores, **fields)


def rooms(*devices: Device, taken: Iterable[DeviceSlice] = (), name: str = "") -> Rooms:
    worker = Rooms(devices, worker_id=name)
    for piece in taken:
        worker.take([piece])
    return worker


@pytest.mark.parametrize(
    ("device", "taken", "request_", "reason", "message"),
    [
        (
            card(healthy=False, health_reason="Xid 79, it has fallen off the bus"),
            [],
            SliceRequest(memory_mib=1),
            Reason.UNHEALTHY,
            "device gpu-0 is not healthy: Xid 79, it has fallen off the bus",
        ),
        (
            card(name="NVIDIA L4"),
            [],
            SliceRequest(memory_mib=1, types=("a100",)),
            Reason.TYPE_MISMATCH,
            "device gpu-0 is a NVIDIA L4, which the request rules out",
        ),
        (
            card(index=3),
            [],
            SliceRequest(memory_mib=1, indices=(0, 1)),
            Reason.INDEX_MISMATCH,
            "device gpu-3 has the index 3, which the request rules out",
        ),
        (
            card(uuid="GPU-a"),
            [],
            SliceRequest(memory_mib=1, uuids=("GPU-nowhere",)),
            Reason.UUID_MISMATCH,
            "device gpu-0 has the UUID GPU-a, which the request rules out; no device has the UUID GPU-nowhere",
        ),
        (
            card(uuid="GPU-a"),
            [],
            SliceRequest(memory_mib=1, anti_affinity=frozenset({"GPU-a"})),
            Reason.ANTI_AFFINITY,
            "device gpu-0 is on a card that another replica of the model runs on",
        ),
        (
            card(slots=2),
            [part(1), part(1)],
            SliceRequest(memory_mib=1),
            Reason.SLOTS_EXHAUSTED,
            "device gpu-0 has no slot left of 2",
        ),
        (
            card(),
            [part(900)],
            SliceRequest(memory_mib=150),
            Reason.INSUFFICIENT_MEMORY,
            "device gpu-0 falls short by 50 MiB (100 of 1000 MiB free)",
        ),
        (
            card(),
            [part(900)],
            SliceRequest(memory_percent=20),
            Reason.INSUFFICIENT_MEMORY,
            "device gpu-0 falls short by 100 MiB (100 of 1000 MiB free)",
        ),
        (
            card(),
            [part(1, cores=70)],
            SliceRequest(memory_mib=1, cores=40),
            Reason.INSUFFICIENT_CORES,
            "device gpu-0 falls short by 10 % of its cores",
        ),
        (
            card(),
            [part(1), part(1)],
            SliceRequest(memory_mib=1, cores=100),
            Reason.EXCLUSIVE_CONFLICT,
            "device gpu-0 has 2 tenants already, it cannot be had alone",
        ),
        (
            card(),
            [part(1, cores=100, exclusive=True)],
            SliceRequest(memory_mib=1),
            Reason.EXCLUSIVE_CONFLICT,
            "device gpu-0 belongs to one replica alone",
        ),
        (
            card(),
            [part(1, cores=60), part(1, cores=40)],
            SliceRequest(memory_mib=1),
            Reason.CORES_EXHAUSTED,
            "device gpu-0 has no cores left that nobody claimed",
        ),
        (
            card(),
            [],
            SliceRequest(memory_mib=1, count=2),
            Reason.NOT_ENOUGH_DEVICES,
            "device gpu-0 has room, but not enough others of its worker do",
        ),
    ],
)
def test_every_reason_is_said_in_words(
    device: Device, taken: list[DeviceSlice], request_: SliceRequest, reason: Reason, message: str
) -> None:
    found = explain(request_, [rooms(device, taken=taken)])
    (verdict,) = found.devices
    assert (verdict.reason, found.reasons) == (reason, {reason: 1})
    assert message.startswith(verdict.message)
    assert found.message.startswith(message)


def test_a_cordoned_device_says_so() -> None:
    worker = rooms(card())
    worker.cordon("gpu-0")
    assert explain(SliceRequest(memory_mib=1), [worker]).message == "device gpu-0 is cordoned, it takes nothing new"


def test_devices_on_different_numa_nodes_do_not_go_together() -> None:
    found = explain(SliceRequest(memory_mib=1, count=2, numa_bind=True), [rooms(card(0, numa=0), card(1, numa=1))])
    assert found.reasons == {Reason.NUMA_NOT_FIT: 2}
    assert found.nearest == Nearest(count=1)


def test_memory_of_stopping_replicas_is_said_to_come_back() -> None:
    worker = rooms(card())
    worker.hold([part(950)])
    found = explain(SliceRequest(memory_mib=100), [worker])
    assert "(50 of 1000 MiB free, 950 MiB of stopping replicas come back soon)" in found.message


def test_memory_that_others_use_on_the_device_is_not_there() -> None:
    worker = rooms(card(), taken=[part(400)])
    worker.observe("gpu-0", device_free_mib=700, unfilled_mib=400)
    found = explain(SliceRequest(memory_mib=400), [worker])
    assert found.message.startswith("device gpu-0 falls short by 100 MiB (300 of 1000 MiB free)")


def test_fragmented_memory_and_what_would_fit() -> None:
    worker = rooms(card(0), card(1), taken=[part(500, 0), part(600, 1)])
    found = explain(SliceRequest(memory_mib=800), [worker])
    assert (found.fragmented, found.free_mib, found.largest_free_mib) == (True, 900, 500)
    assert found.nearest == Nearest(memory_mib=500)
    assert found.message == (
        "device gpu-0 falls short by 300 MiB (500 of 1000 MiB free), "
        "device gpu-1 falls short by 400 MiB (400 of 1000 MiB free); "
        "900 MiB are free in all, but at most 500 MiB in one piece; it would fit with 500 MiB"
    )
    assert not explain(SliceRequest(memory_mib=901), [worker]).fragmented


def test_where_cores_are_what_is_missing_memory_is_not_fragmented() -> None:
    worker = rooms(card(0), card(1), taken=[part(1, 0, 90), part(900, 1)])
    found = explain(SliceRequest(memory_mib=500, cores=30), [worker])
    assert not found.fragmented
    assert found.nearest == Nearest(cores=10)


def test_of_two_ways_out_the_one_that_keeps_more_is_named() -> None:
    worker = rooms(card(0), card(1), taken=[part(1, 0, 90), part(600, 1)])
    assert explain(SliceRequest(memory_mib=500, cores=30), [worker]).nearest == Nearest(memory_mib=400)
    assert explain(SliceRequest(memory_mib=500, cores=11), [worker]).nearest == Nearest(cores=10)


@pytest.mark.parametrize(
    ("request_", "nearest", "text"),
    [
        (SliceRequest(memory_mib=600), Nearest(memory_mib=400), "with 400 MiB"),
        (SliceRequest(memory_percent=60), Nearest(memory_percent=40), "with 40 % of the memory"),
        (SliceRequest(memory_mib=100, cores=80), Nearest(cores=30), "with 30 % of the cores"),
        (SliceRequest(memory_mib=100, exclusive=True), Nearest(cores=30), "with 30 % of the cores"),
        (
            SliceRequest(memory_mib=600, cores=80),
            Nearest(memory_mib=400, cores=30),
            "with 400 MiB and 30 % of the cores",
        ),
        (SliceRequest(memory_mib=100, count=2), Nearest(count=1), "on 1 device"),
        (SliceRequest(memory_mib=100, uuids=("GPU-x",)), None, ""),
    ],
)
def test_the_nearest_request_that_would_fit(request_: SliceRequest, nearest: Nearest | None, text: str) -> None:
    found = explain(request_, [rooms(card(), taken=[part(600, cores=70)])])
    assert found.nearest == nearest
    assert (f"it would fit {text}" in found.message) if nearest else ("it would fit" not in found.message)


def test_a_place_needs_no_excuse() -> None:
    found = explain(SliceRequest(memory_mib=100), [rooms(card(0), card(1), taken=[part(950)], name="w")])
    assert found.placement is not None
    assert (found.message, found.nearest, found.fragmented) == ("there is room on gpu-1", None, False)
    assert [verdict.reason for verdict in found.devices] == [Reason.INSUFFICIENT_MEMORY, None]


def test_without_devices_there_is_little_to_say() -> None:
    assert explain(SliceRequest(memory_mib=1), []).message == "there are no suitable devices"


def test_a_large_fleet_is_summed_up() -> None:
    fleet = [rooms(*(card(index) for index in range(8)), name=f"w{number:02}") for number in range(20)]
    fleet[7].take([part(990, 3)])
    found = explain(SliceRequest(memory_mib=1001), fleet)
    assert len(found.devices) == 160
    assert found.message.count("falls short") == MOST_NAMED
    assert "in all 160 devices: 160 InsufficientMemory; " in found.message
    refusal = no_capacity("no room", found)
    assert len(refusal.details["devices"]) == MOST_DETAILED
    assert refusal.details["reasons"] == {"InsufficientMemory": 160}
    assert refusal.body()["error"]["details"] == refusal.details
    assert msgspec.convert(refusal.details, Explanation).nearest == found.nearest == Nearest(memory_mib=1000)


fleets = st.lists(
    st.builds(
        lambda devices, taken: rooms(*(card(index, **fields) for index, fields in enumerate(devices)), taken=taken),
        st.lists(
            st.fixed_dictionaries(
                {"memory_mib": st.integers(100, 1000), "slots": st.integers(0, 2), "numa": st.integers(0, 1)}
            ),
            max_size=4,
        ),
        st.lists(st.builds(part, st.integers(0, 900), st.integers(0, 3), st.integers(0, 60)), max_size=4),
    ),
    max_size=3,
)
requests = st.builds(
    SliceRequest,
    count=st.integers(1, 3),
    memory_mib=st.integers(1, 1200),
    cores=st.sampled_from([0, 10, 50, 100]),
    numa_bind=st.booleans(),
)


@given(fleets, requests)
def test_the_nearest_request_fits_and_the_next_does_not(fleet: list[Rooms], request: SliceRequest) -> None:
    found = explain(request, fleet)
    assert found.placement == place(request, fleet)
    assert (found.placement is None) or not found.fragmented
    if found.nearest is None:
        return
    changes = {name: value for name, value in msgspec.structs.asdict(found.nearest).items() if value is not None}
    assert place(msgspec.structs.replace(request, **changes), fleet) is not None
    for name, value in changes.items():
        assert place(msgspec.structs.replace(request, **changes | {name: value + 1}), fleet) is None
    assert all((verdict.missing_mib > 0) == (verdict.needed_mib > verdict.free_mib) for verdict in found.devices)
