"""A device that reports less free memory than the books have: the reading may be older than what has just ended."""

import itertools

import pytest

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.errors import NoCapacity
from xinfer.ops import Kind
from xinfer.protocol import Assignment, Assignments, ReplicaStatus
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.core import ROOM_PATIENCE_S, WorkerCore
from xinfer.worker.events import Assigned, Command, Ended, Event, Report, Spawn, Tick
from xinfer.worker.leases import DeviceInUse, LeaseBook

CPU = Device(device_id="cpu", kind="cpu", memory_mib=1000, cores=4)
DEPLOYMENT = Deployment(
    model_uid="m", spec=ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE), engine="echo"
)


class Bench:
    """A core with a hand-turned clock and a device that reports what a test wants."""

    def __init__(self) -> None:
        self.book = LeaseBook([CPU])
        names = (f"i{number}" for number in itertools.count(1))
        self.core = WorkerCore(self.book, drain_s=30.0, new_instance=lambda: next(names))
        self.now = 1000.0
        self.versions = itertools.count(1)

    def tell(self, event: Event) -> list[Command]:
        return [command for command in self.core.handle(event, self.now) if not isinstance(command, Report)]

    def want(self, *generations: int, memory_mib: int = 700) -> list[Command]:
        slices = (DeviceSlice(device_id="cpu", memory_mib=memory_mib),)
        items = tuple(
            Assignment(replica_id="m-0", generation=number, deployment=DEPLOYMENT, slices=slices)
            for number in generations
        )
        return self.tell(Assigned(Assignments(epoch=1, version=next(self.versions), items=items)))

    def look(self, free_mib: int, **by_replica: int) -> list[Command]:
        used = {name.replace("_", "-"): mib for name, mib in by_replica.items()}
        use = DeviceUse(device_id="cpu", used_mib=1000 - free_mib, free_mib=free_mib, by_replica=used)
        self.book.observe([use])
        return self.tell(Tick())

    @property
    def status(self) -> ReplicaStatus:
        (status,) = self.core.statuses()
        return status


def spawned(commands: list[Command]) -> bool:
    return [type(command) for command in commands] == [Spawn]


def test_a_replica_starts_again_where_the_reading_is_older_than_its_end() -> None:
    bench = Bench()
    assert spawned(bench.want(1))
    bench.look(300, m_0=700)
    bench.tell(Ended("i1", "killed"))
    assert bench.status.state is ReplicaState.PENDING
    assert bench.core.next_tick is not None
    bench.now = bench.core.next_tick
    assert spawned(bench.tell(Tick()))


def test_its_successor_waits_for_a_newer_reading() -> None:
    bench = Bench()
    bench.want(1)
    bench.look(300, m_0=700)
    bench.want(2)  # another generation: the first one has to go, and its lease with it
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
    assert bench.want(1) == []
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
    bench.want(1, memory_mib=1100)
    assert bench.status.state is ReplicaState.FAILED


def test_the_refusal_tells_the_two_apart() -> None:
    book = LeaseBook([CPU])
    book.observe([DeviceUse(device_id="cpu", used_mib=700, free_mib=300)])
    with pytest.raises(DeviceInUse):
        book.book("a", 1, (DeviceSlice(device_id="cpu", memory_mib=400),))
    with pytest.raises(NoCapacity) as refusal:
        book.book("a", 1, (DeviceSlice(device_id="cpu", memory_mib=1001),))
    assert type(refusal.value) is NoCapacity
