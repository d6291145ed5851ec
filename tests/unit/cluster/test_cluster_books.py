"""The sums by which workers are compared are those of their devices, before anybody has looked at these."""

import random

import msgspec
import pytest

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.protocol import WorkerReport
from xinfer.slices.rooms import totals
from xinfer.spec import ReplicaState
from xinfer.supervisor.books import Entries, Tenant, open_rooms
from xinfer.supervisor.records import WorkerRecord


def tenant(chance, number):
    devices = chance.sample(["cpu0", "gpu-0", "gpu-1", "gone"], chance.randint(1, 2))
    slices = tuple(
        DeviceSlice(device_id=name, memory_mib=chance.randint(1, 400), cores_percent=chance.choice((0, 30)))
        for name in devices
    )
    return Tenant("m", f"m-{number}", slices, chance.choice(list(ReplicaState)))


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_they_are_known_before(world, gpu, on_cpu, seed):
    chance = random.Random(seed)
    cpu = Device(device_id="cpu0", kind="cpu", memory_mib=900, reserve_mib=100, cores=4)
    hello = world.worker("a", devices=[cpu, msgspec.structs.replace(gpu(0), slots=4), gpu(1)]).hello
    report = WorkerReport(worker_id="a", incarnation="1", sequence=1, uses=(DeviceUse(device_id="gpu-0", free_mib=9),))
    worker = WorkerRecord(hello, report, 0.0, world.cluster.workers["a"].assignments)
    worker.readings.take(report, report, hello.devices, 0.0)
    entries = Entries(
        [tenant(chance, number) for number in range(4)],
        [tenant(chance, number) for number in range(4, 7)],
        count_leaving=chance.random() < 0.5,
    )
    rooms = open_rooms(worker, entries, on_cpu=on_cpu)
    before = rooms.totals
    assert totals(rooms.by_id.values()) == before
    rooms.take((DeviceSlice(device_id="gpu-1", memory_mib=5, cores_percent=1),))
    assert totals(rooms.by_id.values()) == rooms.totals
