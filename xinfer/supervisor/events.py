"""What the cluster core is told (events) and what it wants done (commands).

Events are facts: they have happened, are durable where they must be, and are never refused. What may be refused is
asked before, in ``admission``. ``now`` is epoch seconds, given by whoever has the clock.
"""

import msgspec

from xinfer.protocol import Assignments, Cordon, ReplicaStatus, ReplicaView, WorkerHello, WorkerReport
from xinfer.routes import RouteTable
from xinfer.spec import Deployment

ReplicaKey = tuple[str, int]
"""(replica_id, generation): one placing of a replica; at most one of each replica_id is current."""


Target = tuple[str, str]
"""(worker_id, device_id): a device, or with an empty device_id a whole worker."""


class DeploymentSet(msgspec.Struct, frozen=True):
    """The desired state of a model is now this, in the store too. ``drop`` names a replica that is to go."""

    deployment: Deployment
    now: float
    drop: str = ""


class DeploymentRemoved(msgspec.Struct, frozen=True):
    """The model is not wanted any more, and gone from the store."""

    model_uid: str
    now: float


class WorkerJoined(msgspec.Struct, frozen=True):
    """A process of a worker introduced itself: a new worker, or a known one that restarted."""

    hello: WorkerHello
    report: WorkerReport
    now: float


class WorkerReported(msgspec.Struct, frozen=True):
    """A worker said what it runs."""

    report: WorkerReport
    now: float


class WorkerLeft(msgspec.Struct, frozen=True):
    """A worker said goodbye; what it ran has to run elsewhere."""

    worker_id: str
    incarnation: str
    now: float


class Tick(msgspec.Struct, frozen=True):
    """Time went by."""

    now: float


class ReplicasProbed(msgspec.Struct, frozen=True):
    """The replicas of a lost worker were asked themselves: their views, and those that did not answer."""

    worker_id: str
    alive: dict[str, ReplicaView]
    """By replica_id."""
    dead: frozenset[ReplicaKey]
    now: float


class Cordoned(msgspec.Struct, frozen=True):
    """A worker or a device takes nothing new from now on, in the store too."""

    cordon: Cordon
    now: float


class Uncordoned(msgspec.Struct, frozen=True):
    """It does again; ``target`` is (worker_id, device_id), as in the Cordon."""

    target: Target
    now: float


Event = (
    DeploymentSet
    | DeploymentRemoved
    | WorkerJoined
    | WorkerReported
    | WorkerLeft
    | Tick
    | ReplicasProbed
    | Cordoned
    | Uncordoned
)


class SendAssignments(msgspec.Struct, frozen=True):
    """Tell a worker what it is to run. May be lost: the answer to its next report says it again."""

    worker_id: str
    address: str
    assignments: Assignments


class PublishRoutes(msgspec.Struct, frozen=True):
    """Give gateways a new snapshot."""

    table: RouteTable


class ProbeReplicas(msgspec.Struct, frozen=True):
    """Ask each replica of a lost worker whether it lives. Must be answered with one ``ReplicasProbed``."""

    worker_id: str
    statuses: tuple[ReplicaStatus, ...]


class RememberWorker(msgspec.Struct, frozen=True):
    """After a restart, wait for this worker before replacing what it may run. ``seen_at`` is epoch seconds."""

    worker_id: str
    name: str
    address: str
    seen_at: float


class ForgetWorker(msgspec.Struct, frozen=True):
    """Do not wait for this worker after a restart."""

    worker_id: str


Command = SendAssignments | PublishRoutes | ProbeReplicas | RememberWorker | ForgetWorker
