"""A device that reports less free memory than the books have: the reading may be older than what has just ended."""

import pytest
from unit.worker_bench import CPU, item
from unit.worker_bench import Bench as WorkerBench

from xinfer.devices import DeviceSlice, DeviceUse
from xinfer.errors import NoCapacity
from xinfer.protocol import Assignment
from xinfer.spec import ReplicaState
from xinfer.worker.core import ROOM_PATIENCE_S
from xinfer.worker.events import Command, Ended, Spawn, Tick
from xinfer.worker.leases import DeviceInUse, LeaseBook


class Bench(WorkerBench):
    """With a device that reports what a test wants."""

    def look(self, free_mib: int, **by_replica: int) -> list[Command]:
        used = {name.replace("_", "-"): mib for name, mib in by_replica.items()}
        use = DeviceUse(device_id="cpu", used_mib=1000 - free_mib, free_mib=free_mib, by_replica=used)
        self.book.observe([use])
        return self.tell(Tick())


def big(generation: int = 1) -> Assignment:
    return item(generation=generation, memory_mib=700)


def spawned(commands: list[Command]) -> bool:
    return [type(command) for command in commands] == [Spawn]


def test_a_replica_starts_again_where_the_reading_is_older_than_its_end() -> None:
    bench = Bench()
    assert spawned(bench.want(big()))
    bench.look(300, m_0=700)
    bench.tell(Ended("i1", "killed"))
    assert bench.status.state is ReplicaState.PENDING
    assert bench.core.next_tick is not None
    bench.now = bench.core.next_tick
    assert spawned(bench.tell(Tick()))


def test_its_successor_waits_for_a_newer_reading() -> None:
    bench = Bench()
    bench.want(big())
    bench.look(300, m_0=700)
    bench.want(big(generation=2))  # another generation: the first one has to go, and its lease with it
    assert bench.tell(Ended("i1", "")) == []
    assert bench.status.state is ReplicaState.PENDING
    assert "falls short by 400 MiB (300 of 1000 MiB free)" in bench.status.reason
    bench.now += 5.0
    assert not spawned(bench.look(300))
    bench.now += 5.0
    assert spawned(bench.look(1000))


def test_memory_that_stays_in_use_fails_it_with_the_numbers() -> None:
    bench = Bench()
    bench.look(300)
    assert bench.want(big()) == []
    while bench.core.next_tick is not None:
        assert bench.status.state is ReplicaState.PENDING
        bench.now = bench.core.next_tick
        assert bench.tell(Tick()) == []
    assert bench.now == 1000.0 + ROOM_PATIENCE_S
    assert bench.status.state is ReplicaState.FAILED
    assert "falls short by 400 MiB" in bench.status.reason


def test_what_the_books_refuse_is_not_waited_for() -> None:
    bench = Bench()
    bench.look(300)
    bench.want(item(memory_mib=1100))
    assert bench.status.state is ReplicaState.FAILED


def test_the_refusal_tells_the_two_apart() -> None:
    book = LeaseBook([CPU])
    book.observe([DeviceUse(device_id="cpu", used_mib=700, free_mib=300)])
    with pytest.raises(DeviceInUse):
        book.book("a", 1, (DeviceSlice(device_id="cpu", memory_mib=400),))
    with pytest.raises(NoCapacity) as refusal:
        book.book("a", 1, (DeviceSlice(device_id="cpu", memory_mib=1001),))
    assert type(refusal.value) is NoCapacity
