import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.worker_bench import Bench, item, view

from xinfer.protocol import Assignment, Assignments
from xinfer.spec import ReplicaState
from xinfer.worker.core import BACKOFF_LIMIT_S, BACKOFF_S, STABLE_S, START_ATTEMPTS
from xinfer.worker.events import (
    Adopted,
    Assigned,
    End,
    Ended,
    Event,
    Hung,
    Joined,
    Kill,
    Leave,
    Report,
    Seen,
    Spawn,
    Started,
    Tick,
)


def test_an_assignment_is_booked_and_spawned() -> None:
    bench = Bench()
    (spawn,) = bench.want(item())
    assert isinstance(spawn, Spawn)
    assert spawn.lease.slices == item().slices
    assert bench.book.free_mib("cpu") == 600
    assert (bench.status.state, bench.status.revision, bench.status.was_ready) == (ReplicaState.STARTING, 7, False)
    bench.ready("i1")
    status = bench.status
    assert (status.state, status.pid, status.control_address) == (ReplicaState.READY, 42, "127.0.0.1:2")
    assert status.endpoint == view("i1").endpoint
    assert status.was_ready
    assert status.restarts == 0


def test_the_same_assignments_again_change_nothing() -> None:
    bench = Bench()
    bench.want(item())
    assert bench.want(item()) == []
    assert bench.core.handle(Tick(), bench.now) == []


def test_every_change_is_reported_once() -> None:
    bench = Bench()
    assert Report() in bench.core.handle(Assigned(Assignments(epoch=1, version=1, items=(item(),))), 0.0)
    assert bench.core.handle(Seen("a:1", view("i1")), 1.0) == [Report()]
    assert bench.core.handle(Seen("a:1", view("i1")), 2.0) == []


def test_since_is_when_the_state_began() -> None:
    bench = Bench()
    bench.want(item())
    bench.now = 1010.0
    bench.ready("i1")
    bench.now = 1020.0
    bench.tell(Tick())
    assert bench.status.since == 1010.0


def test_old_assignments_are_ignored() -> None:
    bench = Bench()
    bench.tell(Assigned(Assignments(epoch=2, version=5, items=(item(),))))
    assert bench.tell(Assigned(Assignments(epoch=2, version=4))) == []
    assert bench.tell(Assigned(Assignments(epoch=1, version=9))) == []
    assert bench.core.assignments_version == (2, 5)
    assert bench.tell(Assigned(Assignments(epoch=3, version=1))) == [End("i1", 30.0)]


def test_after_a_hello_the_epoch_of_the_answer_counts_even_if_it_is_lower() -> None:
    bench = Bench()
    bench.tell(Assigned(Assignments(epoch=9, version=9, items=(item(),))))
    assert bench.tell(Joined(Assignments(epoch=1, version=2))) == [End("i1", 30.0)]
    assert bench.core.assignments_version == (1, 2)
    assert bench.tell(Joined(Assignments(epoch=1, version=1, items=(item(),)))) == []


def test_a_supervisor_that_has_yet_to_decide_takes_nothing_away() -> None:
    bench = Bench()
    bench.tell(Assigned(Assignments(epoch=9, version=9, items=(item(),))))
    assert bench.tell(Joined()) == []
    assert bench.tell(Assigned(Assignments(epoch=3, version=1))) == [End("i1", 30.0)]


def test_what_is_not_assigned_any_more_is_drained_and_forgotten() -> None:
    bench = Bench()
    bench.want(item())
    bench.ready("i1")
    assert bench.want() == [End("i1", 30.0)]
    assert (bench.status.state, bench.status.endpoint) == (ReplicaState.DRAINING, None)
    assert bench.want() == []
    assert bench.book.free_mib("cpu") == 600
    assert bench.tell(Ended("i1", "")) == []
    assert bench.core.statuses() == ()
    assert bench.book.free_mib("cpu") == 1000


def test_a_new_generation_starts_when_the_old_process_is_gone() -> None:
    bench = Bench()
    bench.want(item(memory_mib=900))
    bench.ready("i1")
    assert bench.want(item(generation=2, memory_mib=900)) == [End("i1", 30.0)]
    assert bench.status.generation == 1
    (spawn,) = bench.tell(Ended("i1", ""))
    assert isinstance(spawn, Spawn)
    assert (bench.status.generation, bench.status.restarts, bench.status.was_ready) == (2, 0, False)


def test_a_replica_wanted_again_while_it_ends_is_started_afresh() -> None:
    bench = Bench()
    bench.want(item())
    bench.want()
    assert bench.want(item()) == []
    (spawn,) = bench.tell(Ended("i1", ""))
    assert isinstance(spawn, Spawn)


