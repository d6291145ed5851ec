"""What a worker decides: which replicas to start, restart, end. Pure: events in, commands out, no I/O and no clock.

Each event changes what is known; then every replica is compared with what is wanted of it, and the difference becomes
commands. One process per replica at a time: a new generation starts when the old one is gone and gave its memory back.
"""

import itertools
from collections.abc import Callable, Iterator

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
    Instruct,
    Joined,
    Kill,
    Leave,
    Looked,
    Prepared,
    Report,
    Seen,
    Spawn,
    Started,
    Tick,
)
from xinfer.worker.leases import DeviceInUse, LeaseBook
from xinfer.worker.line import Claim, StartLine
from xinfer.worker.replicas import Replica, RunningProcess, state_of, status_of

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

RESERVED_S = 600.0
"""Room is kept so long for a replica that waits for its turn to start."""

OFFENCES = 3
"""A replica that was ended so often for using more than its slice is not started again."""
FORGIVEN_S = 600.0
"""READY for so long: what it was ended for before is forgiven."""


class WorkerCore:
    """``handle(event, now)`` returns commands; ``statuses()`` is what to report.

    ``now`` is epoch seconds of a clock that never steps. ``new_instance`` names a process, uniquely for ever.
    ``profiles_memory`` says whether an engine, by its name, does so while it loads.
    """

    def __init__(
        self,
        book: LeaseBook,
        *,
        drain_s: float,
        new_instance: Callable[[], str],
        profiles_memory: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._book = book
        self._drain_s = drain_s
        self._new_instance = new_instance
        self._profiles_memory = profiles_memory
        self._held_hard: frozenset[str] = frozenset()
        self._turns = itertools.count(1)
        self._replicas: dict[str, Replica] = {}
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
        for lease in self._book.expire(now):  # it waited long enough with room that others could use: they go first
            self._replicas[lease.replica_id].turn = next(self._turns)
        line = StartLine(
            self._claim(replica.process.assignment)
            for replica in self._replicas.values()
            if replica.process is not None and replica.process.is_starting
        )
        for replica in sorted(self._replicas.values(), key=lambda one: one.turn):
            commands.extend(self._reconcile(replica, line, now))
        for replica in self._replicas.values():
            self._note_state(replica, now)
        if self.statuses() != self._reported:
            self._reported = self.statuses()
            commands.append(Report())
        return commands

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """Every replica as it is now."""
        return tuple(status_of(replica, replica.shown) for replica in self._replicas.values() if replica.shown)

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
            case Started(instance) | Prepared(instance) | Hung(instance) | Ended(instance):
                yield from self._hear(instance, event, now)
            case Looked():
                yield from self._take_stock(event)
            case Tick():
                pass

    def _hear(self, instance: str, news: Started | Prepared | Seen | Hung | Ended, now: float) -> Iterator[Command]:
        replica = next(
            (one for one in self._replicas.values() if one.process and one.process.instance == instance), None
        )
        if replica is None or replica.process is None:
            return  # late news of an earlier process
        match news:
            case Started(_, pid, rendezvous):
                replica.process.pid, replica.process.rendezvous = pid, rendezvous
            case Prepared():
                replica.process, replica.prepared = None, True
                replica.spawned -= 1
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
            self._replicas.setdefault(replica_id, Replica(replica_id, None))
        for replica in self._replicas.values():
            replica.want(wanted.get(replica.replica_id))

    def _adopt(self, event: Adopted, now: float) -> None:
        assignment = event.assignment
        met_at = assignment.seat.rendezvous if assignment.seat is not None else ""
        process = RunningProcess(event.instance, assignment, event.pid, event.address, met_at)
        replica = Replica(assignment.replica_id, assignment, process, adopted=True, spawned=1)
        self._replicas[assignment.replica_id] = replica
        self._book.record(assignment.replica_id, assignment.generation, assignment.slices)
        if event.view is not None:
            self._see(replica, process, event.view, now)

    def _see(self, replica: Replica, process: RunningProcess, view: ReplicaView, now: float) -> None:
        process.view = view
        replica.hear_order(view.ordered)
        if view.state is ReplicaState.READY and not replica.is_obsolete:
            if replica.ready_since is None:
                replica.ready_since = now
            replica.was_ready = True
            replica.reason = ""

    def _take_stock(self, look: Looked) -> Iterator[Command]:
        self._held_hard = look.held_hard
        for replica in self._replicas.values():
            process, offence = replica.process, look.offences.get(replica.replica_id)
            replica.warning = look.warnings.get(replica.replica_id, "")
            if process is not None and process.pid and offence is not None and not process.offence:
                process.offence = offence
                yield Kill(process.instance, offence)

    def _bury(self, replica: Replica, process: RunningProcess, end: Ended, now: float) -> None:
        obsolete = replica.is_obsolete
        replica.process = None
        if obsolete or process.ending:
            return
        ready_s = 0.0 if replica.ready_since is None else now - replica.ready_since
        replica.deaths = 1 if ready_s >= STABLE_S else replica.deaths + 1
        replica.offences = 0 if ready_s >= FORGIVEN_S else replica.offences
        replica.ready_since, replica.warning = None, ""
        replica.reason = end.reason
        if process.hung_for_s is not None:
            replica.reason = f"it did not answer for {process.hung_for_s:g} s and was killed\n{end.reason}".rstrip()
        if process.offence:
            # How the process ended is our doing; what it wrote before may say why it needed so much.
            _, _, log = end.reason.partition("\n")
            replica.offences += 1
            replica.reason = f"{process.offence}\n{log}".rstrip()
        if replica.offences >= OFFENCES:
            replica.failed = True
            replica.reason = f"given up after it was ended {replica.offences} times: {replica.reason}"
        elif end.load_error and not replica.was_ready:
            replica.failed, replica.refused = True, end.refused
        elif process.assignment.seat is not None:
            replica.failed = True  # all of its gang starts again when the supervisor says so, or none
        elif replica.deaths >= START_ATTEMPTS and not replica.was_ready and not process.offence:
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

    def _claim(self, assignment: Assignment) -> Claim:
        devices = frozenset(piece.device_id for piece in assignment.slices) - self._held_hard
        return Claim(assignment.replica_id, devices, self._profiles_memory(assignment.deployment.engine))

    def _reconcile(self, replica: Replica, line: StartLine, now: float) -> Iterator[Command]:
        if replica.process is not None:
            if replica.is_obsolete and not replica.process.ending:
                replica.process.ending = True
                yield End(replica.process.instance, 0.0 if replica.is_broken_off else self._drain_s)
            elif (order := replica.new_order) is not None:
                replica.process.told = order
                yield Instruct(replica.process.instance, order)
        elif replica.wanted is None:
            del self._replicas[replica.replica_id]
        elif self._may_start(replica) and now >= replica.retry_at:
            yield from self._start(replica, replica.wanted, line, now)

    def _may_start(self, replica: Replica) -> bool:
        return replica.process is None and replica.wanted is not None and not replica.failed

    def _start(self, replica: Replica, wanted: Assignment, line: StartLine, now: float) -> Iterator[Command]:
        replica.waits_for = ""
        try:
            until = now + RESERVED_S
            lease = self._book.book(wanted.replica_id, wanted.generation, wanted.slices, expires_at=until)
        except NoCapacity as error:
            self._lack_room(replica, error, now)
            return
        if wanted.seat is not None and wanted.seat.waits and replica.prepared:
            replica.waits_for, replica.retry_at = "for the leader of its gang to start", 0.0  # its room is kept, too
            return
        claim = self._claim(wanted)
        replica.waits_for = line.obstacle(claim)
        if replica.waits_for:  # its room is kept for it meanwhile
            replica.turn = min(replica.turn, next(self._turns))
            replica.retry_at = 0.0  # the one that it waits for wakes it up
            replica.reason = replica.reason if replica.deaths else ""  # not: that there is no room
            line.join(claim)
            return
        self._book.confirm(wanted.replica_id, wanted.generation)
        process = RunningProcess(self._new_instance(), wanted)
        replica.begin(process)
        line.join(claim)
        yield Spawn(process.instance, wanted, lease)

    def _lack_room(self, replica: Replica, error: NoCapacity, now: float) -> None:
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

    def _note_state(self, replica: Replica, now: float) -> None:
        state = state_of(replica)
        if state is not replica.state or not replica.since:
            replica.state, replica.since = state, now
