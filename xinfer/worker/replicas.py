"""What a worker knows of each of its replicas, and how it shows that. Its core changes these."""

import math
from dataclasses import dataclass

import msgspec

from xinfer.devices import Seat
from xinfer.protocol import Assignment, ReplicaStatus, ReplicaView, Standing, StandingOrder
from xinfer.spec import ReplicaState


@dataclass
class RunningProcess:
    """The one process of a replica."""

    instance: str
    assignment: Assignment
    pid: int = 0
    address: str = ""
    rendezvous: str = ""
    """Where the members of its gang meet."""
    view: ReplicaView | None = None
    told: StandingOrder | None = None
    """The order that it was given last, by this worker."""
    ending: bool = False
    hung_for_s: float | None = None
    offence: str = ""
    """Why it had to be ended."""

    @property
    def is_starting(self) -> bool:
        """It has not been READY yet. What is built for it before there is a process does not count."""
        if self.view is None:
            return True
        preparing = self.pid == 0 and self.view.state is ReplicaState.DOWNLOADING
        return not preparing and self.view.state not in (ReplicaState.READY, ReplicaState.DRAINING)


@dataclass
class Replica:
    """What is wanted of a replica, what runs of it, and how it went so far with the wanted generation."""

    replica_id: str
    wanted: Assignment | None
    process: RunningProcess | None = None
    adopted: bool = False
    """Its process is older than this worker, and nobody has said yet what is wanted of it."""
    ready_since: float | None = None
    was_ready: bool = False
    deaths: int = 0
    """Since it was last stable; decides the backoff."""
    offences: int = 0
    """Since it was last forgiven."""
    spawned: int = 0
    prepared: bool = False
    """What its process needs was made ready for this generation. A follower is, before anybody knows its leader."""
    retry_at: float = 0.0
    crowded_since: float | None = None
    """Since when it is kept from starting by nothing but what devices report."""
    turn: float = math.inf
    """Its place among those who wait for others to start; infinite: it does not wait."""
    waits_for: str = ""
    """What it waits for then, for people."""
    failed: bool = False
    reason: str = ""
    refused: str = ""
    """The parameter of its launch that is wrong, if that is why it failed."""
    warning: str = ""
    state: ReplicaState = ReplicaState.PENDING
    since: float = 0.0

    @property
    def shown(self) -> Assignment | None:
        """The assignment that a status is about: of what runs, else of what is wanted."""
        return self.process.assignment if self.process else self.wanted

    @property
    def is_obsolete(self) -> bool:
        """Its process is not the one that is wanted."""
        return self.process is not None and (
            self.wanted is None or self.wanted.generation != self.process.assignment.generation
        )

    @property
    def is_broken_off(self) -> bool:
        """Its process is one of a gang that has to start again: what it has begun, it cannot finish."""
        process, wanted = self.process, self.wanted
        if process is None or wanted is None or process.assignment.seat is None:
            return False
        return wanted.deployment.revision == process.assignment.deployment.revision

    @property
    def new_order(self) -> StandingOrder | None:
        """The standing order that its process has yet to be given; None: it works by the latest one."""
        process = self.process
        if process is None or process.view is None or self.wanted is None or self.is_obsolete or process.ending:
            return None
        order = StandingOrder.of(self.wanted.deployment)
        known = process.view.ordered if process.told is None else process.told
        return order if order != known else None

    def hear_order(self, order: StandingOrder) -> None:
        """What its process works by; until somebody says what is wanted, that is: what is on disk may be older."""
        if self.adopted and self.wanted is not None:
            deployment = msgspec.structs.replace(
                self.wanted.deployment,
                adapters=order.adapters,
                sleep_level=order.sleep_level,
                paused=order.paused,
            )
            self.wanted = msgspec.structs.replace(self.wanted, deployment=deployment)

    def want(self, assignment: Assignment | None) -> None:
        """Take a new wish over; another generation starts with a clean record."""
        if assignment is not None and (self.wanted is None or self.wanted.generation != assignment.generation):
            self.ready_since, self.was_ready, self.failed, self.reason, self.prepared = None, False, False, "", False
            self.deaths, self.offences, self.spawned, self.retry_at, self.crowded_since = 0, 0, 0, 0.0, None
            self.refused = ""
        self.wanted, self.adopted = assignment, False

    def begin(self, process: RunningProcess) -> None:
        """A process of it is being started: whatever it waited for is over."""
        self.process = process
        self.spawned += 1
        self.crowded_since, self.retry_at, self.turn = None, 0.0, math.inf


def state_of(replica: Replica) -> ReplicaState:
    """Its state as others are told."""
    process = replica.process
    if process is None:
        return ReplicaState.FAILED if replica.failed else ReplicaState.PENDING
    if process.ending:
        return ReplicaState.DRAINING
    if process.view is None or process.view.state is ReplicaState.PENDING or process.view.state.is_final:
        # Final ones are about to exit; what becomes of the replica is decided when they have.
        return ReplicaState.STARTING
    return process.view.state


def status_of(replica: Replica, assignment: Assignment) -> ReplicaStatus:
    """Everything that others are told of it; ``assignment`` is the one that this is about."""
    process = replica.process
    view = process.view if process else None
    ready = replica.state is ReplicaState.READY
    return ReplicaStatus(
        replica_id=replica.replica_id,
        model_uid=assignment.deployment.model_uid,
        generation=assignment.generation,
        revision=assignment.deployment.revision,
        state=replica.state,
        stage=view.stage if view else _waiting_stage(replica),
        progress=view.progress if view else 0.0,
        reason=replica.reason,
        refused=replica.refused,
        restarts=max(0, replica.spawned - 1),
        was_ready=replica.was_ready,
        since=replica.since,
        pid=process.pid if process else 0,
        control_address=process.address if process else "",
        endpoint=view.endpoint if view and ready else None,
        slices=assignment.slices,
        served=bool(view and view.served),
        warning=replica.warning or (_unheeded(view.standing) if view else ""),
        standing=view.standing if view else Standing(),
        files=view.files if view else (),
        instance=process.instance if process and process.pid else "",
        seat=_seat(assignment, process),
    )


def _seat(assignment: Assignment, process: RunningProcess | None) -> Seat | None:
    """With the place where the leader waits for the others, once that is there."""
    if assignment.seat is None or process is None or not process.rendezvous:
        return assignment.seat
    return msgspec.structs.replace(assignment.seat, rendezvous=process.rendezvous)


def _unheeded(standing: Standing) -> str:
    """What of its order a replica could not do."""
    failures = [f"adapter {failure.adapter.name!r}: {failure.reason}" for failure in standing.failures]
    complaints = [f"it does not fall asleep: {standing.complaint}"] if standing.complaint else []
    return "; ".join([*failures, *complaints])


def _waiting_stage(replica: Replica) -> str:
    if replica.process is not None:
        return "starting the process"
    if replica.failed:
        return "failed"
    if replica.waits_for:
        return f"waiting: {replica.waits_for}"
    return "waiting to be restarted" if replica.deaths else "waiting for room"
