"""What the core makes of a look at the devices: warnings to show, and replicas to end."""

import itertools

from xinfer.devices import Device, DeviceSlice
from xinfer.ops import Kind
from xinfer.protocol import Assignment, Assignments, ReplicaStatus, ReplicaView
from xinfer.routes import Endpoint
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.core import FORGIVEN_S, OFFENCES, START_ATTEMPTS, WorkerCore
from xinfer.worker.events import Assigned, Command, End, Ended, Event, Kill, Looked, Report, Seen, Spawn, Started, Tick
from xinfer.worker.leases import LeaseBook

CPU = Device(device_id="cpu", kind="cpu", memory_mib=1000, cores=4)
WHY = "it used 512 MiB of its 400 MiB on device cpu for 20 s; give it more (--gpumem)"
DIED = "its process was killed by SIGKILL; most often that is the kernel\nLast lines of its log:\nloading"


class Bench:
    """A core with one replica, m-0, and a hand-turned clock."""

    def __init__(self) -> None:
        names = (f"i{number}" for number in itertools.count(1))
        self.core = WorkerCore(LeaseBook([CPU]), drain_s=30.0, new_instance=lambda: next(names))
        self.now = 1000.0
        self.versions = itertools.count(1)
        self.instance = ""

    def tell(self, event: Event) -> list[Command]:
        commands = [command for command in self.core.handle(event, self.now) if not isinstance(command, Report)]
        for command in commands:
            if isinstance(command, Spawn):
                self.instance = command.instance
                self.core.handle(Started(command.instance, 42), self.now)
        return commands

    def want(self, generation: int = 1) -> list[Command]:
        spec = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
        item = Assignment(
            replica_id="m-0",
            generation=generation,
            deployment=Deployment(model_uid="m", spec=spec, engine="echo"),
            slices=(DeviceSlice(device_id="cpu", memory_mib=400),),
        )
        return self.tell(Assigned(Assignments(epoch=1, version=next(self.versions), items=(item,))))

    def serve(self, for_s: float = 0.0) -> None:
        """Let the replica be READY for a while."""
        if self.core.next_tick is not None:
            self.now = max(self.now, self.core.next_tick)
            self.tell(Tick())
        endpoint = Endpoint("m-0", self.instance, "tcp://127.0.0.1:1")
        self.tell(
            Seen("a:1", ReplicaView(instance=self.instance, version=1, state=ReplicaState.READY, endpoint=endpoint))
        )
        self.now += for_s

    def offend(self) -> None:
        assert self.tell(Looked(offences={"m-0": WHY})) == [Kill(self.instance, WHY)]
        self.tell(Ended(self.instance, DIED))

    @property
    def status(self) -> ReplicaStatus:
        (status,) = self.core.statuses()
        return status


def test_a_warning_is_shown_while_it_lasts_and_reported_once() -> None:
    bench = Bench()
    bench.want()
    bench.serve()
    look = Looked(warnings={"m-0": "it uses more", "other": "nobody"})
    assert bench.core.handle(look, bench.now) == [Report()]
    assert (bench.status.state, bench.status.warning) == (ReplicaState.READY, "it uses more")
    assert bench.core.handle(look, bench.now) == []
    assert bench.core.handle(Looked(), bench.now) == [Report()]
    assert bench.status.warning == ""


def test_an_offender_is_ended_and_started_again_with_the_numbers_for_a_reason() -> None:
    bench = Bench()
    bench.want()
    bench.serve()
    bench.tell(Looked(warnings={"m-0": "it uses more"}))
    bench.offend()
    status = bench.status
    assert (status.state, status.warning) == (ReplicaState.PENDING, "")
    assert status.reason == f"{WHY}\nLast lines of its log:\nloading"
    bench.serve()
    assert (bench.status.state, bench.status.restarts) == (ReplicaState.READY, 1)


def test_it_is_killed_once() -> None:
    bench = Bench()
    bench.want()
    assert bench.tell(Looked(offences={"m-0": WHY})) == [Kill("i1", WHY)]
    assert bench.tell(Looked(offences={"m-0": WHY})) == []
    assert bench.tell(Looked(offences={"nobody": WHY})) == []


def test_a_late_look_does_not_count_against_a_process_that_is_yet_to_start() -> None:
    bench = Bench()
    spec = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
    item = Assignment(
        replica_id="m-0", generation=1, deployment=Deployment(model_uid="m", spec=spec, engine="echo"), slices=()
    )
    bench.core.handle(Assigned(Assignments(epoch=1, version=1, items=(item,))), bench.now)
    assert bench.tell(Looked(offences={"m-0": WHY})) == []


def test_who_offends_again_and_again_is_given_up() -> None:
    bench = Bench()
    bench.want()
    pauses = []
    for _ in range(OFFENCES - 1):
        bench.serve()
        bench.offend()
        assert bench.core.next_tick is not None
        pauses.append(bench.core.next_tick - bench.now)
    assert pauses == sorted(set(pauses))  # each longer than the one before
    bench.serve()
    bench.offend()
    assert bench.status.state is ReplicaState.FAILED
    assert bench.status.reason.startswith(f"given up after it was ended {OFFENCES} times: it used 512 MiB")
    assert bench.core.next_tick is None
    bench.want(generation=2)
    assert bench.status.state is ReplicaState.STARTING


def test_who_offends_before_it_ever_serves_has_as_many_chances() -> None:
    bench = Bench()
    bench.want()
    for number in range(1, OFFENCES + 1):
        bench.offend()
        assert (bench.status.state is ReplicaState.FAILED) == (number == OFFENCES)
        if bench.core.next_tick is not None:
            bench.now = bench.core.next_tick
            bench.tell(Tick())
    assert OFFENCES >= START_ATTEMPTS


def test_after_long_service_it_is_forgiven() -> None:
    bench = Bench()
    bench.want()
    for _ in range(OFFENCES * 2):
        bench.serve(FORGIVEN_S)
        bench.offend()
    assert bench.status.state is ReplicaState.PENDING


def test_one_that_is_to_end_anyway_may_be_killed_and_leaves_no_record() -> None:
    bench = Bench()
    bench.want()
    bench.serve()
    assert bench.want(generation=2) == [End("i1", 30.0)]
    assert bench.tell(Looked(offences={"m-0": WHY})) == [Kill("i1", WHY)]
    bench.tell(Ended("i1", DIED))
    assert (bench.status.state, bench.status.reason, bench.status.restarts) == (ReplicaState.STARTING, "", 0)
