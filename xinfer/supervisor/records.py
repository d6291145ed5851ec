"""What the cluster core remembers: a record per model, per placed replica and per worker."""

from dataclasses import dataclass, field

from xinfer.devices import Device, DeviceSlice
from xinfer.protocol import Assignment, Assignments, ReplicaStatus, WorkerHello, WorkerReport
from xinfer.slices.rooms import Totals, capacity
from xinfer.spec import Deployment, ReplicaState
from xinfer.supervisor.events import ReplicaKey
from xinfer.supervisor.readings import CPU, Readings


@dataclass(slots=True)
class PlacedReplica:
    """A replica that one worker is to run. ``status`` is what was last heard of exactly this generation."""

    replica_id: str
    generation: int
    worker_id: str
    slices: tuple[DeviceSlice, ...]
    status: ReplicaStatus | None = None
    unwelcome: str = ""
    """Why it should not stay where it is; empty: it may."""
    faulty: bool = False
    """Because something is wrong there, rather than because an operator says so."""
    moving: bool = False
    """Another replica is to take over from it; until that serves, it stays."""
    stuck: str = ""
    """Why there is no other place for it."""

    @property
    def key(self) -> ReplicaKey:
        """Names this placing."""
        return (self.replica_id, self.generation)

    @property
    def state(self) -> ReplicaState:
        """PENDING until its worker says otherwise."""
        return self.status.state if self.status else ReplicaState.PENDING

    @property
    def can_be_probed(self) -> bool:
        """Whether its process is known well enough to be asked without its worker."""
        status = self.status
        return bool(status and status.endpoint and status.control_address) and not self.state.is_final

    def assignment(self, deployment: Deployment) -> Assignment:
        """What its worker is told."""
        return Assignment(
            replica_id=self.replica_id, generation=self.generation, deployment=deployment, slices=self.slices
        )


@dataclass(slots=True)
class ModelRecord:
    """A Deployment and the places of its replicas, as many as are desired and beside them those that move away."""

    deployment: Deployment
    served: bool = False
    """A replica of this revision was READY once."""
    replicas: dict[str, PlacedReplica] = field(default_factory=dict)
    pending_reason: str = ""
    """Why the missing replicas have no place."""

    @property
    def missing(self) -> int:
        """How many replicas have no place."""
        return self.deployment.replicas - sum(not replica.moving for replica in self.replicas.values())

    @property
    def failed(self) -> bool:
        """Whether every replica was given up."""
        return self.missing == 0 and all(r.state is ReplicaState.FAILED for r in self.replicas.values())

    def has_adapter(self, name: str) -> bool:
        """Whether one of its adapters has this name."""
        return any(adapter.name == name for adapter in self.deployment.adapters)

    def free_ids(self, count: int) -> list[str]:
        """Replica ids with the lowest free slots, for the replicas without a place."""
        free: list[str] = []
        slot = 0
        while len(free) < count:
            replica_id = f"{self.deployment.model_uid}-{slot}"
            if replica_id not in self.replicas:
                free.append(replica_id)
            slot += 1
        return free

    def drop_surplus(self) -> None:
        """Give up places beyond the desired count: failed ones first, then those not READY, then high slots.

        Those that move away go as soon as enough others serve.
        """
        desired, replicas = self.deployment.replicas, sorted(self.replicas.values(), key=_order)
        staying = [replica for replica in replicas if not replica.moving][:desired]
        serving = sum(replica.state is ReplicaState.READY for replica in staying)
        moving = [one for one in replicas if one.moving and one.state is ReplicaState.READY][: desired - serving]
        if len(staying) + len(moving) < len(self.replicas):
            self.replicas = {replica.replica_id: replica for replica in (*staying, *moving)}


@dataclass(slots=True)
class WorkerRecord:
    """A worker: who it is, what it last said, and what it was last told."""

    hello: WorkerHello
    report: WorkerReport
    last_seen: float
    assignments: Assignments
    alive: bool = True
    probing: bool = False
    """Its replicas are being asked right now."""
    readings: Readings = field(default_factory=Readings)
    """What its devices report."""
    devices: dict[str, Device] = field(init=False)
    """By device id."""
    sizes: dict[bool, Totals] = field(init=False)
    """What its CPU (True) and its accelerators (False) have in all."""

    def __post_init__(self) -> None:
        devices = self.hello.devices
        self.devices = {device.device_id: device for device in devices}
        self.sizes = {
            on_cpu: capacity(device for device in devices if (device.kind == CPU) == on_cpu) for on_cpu in (True, False)
        }

    @property
    def worker_id(self) -> str:
        """Its durable name."""
        return self.hello.worker_id

    def reported(self) -> dict[ReplicaKey, ReplicaStatus]:
        """Its last report by replica and generation."""
        return {(status.replica_id, status.generation): status for status in self.report.replicas}


def worth(state: ReplicaState) -> int:
    """Order in which replicas are kept: READY ones first, failed ones last."""
    if state is ReplicaState.READY:
        return 0
    return 2 if state is ReplicaState.FAILED else 1


def _order(replica: PlacedReplica) -> tuple[int, bool, int]:
    return (worth(replica.state), bool(replica.unwelcome), slot_of(replica.replica_id))


def slot_of(replica_id: str) -> int:
    """The number at the end of a replica_id, so that 10 comes after 9."""
    number = replica_id.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0
