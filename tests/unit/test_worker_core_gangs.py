"""A worker with the members of gangs: it starts them in turn, and none of them again by itself."""

import pytest
from unit.worker_bench import Bench, item, view

from xinfer.devices import Seat
from xinfer.protocol import Assignment
from xinfer.spec import ReplicaState
from xinfer.worker.events import Adopted, End, Ended, Prepared, Spawn, Started


@pytest.fixture
def bench() -> Bench:
    return Bench()


def seat(rank: int, rendezvous: str = "") -> Seat:
    return Seat(gang="m-0", rank=rank, size=2, rendezvous=rendezvous)


def member(rank: int, rendezvous: str = "", generation: int = 1) -> Assignment:
    return item("m-0" if rank == 0 else "m-0.1", generation, seat=seat(rank, rendezvous))


def test_the_leader_of_a_gang_says_where_the_others_find_it(bench: Bench) -> None:
    bench.want(member(0))
    assert bench.status.seat == seat(0)
    bench.tell(Started("i1", 42, "h:9"))
    assert (bench.status.seat, bench.status.instance) == (seat(0, "h:9"), "i1")


def test_a_follower_is_made_ready_and_starts_when_its_leader_has(bench: Bench) -> None:
    (spawn,) = bench.want(member(1))
    assert isinstance(spawn, Spawn)
    assert spawn.assignment.seat == seat(1)
    assert bench.tell(Prepared("i1")) == []
    assert (bench.status.state, bench.status.stage) == (
        ReplicaState.PENDING,
        "waiting: for the leader of its gang to start",
    )
    assert bench.book.free_mib("cpu") == 600, "its room is kept"
    (spawn,) = bench.want(member(1, "h:9"))
    assert isinstance(spawn, Spawn)
    assert spawn.assignment.seat == seat(1, "h:9")
    assert bench.status.restarts == 0


def test_a_member_that_ends_is_not_started_again_before_all_of_its_gang_are(bench: Bench) -> None:
    bench.want(member(0))
    bench.ready("i1")
    assert bench.tell(Ended("i1", "killed")) == []
    assert (bench.status.state, bench.status.reason) == (ReplicaState.FAILED, "killed")
    assert bench.core.next_tick is None
    assert isinstance(bench.want(member(0, generation=2))[0], Spawn)


def test_a_member_of_a_broken_gang_has_nothing_to_finish(bench: Bench) -> None:
    bench.want(member(0))
    bench.ready("i1")
    assert bench.want(member(0, generation=2)) == [End("i1", 0.0)]
    assert isinstance(bench.tell(Ended("i1", "as asked"))[0], Spawn)
    bench.ready("i2")
    assert bench.want() == [End("i2", 30.0)]


def test_a_member_that_is_adopted_is_still_where_its_gang_meets(bench: Bench) -> None:
    bench.tell(Adopted("i0", member(0, "h:9"), 42, "127.0.0.1:2", view("i0")))
    bench.want(member(0))
    assert (bench.status.state, bench.status.seat) == (ReplicaState.READY, seat(0, "h:9"))
