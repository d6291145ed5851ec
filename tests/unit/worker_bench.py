"""A worker's core with a hand-turned clock, and what it is told."""

import itertools

from xinfer.devices import Device, DeviceSlice, Seat
from xinfer.ops import Kind
from xinfer.protocol import Assignment, Assignments, ReplicaStatus, ReplicaView
from xinfer.routes import Endpoint
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.core import WorkerCore
from xinfer.worker.events import Assigned, Command, Event, Report, Seen, Started, Tick
from xinfer.worker.leases import LeaseBook

CPU = Device(device_id="cpu", kind="cpu", memory_mib=1000, cores=4)
DEPLOYMENT = Deployment(
    model_uid="m", spec=ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE), engine="echo", revision=7
)


def item(replica_id: str = "m-0", generation: int = 1, memory_mib: int = 400, seat: Seat | None = None) -> Assignment:
    slices = (DeviceSlice(device_id="cpu", memory_mib=memory_mib),)
    return Assignment(replica_id=replica_id, generation=generation, deployment=DEPLOYMENT, slices=slices, seat=seat)


def view(instance: str, state: ReplicaState = ReplicaState.READY, version: int = 2) -> ReplicaView:
    endpoint = Endpoint("m-0", instance, "tcp://127.0.0.1:1") if state is ReplicaState.READY else None
    return ReplicaView(instance=instance, version=version, state=state, stage=str(state), endpoint=endpoint)


class Bench:
    """A core with a hand-turned clock."""

    def __init__(self) -> None:
        self.book = LeaseBook([CPU])
        names = (f"i{number}" for number in itertools.count(1))
        self.core = WorkerCore(self.book, drain_s=30.0, new_instance=lambda: next(names))
        self.now = 1000.0
        self.versions = itertools.count(1)

    def tell(self, event: Event) -> list[Command]:
        """The commands, without the reports."""
        return [command for command in self.core.handle(event, self.now) if not isinstance(command, Report)]

    def want(self, *items: Assignment, epoch: int = 1) -> list[Command]:
        return self.tell(Assigned(Assignments(epoch=epoch, version=next(self.versions), items=items)))

    def wait_for_tick(self) -> list[Command]:
        assert self.core.next_tick is not None
        self.now = max(self.now, self.core.next_tick)
        return self.tell(Tick())

    def ready(self, instance: str) -> None:
        self.tell(Started(instance, 42))
        self.tell(Seen("127.0.0.1:2", view(instance)))

    @property
    def status(self) -> ReplicaStatus:
        (status,) = self.core.statuses()
        return status
