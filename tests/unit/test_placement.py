"""The placement policies: pure, deterministic, and never over what there is."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from xinfer import plugins
from xinfer.devices import Device
from xinfer.ops import Kind
from xinfer.spec import Deployment, Format, ModelSpec, ResourceRequest
from xinfer.supervisor import sizing
from xinfer.supervisor.placement.base import DeviceRoom, Need, WorkerRoom, shortfalls
from xinfer.supervisor.placement.least_committed import POLICY


def room(index=0, *, memory_mib=1000, committed=0, replicas=0, cores=0, leaving=0):
    device = Device(device_id=f"d{index}", kind="cuda", index=index, memory_mib=memory_mib, cores=100)
    return DeviceRoom(device, committed, cores, leaving, replicas)


def worker(name, *rooms):
    return WorkerRoom(name, name, list(rooms))


def chosen(need, *workers):
    placement = POLICY.place(need, workers)
    return placement and (placement.worker_id, [piece.device_id for piece in placement.slices])


def test_the_policy_is_found_by_its_name():
    assert plugins.policies("xinfer.supervisor.placement")["least_committed"] is POLICY


def test_the_smaller_committed_share_wins_not_the_smaller_number():
    big, small = worker("big", room(memory_mib=10_000, committed=2000)), worker("small", room(committed=500))
    assert chosen(Need(1, 100), big, small) == ("big", ["d0"])


def test_then_fewer_replicas_then_the_name():
    need = Need(1, 100)
    assert chosen(need, worker("a", room(replicas=2)), worker("b", room(replicas=1))) == ("b", ["d0"])
    assert chosen(need, worker("b", room()), worker("a", room())) == ("a", ["d0"])


def test_several_devices_come_from_one_worker():
    a = worker("a", room(0, committed=100), room(1), room(2))
    assert chosen(Need(2, 100), worker("b", room()), a) == ("a", ["d1", "d2"])


@pytest.mark.parametrize(
    ("rooms", "why"),
    [
        ([room(committed=950)], "d0 falls short by 50 MiB (50 of 1000 MiB free)"),
        ([room(leaving=950)], "d0 falls short by 50 MiB (50 of 1000 MiB free, 950 MiB of stopping replicas come back"),
        ([room(cores=60)], "d0 falls short by 10 % of its cores"),
        ([], "has 0 suitable devices, 1 are needed"),
    ],
)
def test_what_does_not_fit_is_explained(rooms, why):
    need = Need(1, 100, cores_percent=50)
    assert chosen(need, worker("a", *rooms)) is None
    assert why in shortfalls(need, [worker("a", *rooms)])


rooms = st.builds(
    dict,
    memory_mib=st.integers(1, 1000),
    committed=st.integers(0, 1000),
    cores=st.integers(0, 100),
    replicas=st.integers(0, 5),
    leaving=st.integers(0, 100),
)


@given(st.lists(st.lists(rooms, max_size=3), max_size=4), st.integers(1, 2), st.integers(0, 500), st.integers(0, 100))
def test_a_place_is_found_exactly_where_the_need_fits(layout, devices, memory_mib, cores):
    workers = []
    for number, devices_of_one in enumerate(layout):
        named = [room(index, **fields) for index, fields in enumerate(devices_of_one)]
        workers.append(worker(f"w{number}", *named))
    need = Need(devices, memory_mib, cores)
    place = POLICY.place(need, workers)
    assert (place is not None) == any(sum(r.fits(need) for r in w.devices) >= devices for w in workers)
    assert place == POLICY.place(need, list(reversed(workers)))
    if place:
        by_id = {r.device.device_id: r for w in workers if w.worker_id == place.worker_id for r in w.devices}
        assert len({piece.device_id for piece in place.slices}) == devices
        assert all(by_id[piece.device_id].fits(need) for piece in place.slices)


def sized(format_, weights_mib=0, **request):
    spec = ModelSpec(name="x", kind=Kind.LLM, source="", format=format_, weights_mib=weights_mib)
    return sizing.memory_mib(Deployment(model_uid="x", spec=spec, engine="any", request=ResourceRequest(**request)))


def test_memory_is_what_was_asked_for_else_an_estimate():
    assert sized(Format.SAFETENSORS, 10_000, memory_mib=5) == 5
    assert sized(Format.SAFETENSORS, 10_000) == 12_000 + sizing.PROCESS_MIB
    assert sized(Format.SAFETENSORS, 10_000, devices=2) == 6_000 + sizing.PROCESS_MIB
    assert sized(Format.NONE) == sizing.BARE_PROCESS_MIB