def test_a_replica_that_was_ready_is_restarted_for_ever_with_backoff() -> None:
    bench = Bench()
    bench.want(item())
    bench.ready("i1")
    delays = []
    for number in range(1, 12):
        bench.tell(Ended(f"i{number}", "killed", load_error=number > 5))
        assert (bench.status.state, bench.status.reason) == (ReplicaState.PENDING, "killed")
        assert bench.status.was_ready
        before = bench.now
        (spawn,) = bench.wait_for_tick()
        assert isinstance(spawn, Spawn)
        delays.append(bench.now - before)
    assert delays[:4] == [BACKOFF_S, BACKOFF_S * 2, BACKOFF_S * 4, BACKOFF_S * 8]
    assert delays[-1] == BACKOFF_LIMIT_S
    assert bench.status.restarts == 11
    bench.ready("i12")
    assert bench.status.reason == ""


def test_a_stable_replica_begins_with_a_short_backoff_again() -> None:
    bench = Bench()
    bench.want(item())
    bench.ready("i1")
    for instance in ("i1", "i2", "i3"):
        bench.tell(Ended(instance, "killed"))
        bench.wait_for_tick()
    bench.ready("i4")
    bench.now += STABLE_S
    bench.tell(Ended("i4", "killed"))
    assert bench.core.next_tick == bench.now + BACKOFF_S


def test_a_load_error_is_final() -> None:
    bench = Bench()
    bench.want(item())
    bench.tell(Ended("i1", "no such file", load_error=True))
    assert (bench.status.state, bench.status.reason) == (ReplicaState.FAILED, "no such file")
    assert bench.core.next_tick is None
    assert bench.book.free_mib("cpu") == 1000
    assert bench.want(item()) == []
    (spawn,) = bench.want(item(generation=2))
    assert isinstance(spawn, Spawn)


def test_a_process_that_dies_before_it_is_ready_gets_some_attempts() -> None:
    bench = Bench()
    bench.want(item())
    for number in range(1, START_ATTEMPTS):
        bench.tell(Ended(f"i{number}", "crashed"))
        assert bench.status.state is ReplicaState.PENDING
        bench.wait_for_tick()
    bench.tell(Ended(f"i{START_ATTEMPTS}", "crashed"))
    assert (bench.status.state, bench.status.restarts) == (ReplicaState.FAILED, START_ATTEMPTS - 1)


def test_no_room_fails_with_the_numbers() -> None:
    bench = Bench()
    bench.want(item("a", memory_mib=700))
    assert bench.want(item("a", memory_mib=700), item("b", memory_mib=700)) == []
    status = bench.core.statuses()[1]
    assert status.state is ReplicaState.FAILED
    assert "falls short by 400 MiB (300 of 1000 MiB free)" in status.reason


def test_it_waits_for_room_that_is_being_given_back() -> None:
    bench = Bench()
    bench.want(item("a", memory_mib=700))
    assert bench.want(item("b", memory_mib=700)) == [End("i1", 30.0)]
    assert {status.state for status in bench.core.statuses()} == {ReplicaState.DRAINING, ReplicaState.PENDING}
    (spawn,) = bench.tell(Ended("i1", ""))
    assert isinstance(spawn, Spawn)
    assert spawn.assignment.replica_id == "b"


def test_a_hanging_process_is_killed_and_the_reason_says_so() -> None:
    bench = Bench()
    bench.want(item())
    bench.ready("i1")
    assert bench.tell(Hung("i1", 36.0)) == [Kill("i1")]
    bench.tell(Ended("i1", "killed by SIGKILL"))
    assert bench.status.reason.startswith("it did not answer for 36 s and was killed")
    assert bench.status.state is ReplicaState.PENDING


def test_adopted_replicas_are_reported_before_the_supervisor_spoke() -> None:
    bench = Bench()
    assert bench.tell(Adopted("old", item(generation=4), 77, "a:1", view("old"))) == []
    status = bench.status
    assert (status.state, status.generation, status.pid, status.was_ready) == (ReplicaState.READY, 4, 77, True)
    assert bench.book.free_mib("cpu") == 600
    assert bench.want(item(generation=4)) == []
    bench.tell(Ended("old", "killed"))
    (spawn,) = bench.wait_for_tick()
    assert isinstance(spawn, Spawn)


def test_an_adopted_replica_that_nobody_wants_is_ended() -> None:
    bench = Bench()
    bench.tell(Adopted("old", item(), 77))
    assert bench.status.state is ReplicaState.STARTING
    assert bench.want() == [End("old", 30.0)]


