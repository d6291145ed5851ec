"""What the cluster core remembers: a record per model, per placed replica and its members, and per worker."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from xinfer.devices import Device, DeviceSlice, Placement, Seat
from xinfer.protocol import Assignment, Assignments, ReplicaStatus, WorkerHello, WorkerReport
from xinfer.slices.rooms import Totals, capacity
from xinfer.spec import Deployment, ReplicaState
from xinfer.supervisor.events import ReplicaKey
from xinfer.supervisor.readings import CPU, Readings


@dataclass(slots=True)
class Member:
    """A process that one worker is to run: all of a replica, or one of its gang."""

    replica_id: str
    """Of the leader, that of the replica."""
    generation: int
    worker_id: str
    slices: tuple[DeviceSlice, ...]
    status: ReplicaStatus | None = None
    """What was last heard of exactly this generation."""
    lost: bool = False
    """It had a process in this generation, and has that no more."""

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
        if status is None or not status.control_address or status.state.is_final:
            return False
        joined = status.seat is not None and status.state is ReplicaState.READY
        return joined or status.endpoint is not None

    def hear(self, status: ReplicaStatus | None) -> None:
        """Take in what its worker says; nothing: it was not started there."""
        known = self.status.instance if self.status else ""
        same = status is not None and (status.state is ReplicaState.FAILED or status.instance == known)
        self.lost = self.lost or bool(known and not same)
        self.status = status


@dataclass(slots=True)
class Ordeal:
    """How it went so far with a gang, which its workers do not start again by themselves. Times are epoch seconds."""

    deaths: int = 0
    """Since it was last stable; decides the pause before it is started again."""
    restarts: int = 0
    ready_since: float | None = None
    was_ready: bool = False
    retry_at: float | None = None
    """When it is started again; None: nothing is wrong with it."""
    reason: str = ""
    """What the member that failed first said, for people."""
    given_up: bool = False


@dataclass(slots=True)
class PlacedReplica:
    """A replica that is to run: on one worker, or as a gang of one member on each of several."""

    members: tuple[Member, ...]
    """The leader first, whom gateways talk to. All are of one generation."""
    ordeal: Ordeal = field(default_factory=Ordeal)
    """Of a gang."""
    unwelcome: str = ""
    """Why it should not stay where it is; empty: it may."""
    faulty: bool = False
    """Because something is wrong there, rather than because an operator says so."""
    moving: bool = False
    """Another replica is to take over from it; until that serves, it stays."""
    stuck: str = ""
    """Why there is no other place for it."""

    @classmethod
    def at(cls, place: Placement, replica_id: str, generation: int) -> "PlacedReplica":
        """A replica that has just been given its place."""
        places = (place, *place.followers)
        return cls(
            tuple(
                Member(member_id(replica_id, rank), generation, one.worker_id, one.slices)
                for rank, one in enumerate(places)
            )
        )

    @property
    def leader(self) -> Member:
        """The member that answers; the only one of most replicas."""
        return self.members[0]

    @property
    def is_gang(self) -> bool:
        """Whether it runs on several workers."""
        return len(self.members) > 1

    @property
    def replica_id(self) -> str:
        """Its name, which a replica that replaces it may bear too."""
        return self.leader.replica_id

    @property
    def key(self) -> ReplicaKey:
        """Names this placing."""
        return self.leader.key

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """Its workers, that of the leader first."""
        return tuple(member.worker_id for member in self.members)

    @property
    def state(self) -> ReplicaState:
        """PENDING until its worker says otherwise. A gang is READY when all of it is."""
        if not self.is_gang:
            return self.leader.state
        if self.ordeal.given_up:
            return ReplicaState.FAILED
        if self.ordeal.retry_at is not None:
            return ReplicaState.PENDING
        complete = all(member.state is ReplicaState.READY for member in self.members)
        ready = self.leader.state is ReplicaState.READY
        return ReplicaState.STARTING if ready and not complete else self.leader.state

    def assignments(self, deployment: Deployment) -> Iterator[tuple[str, Assignment]]:
        """What its workers are told, by worker_id. A gang that was given up is nobody's work."""
        if self.ordeal.given_up:
            return
        seated = self.leader.status.seat if self.leader.status else None
        for rank, member in enumerate(self.members):
            yield (
                member.worker_id,
                Assignment(
                    replica_id=member.replica_id,
                    generation=member.generation,
                    deployment=deployment,
                    slices=member.slices,
                    seat=self.seat(rank, seated.rendezvous if seated and rank else "") if self.is_gang else None,
                ),
            )

    def start_again(self, generation: int) -> None:
        """Have every member start anew, where it is."""
        for member in self.members:
            member.generation, member.status, member.lost = generation, None, False

    def seat(self, rank: int, rendezvous: str = "") -> Seat:
        """Which member of the gang is of that rank, and where it meets the others."""
        return Seat(gang=self.replica_id, rank=rank, size=len(self.members), rendezvous=rendezvous)


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

    def note_served(self, leader: Member) -> None:
        """Remember that it served, if the leader of one of its replicas was READY."""
        status = leader.status
        self.served = self.served or bool(status and (status.was_ready or status.state is ReplicaState.READY))

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


def member_id(replica_id: str, rank: int) -> str:
    """The replica_id of a member of a gang, by which its worker knows it."""
    return f"{replica_id}.{rank}" if rank else replica_id


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
