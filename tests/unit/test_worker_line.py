"""Replicas that start on one device: an engine that profiles memory starts alone where nothing holds the others."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from xinfer.devices import Device, DeviceSlice
from xinfer.ops import Kind
from xinfer.protocol import Assignment, Assignments, ReplicaStatus, ReplicaView
from xinfer.routes import Endpoint
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.core import RESERVED_S, WorkerCore
from xinfer.worker.events import Assigned, Command, Ended, Event, Looked, Prepared, Report, Seen, Spawn, Tick
from xinfer.worker.leases import LeaseBook
from xinfer.worker.line import Claim, StartLine

CARDS = tuple(Device(device_id=name, kind="cuda", memory_mib=10_000, cores=100) for name in ("x", "y"))


def item(replica_id: str, *device_ids: str, engine: str = "plain", generation: int = 1) -> Assignment:
    spec = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
    slices = tuple(DeviceSlice(device_id=device_id, memory_mib=100) for device_id in device_ids)
    return Assignment(
        replica_id=replica_id,
        generation=generation,
        deployment=Deployment(model_uid="m", spec=spec, engine=engine),
        slices=slices,
    )


def ready(instance: str) -> Seen:
    endpoint = Endpoint("r", instance, "tcp://127.0.0.1:1")
    return Seen("a:1", ReplicaView(instance=instance, version=1, state=ReplicaState.READY, endpoint=endpoint))


class Bench:
    """A core that knows one engine, "profiler", that profiles; instances are named after their replicas."""

    def __init__(self) -> None:
        self.book = LeaseBook(CARDS)
        self.core = WorkerCore(
            self.book,
            drain_s=1.0,
            new_instance=lambda: f"i{next(self.instances)}",
            profiles_memory=lambda engine: engine == "profiler",
        )
        self.instances = itertools.count(1)
        self.versions = itertools.count(1)
        self.running: dict[str, str] = {}
        self.now = 0.0

    def tell(self, event: Event) -> list[Command]:
        commands = [one for one in self.core.handle(event, self.now) if not isinstance(one, Report)]
        self.running |= {one.assignment.replica_id: one.instance for one in commands if isinstance(one, Spawn)}
        return commands

    def want(self, *items: Assignment) -> list[str]:
        return spawned(self.tell(Assigned(Assignments(epoch=1, version=next(self.versions), items=items))))

    def becomes_ready(self, replica_id: str) -> list[str]:
        return spawned(self.tell(ready(self.running[replica_id])))

    def status(self, replica_id: str) -> ReplicaStatus:
        return next(one for one in self.core.statuses() if one.replica_id == replica_id)


def spawned(commands: list[Command]) -> list[str]:
    return [one.assignment.replica_id for one in commands if isinstance(one, Spawn)]


def test_the_second_waits_until_the_first_has_profiled() -> None:
    bench = Bench()
    assert bench.want(item("a", "x", engine="profiler"), item("b", "x"), item("c", "y")) == ["a", "c"]
    waiting = bench.status("b")
    assert (waiting.state, waiting.stage) == (ReplicaState.PENDING, "waiting: a profiles device x")
    assert bench.core.next_tick is None
    assert bench.becomes_ready("a") == ["b"]
    assert bench.status("b").stage == "starting the process"


def test_who_waits_for_its_environment_holds_nobody_up_and_takes_its_turn_afterwards() -> None:
    bench = Bench()
    building, other = item("a", "x", engine="profiler"), item("b", "x", engine="profiler")
    assert bench.want(building) == ["a"]
    view = ReplicaView(instance=bench.running["a"], version=0, state=ReplicaState.DOWNLOADING, stage="building")
    bench.tell(Seen("", view))
    assert bench.want(building, other) == ["b"]
    assert spawned(bench.tell(Prepared(bench.running["a"]))) == []
    assert bench.status("a").stage == "waiting: b profiles device x"
    assert bench.status("a").restarts == 0
    assert bench.becomes_ready("b") == ["a"]


def test_a_reservation_that_expires_costs_its_place_in_the_line() -> None:
    bench = Bench()
    first, second, late = (item(name, "x", engine="profiler") for name in "abc")
    assert bench.want(first, second) == ["a"]
    bench.now = 0.5 * RESERVED_S
    assert bench.want(first, second, late) == []
    assert {lease.replica_id for lease in bench.book.leases} == {"a", "b", "c"}  # their room is kept
    bench.now = RESERVED_S
    bench.tell(Tick())
    assert bench.becomes_ready("a") == ["c"]
    assert bench.becomes_ready("c") == ["b"]


def test_it_starts_as_well_when_the_first_ends() -> None:
    bench = Bench()
    bench.want(item("a", "x", engine="profiler"), item("b", "x"))
    assert spawned(bench.tell(Ended(bench.running["a"], "no such file", load_error=True))) == ["b"]


def test_who_profiles_waits_until_others_have_started_and_those_behind_it_wait_too() -> None:
    bench = Bench()
    plain, profiler, late = item("a", "x"), item("b", "x", engine="profiler"), item("c", "x")
    assert bench.want(plain) == ["a"]
    assert bench.want(plain, profiler) == []
    assert bench.status("b").stage == "waiting: a starts on device x, which is to be profiled"
    assert bench.want(plain, profiler, late) == []
    assert bench.status("c").stage == "waiting: b profiles device x"
    assert bench.becomes_ready("a") == ["b"]
    assert bench.becomes_ready("b") == ["c"]


def test_engines_that_do_not_profile_start_together() -> None:
    assert Bench().want(item("a", "x"), item("b", "x")) == ["a", "b"]


def test_nobody_waits_on_a_device_that_holds_everybody_hard() -> None:
    bench = Bench()
    bench.tell(Looked(held_hard=frozenset({"x"})))
    items = [item(name, "x", engine="profiler") for name in ("a", "b")]
    assert bench.want(*items) == ["a", "b"]
    bench = Bench()
    assert bench.want(*items) == ["a"]
    assert spawned(bench.tell(Looked(held_hard=frozenset({"x"})))) == ["b"]


def test_several_devices_are_waited_for_together() -> None:
    bench = Bench()
    both = item("b", "x", "y", engine="profiler")
    assert bench.want(item("a", "x"), both, item("c", "y")) == ["a"]
    assert bench.becomes_ready("a") == ["b"]
    assert bench.becomes_ready("b") == ["c"]


def test_who_lacks_room_or_waits_to_be_restarted_keeps_nobody_waiting() -> None:
    bench = Bench()
    bench.want(item("a", "x", engine="profiler"))
    bench.tell(Ended(bench.running["a"], "crashed"))
    assert bench.status("a").stage == "waiting to be restarted"
    assert bench.want(item("a", "x", engine="profiler"), item("b", "x")) == ["b"]


def test_room_is_kept_for_whoever_waits() -> None:
    bench = Bench()
    first, second = item("a", "x", engine="profiler"), item("b", "x")
    bench.want(first, second)
    assert bench.book.free_mib("x") == 10_000 - 2 * 100
    bench.want(first)
    assert bench.book.free_mib("x") == 10_000 - 100


def test_whoever_no_longer_wants_to_start_makes_way() -> None:
    bench = Bench()
    first, second, third = item("a", "x"), item("b", "x", engine="profiler"), item("c", "x")
    bench.want(first)
    bench.want(first, second, third)
    assert bench.want(first, third) == ["c"]


def test_a_claim_is_no_obstacle_to_itself() -> None:
    claim = Claim("a", frozenset({"x"}), profiles=True)
    assert StartLine([claim]).obstacle(claim) == ""


class Starts(RuleBasedStateMachine):
    """Replicas that come, become ready, crash and go, in any order."""

    NAMES = "abcdef"

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.wanted: dict[str, Assignment] = {}
        self.starting: dict[str, Assignment] = {}
        self.serving: dict[str, Assignment] = {}
        self.generation = itertools.count(1)

    def tell(self, event: Event) -> None:
        for command in self.bench.tell(event):
            if isinstance(command, Spawn):
                self.starting[command.assignment.replica_id] = command.assignment

    def assign(self) -> None:
        version = next(self.bench.versions)
        self.tell(Assigned(Assignments(epoch=1, version=version, items=tuple(self.wanted.values()))))

    @rule(
        name=st.sampled_from(NAMES),
        devices=st.sets(st.sampled_from("xy"), min_size=1),
        engine=st.sampled_from(["plain", "profiler"]),
    )
    def launch(self, name: str, devices: set[str], engine: str) -> None:
        if name not in self.wanted and name not in self.starting | self.serving:
            self.wanted[name] = item(name, *sorted(devices), engine=engine, generation=next(self.generation))
            self.assign()

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def start_succeeds(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.starting)))
        self.serving[name] = self.starting.pop(name)
        self.tell(ready(self.bench.running[name]))

    @precondition(lambda self: self.starting or self.serving)
    @rule(data=st.data(), load_error=st.booleans())
    def die(self, data: st.DataObject, load_error: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.starting | self.serving)))
        self.starting.pop(name, None)
        self.serving.pop(name, None)
        self.tell(Ended(self.bench.running[name], "died", load_error=load_error))

    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        if self.wanted:
            name = data.draw(st.sampled_from(sorted(self.wanted)))
            del self.wanted[name]
            self.assign()
            if name in self.starting | self.serving:  # it was asked to end, and does
                self.starting.pop(name, None)
                self.serving.pop(name, None)
                self.tell(Ended(self.bench.running[name], ""))

    @rule(passed=st.floats(0.0, 60.0))
    def wait(self, passed: float) -> None:
        self.bench.now += passed
        self.tell(Tick())

    @invariant()
    def nobody_starts_beside_one_that_profiles(self) -> None:
        for one, other in itertools.combinations(self.starting.values(), 2):
            shared = {piece.device_id for piece in one.slices} & {piece.device_id for piece in other.slices}
            assert not shared or {one.deployment.engine, other.deployment.engine} == {"plain"}

    @invariant()
    def whoever_waits_says_for_whom(self) -> None:
        for status in self.bench.core.statuses():
            if status.stage.startswith("waiting: "):
                assert status.stage.split()[1] in self.wanted.keys() | self.starting.keys()
                assert self.starting

    def teardown(self) -> None:
        """Starts that succeed let everybody in, in the end, and each wave lets somebody in."""
        for _ in range(2 * len(self.NAMES)):
            self.bench.now += 60.0
            self.tell(Tick())
            for name in sorted(self.starting):
                self.serving[name] = self.starting.pop(name)
                self.tell(ready(self.bench.running[name]))
        failed = {one.replica_id for one in self.bench.core.statuses() if one.state is ReplicaState.FAILED}
        assert self.serving.keys() | failed == self.wanted.keys()


TestStarts = Starts.TestCase
TestStarts.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