def test_leaving_ends_everything_and_takes_nothing_new() -> None:
    bench = Bench()
    bench.want(item("a"), item("b"))
    assert bench.tell(Leave(3.0)) == [End("i1", 3.0), End("i2", 3.0)]
    assert bench.want(item("c")) == []
    bench.tell(Ended("i1", ""))
    bench.tell(Ended("i2", ""))
    assert bench.core.statuses() == ()


def test_late_news_of_a_process_that_is_gone_change_nothing() -> None:
    bench = Bench()
    bench.want(item())
    bench.tell(Ended("i1", "crashed"))
    for event in (Seen("a:1", view("i1")), Hung("i1", 1.0), Ended("i1", "again"), Started("i1", 9)):
        assert bench.core.handle(event, bench.now) == []


@given(st.lists(st.sampled_from(["failed", "stopped"]), max_size=3))
def test_a_process_on_its_way_out_is_not_shown_as_final(states: list[str]) -> None:
    bench = Bench()
    bench.want(item())
    for state in states:
        bench.tell(Seen("a:1", view("i1", ReplicaState(state.upper()))))
        assert bench.status.state is ReplicaState.STARTING


class World(RuleBasedStateMachine):
    """A core, and a world that does what it commands, in which anything may die at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.running: dict[str, Assignment] = {}
        self.wanted: dict[str, Assignment] = {}
        self.generation = itertools.count(1)

    def tell(self, event: Event) -> None:
        for command in self.bench.core.handle(event, self.bench.now):
            match command:
                case Spawn(instance, assignment, _):
                    assert self.wanted[assignment.replica_id] == assignment
                    self.running[instance] = assignment
                case End(instance, _) | Kill(instance):
                    assert instance in self.running

    @rule(ids=st.sets(st.sampled_from("abcd")), renew=st.booleans(), memory_mib=st.integers(100, 600))
    def assign(self, ids: set[str], renew: bool, memory_mib: int) -> None:
        kept = {} if renew else {name: self.wanted[name] for name in ids & self.wanted.keys()}
        fresh = {name: item(name, next(self.generation), memory_mib) for name in ids - kept.keys()}
        self.wanted = kept | fresh
        version = next(self.bench.versions)
        self.tell(Assigned(Assignments(epoch=1, version=version, items=tuple(self.wanted.values()))))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), load_error=st.booleans())
    def die(self, data: st.DataObject, load_error: bool) -> None:
        instance = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[instance]
        self.tell(Ended(instance, "died", load_error=load_error))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), hung=st.booleans())
    def hear(self, data: st.DataObject, hung: bool) -> None:
        instance = data.draw(st.sampled_from(sorted(self.running)))
        self.tell(Hung(instance, 9.0) if hung else Seen("a:1", view(instance)))

    @rule(passed=st.floats(0.0, 100.0))
    def wait(self, passed: float) -> None:
        self.bench.now += passed
        self.tell(Tick())

    @invariant()
    def one_process_per_replica_on_memory_that_exists(self) -> None:
        ids = [assignment.replica_id for assignment in self.running.values()]
        assert len(ids) == len(set(ids))
        booked = {(lease.replica_id, lease.generation) for lease in self.bench.book.leases}
        assert {(one.replica_id, one.generation) for one in self.running.values()} <= booked
        assert self.bench.book.free_mib("cpu") >= 0

    @invariant()
    def the_report_covers_what_is_wanted_and_what_runs(self) -> None:
        reported = {status.replica_id: status for status in self.bench.core.statuses()}
        running = {assignment.replica_id for assignment in self.running.values()}
        assert reported.keys() == self.wanted.keys() | running
        for status in reported.values():
            assert (status.endpoint is not None) == (status.state is ReplicaState.READY)
            assert (status.state in (ReplicaState.PENDING, ReplicaState.FAILED)) == (status.replica_id not in running)

    @invariant()
    def nothing_waits_for_a_time_that_is_past(self) -> None:
        assert self.bench.core.next_tick is None or self.bench.core.next_tick >= self.bench.now

    def teardown(self) -> None:
        """Once nothing dies unasked any more, all that can run runs; and once nothing is wanted, nothing is left."""
        for nothing_wanted in (False, True):
            if nothing_wanted:
                self.wanted = {}
                self.tell(Assigned(Assignments(epoch=1, version=next(self.bench.versions))))
            for _ in range(10):
                obsolete = [name for name, one in self.running.items() if self.wanted.get(one.replica_id) != one]
                for instance in obsolete:
                    del self.running[instance]
                    self.tell(Ended(instance, ""))
                self.bench.now += BACKOFF_LIMIT_S
                self.tell(Tick())
            states = {status.state for status in self.bench.core.statuses()}
            assert states <= {ReplicaState.STARTING, ReplicaState.READY, ReplicaState.FAILED, ReplicaState.DRAINING}
        assert self.running == {}
        assert self.bench.book.leases == ()


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
