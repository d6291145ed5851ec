"""What a worker decides: which replicas to start, restart, end. Pure: events in, commands out, no I/O and no clock.

Each event changes what is known; then every replica is compared with what is wanted of it, and the difference becomes
commands. One process per replica at a time: a new generation starts when the old one is gone and gave its memory back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xinfer.errors import NoCapacity
from xinfer.protocol import Assignment, Assignments, ReplicaStatus, ReplicaView
from xinfer.spec import ReplicaState
from xinfer.worker.events import (
    Adopted,
    Assigned,
    Command,
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
from xinfer.worker.leases import DeviceInUse, LeaseBook

START_ATTEMPTS = 3
"""A process that dies before it was ever READY, without saying why, gets so many chances."""
BACKOFF_S = 0.5
BACKOFF_LIMIT_S = 30.0
STABLE_S = 60.0
"""READY for so long: the next death starts the backoff anew."""

ROOM_PATIENCE_S = 30.0
"""A device that reports too little free memory, though there is room by the books, has so long to report more: what
it said may be older than the end of the process that used the memory."""
ROOM_RETRY_S = 1.0


@dataclass
class _Process:
    """The one process of a replica."""

    instance: str
    assignment: Assignment
    pid: int = 0
    address: str = ""
    view: ReplicaView | None = None
    ending: bool = False
    hung_for_s: float | None = None


@dataclass
class _Replica:
    """What is wanted of a replica, what runs of it, and how it went so far with the wanted generation."""

    replica_id: str
    wanted: Assignment | None
    process: _Process | None = None
    ready_since: float | None = None
    was_ready: bool = False
    deaths: int = 0
    """Since it was last stable; decides the backoff."""
    spawned: int = 0
    retry_at: float = 0.0
    crowded_since: float | None = None
    """Since when it is kept from starting by nothing but what devices report."""
    failed: bool = False
    reason: str = ""
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

    def want(self, assignment: Assignment | None) -> None:
        """Take a new wish over; another generation starts with a clean record."""
        if assignment is not None and (self.wanted is None or self.wanted.generation != assignment.generation):
            self.ready_since, self.was_ready, self.failed, self.reason = None, False, False, ""
            self.deaths, self.spawned, self.retry_at, self.crowded_since = 0, 0, 0.0, None
        self.wanted = assignment


class WorkerCore:
    """``handle(event, now)`` returns commands; ``statuses()`` is what to report.

    ``now`` is epoch seconds of a clock that never steps. ``new_instance`` names a process, uniquely for ever.
    """

    def __init__(self, book: LeaseBook, *, drain_s: float, new_instance: Callable[[], str]) -> None:
        self._book = book
        self._drain_s = drain_s
        self._new_instance = new_instance
        self._replicas: dict[str, _Replica] = {}
        self._version = (0, 0)
        self._leaving = False
        self._reported: tuple[ReplicaStatus, ...] = ()

    @property
    def assignments_version(self) -> tuple[int, int]:
        """(epoch, version) of the Assignments it works by."""
        return self._version

    @property
    def next_tick(self) -> float | None:
        """When a Tick is due, for the next restart; None: nothing waits for time to pass."""
        waiting = (replica.retry_at for replica in self._replicas.values() if self._may_start(replica))
        return min((at for at in waiting if at > 0.0), default=None)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event in; what is to be done now, in order."""
        commands: list[Command] = list(self._apply(event, now))
        self._release_unused()
        for replica in list(self._replicas.values()):
            commands.extend(self._reconcile(replica, now))
        for replica in self._replicas.values():
            self._note_state(replica, now)
        if self.statuses() != self._reported:
            self._reported = self.statuses()
            commands.append(Report())
        return commands

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """Every replica as it is now."""
        return tuple(_status(replica, replica.shown) for replica in self._replicas.values() if replica.shown)

    def _apply(self, event: Event, now: float) -> Iterator[Command]:
        match event:
            case Assigned(assignments):
                self._assign(assignments)
            case Joined(assignments):
                self._join(assignments)
            case Adopted():
                self._adopt(event, now)
            case Leave(drain_s):
                self._leave(drain_s)
            case Seen(view=view):
                yield from self._hear(view.instance, event, now)
            case Started(instance) | Hung(instance) | Ended(instance):
                yield from self._hear(instance, event, now)
            case Tick():
                pass

    def _hear(self, instance: str, news: Started | Seen | Hung | Ended, now: float) -> Iterator[Command]:
        replica = next(
            (one for one in self._replicas.values() if one.process and one.process.instance == instance), None
        )
        if replica is None or replica.process is None:
            return  # late news of an earlier process
        match news:
            case Started(_, pid):
                replica.process.pid = pid
            case Seen(address, view):
                replica.process.address = address
                self._see(replica, replica.process, view, now)
            case Hung(_, silent_s):
                replica.process.hung_for_s = silent_s
                yield Kill(instance)
            case Ended():
                self._bury(replica, replica.process, news, now)

    def _join(self, assignments: Assignments | None) -> None:
        if assignments is None or assignments.epoch != self._version[0]:
            self._version = (0, 0)
        if assignments is not None:
            self._assign(assignments)

    def _leave(self, drain_s: float) -> None:
        self._leaving, self._drain_s = True, drain_s
        for replica in self._replicas.values():
            replica.want(None)

    def _assign(self, assignments: Assignments) -> None:
        version = (assignments.epoch, assignments.version)
        if self._leaving or version <= self._version:
            return
        self._version = version
        wanted = {item.replica_id: item for item in assignments.items}
        for replica_id in wanted:
            self._replicas.setdefault(replica_id, _Replica(replica_id, None))
        for replica in self._replicas.values():
            replica.want(wanted.get(replica.replica_id))

    def _adopt(self, event: Adopted, now: float) -> None:
        assignment = event.assignment
        process = _Process(event.instance, assignment, event.pid, event.address)
        replica = _Replica(assignment.replica_id, assignment, process, spawned=1)
        self._replicas[assignment.replica_id] = replica
        self._book.record(assignment.replica_id, assignment.generation, assignment.slices)
        if event.view is not None:
            self._see(replica, process, event.view, now)

    def _see(self, replica: _Replica, process: _Process, view: ReplicaView, now: float) -> None:
        process.view = view
        if view.state is ReplicaState.READY and not replica.is_obsolete:
            if replica.ready_since is None:
                replica.ready_since = now
            replica.was_ready = True
            replica.reason = ""

    def _bury(self, replica: _Replica, process: _Process, end: Ended, now: float) -> None:
        obsolete = replica.is_obsolete
        replica.process = None
        if obsolete or process.ending:
            return
        if replica.ready_since is not None and now - replica.ready_since >= STABLE_S:
            replica.deaths = 0
        replica.ready_since = None
        replica.deaths += 1
        replica.reason = end.reason
        if process.hung_for_s is not None:
            replica.reason = f"it did not answer for {process.hung_for_s:g} s and was killed\n{end.reason}".rstrip()
        if end.load_error and not replica.was_ready:
            replica.failed = True
        elif replica.deaths >= START_ATTEMPTS and not replica.was_ready:
            replica.failed = True
            replica.reason = f"given up after {replica.deaths} attempts: {replica.reason}"
        else:
            replica.retry_at = now + min(BACKOFF_LIMIT_S, BACKOFF_S * 2.0 ** min(replica.deaths - 1, 10))

    def _release_unused(self) -> None:
        """A lease belongs to what runs, else to what is about to run; nothing else holds memory."""
        used = {
            (replica.replica_id, replica.shown.generation)
            for replica in self._replicas.values()
            if replica.shown is not None and not (replica.failed and replica.process is None)
        }
        self._book.reconcile(used)

    def _reconcile(self, replica: _Replica, now: float) -> Iterator[Command]:
        if replica.process is not None:
            if replica.is_obsolete and not replica.process.ending:
                replica.process.ending = True
                yield End(replica.process.instance, self._drain_s)
        elif replica.wanted is None:
            del self._replicas[replica.replica_id]
        elif self._may_start(replica) and now >= replica.retry_at:
            yield from self._start(replica, replica.wanted, now)

    def _may_start(self, replica: _Replica) -> bool:
        return replica.process is None and replica.wanted is not None and not replica.failed

    def _start(self, replica: _Replica, wanted: Assignment, now: float) -> Iterator[Command]:
        try:
            lease = self._book.book(wanted.replica_id, wanted.generation, wanted.slices)
        except NoCapacity as error:
            self._lack_room(replica, error, now)
            return
        replica.process = _Process(self._new_instance(), wanted)
        replica.crowded_since = None
        replica.spawned += 1
        replica.retry_at = 0.0
        yield Spawn(replica.process.instance, wanted, lease)

    def _lack_room(self, replica: _Replica, error: NoCapacity, now: float) -> None:
        replica.reason, replica.retry_at = error.message, 0.0
        if any(other.process is not None and other.process.ending for other in self._replicas.values()):
            return  # what is being ended gives its memory back; then it is tried again
        if isinstance(error, DeviceInUse):
            if replica.crowded_since is None:
                replica.crowded_since = now
            if now < replica.crowded_since + ROOM_PATIENCE_S:
                replica.retry_at = now + ROOM_RETRY_S
                return
        replica.failed = True

    def _note_state(self, replica: _Replica, now: float) -> None:
        state = _state(replica)
        if state is not replica.state or not replica.since:
            replica.state, replica.since = state, now


def _state(replica: _Replica) -> ReplicaState:
    process = replica.process
    if process is None:
        return ReplicaState.FAILED if replica.failed else ReplicaState.PENDING
    if process.ending:
        return ReplicaState.DRAINING
    if process.view is None or process.view.state is ReplicaState.PENDING or process.view.state.is_final:
        # Final ones are about to exit; what becomes of the replica is decided when they have.
        return ReplicaState.STARTING
    return process.view.state


def _status(replica: _Replica, assignment: Assignment) -> ReplicaStatus:
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
        restarts=max(0, replica.spawned - 1),
        was_ready=replica.was_ready,
        since=replica.since,
        pid=process.pid if process else 0,
        control_address=process.address if process else "",
        endpoint=view.endpoint if view and ready else None,
        slices=assignment.slices,
    )


def _waiting_stage(replica: _Replica) -> str:
    if replica.process is not None:
        return "starting the process"
    if replica.failed:
        return "failed"
    return "waiting to be restarted" if replica.deaths else "waiting for room"
