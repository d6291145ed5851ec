"""The core of the supervisor: what is desired against what is reported, and what follows from it.

``handle(event) -> [command]``, synchronous and pure: no I/O, no clock, no await. After every event the whole of the
difference between desired and current state is worked out again (``_reconcile``), so a lost message or command is
repaired by the next event, whichever it is.

Five rules carry the rest:

* A replica_id has at most one current place, and a new place has a higher generation than any before. A worker that
  runs an older one does not find it in its assignments and stops it.
* After a restart the supervisor *settles*: until every worker it knew has joined again (or some time has passed)
  what is placed is exactly what is reported; nothing is placed, stopped or published.
* The replicas of a lost worker keep their places and routes until they themselves are found dead.
* A replica that has to leave its place (``moves``) serves until another one serves in its stead.
* Of a replica that runs on several workers (``gangs``) all members have places and run, or none.
"""

from collections.abc import Iterable

import msgspec

from xinfer.protocol import Ack, Assignment, Assignments, Cordon, WorkerReport
from xinfer.routes import RouteTable
from xinfer.spec import Deployment, ReplicaState
from xinfer.supervisor import gangs, moves
from xinfer.supervisor.adoption import adopt
from xinfer.supervisor.capacity import Ledger, Plan
from xinfer.supervisor.events import (
    Command,
    Cordoned,
    DeploymentRemoved,
    DeploymentSet,
    Event,
    ForgetWorker,
    ProbeReplicas,
    PublishRoutes,
    RememberWorker,
    ReplicasProbed,
    SendAssignments,
    Target,
    Tick,
    Uncordoned,
    WorkerJoined,
    WorkerLeft,
    WorkerReported,
)
from xinfer.supervisor.placement.base import PlacementPolicy
from xinfer.supervisor.records import Member, ModelRecord, PlacedReplica, WorkerRecord
from xinfer.supervisor.routing_table import routes

GENERATIONS_PER_EPOCH = 1_000_000
FORGET_AFTER_S = 3600.0
"""A lost worker that nothing depends on is listed for so long."""


class Patience(msgspec.Struct, frozen=True):
    """How long the core waits, in seconds."""

    worker_timeout_s: float = 10.0
    """A worker not heard of for so long is lost."""
    settle_s: float = 10.0
    """After a restart, the longest wait for the workers that were known."""


class Cluster:
    """All the state that the supervisor decides from. Read its attributes freely; only ``handle`` changes them."""

    def __init__(
        self,
        *,
        epoch: int,
        policy: PlacementPolicy,
        patience: Patience,
        now: float,
        deployments: Iterable[Deployment] = (),
        known_workers: Iterable[str] = (),
        cordons: Iterable[Cordon] = (),
    ) -> None:
        """``deployments``, ``known_workers`` and ``cordons`` are what the store remembers of the time before."""
        self.epoch = epoch
        self.policy = policy
        # Restored models were asked for before this start, so their requests wait for them to come back.
        self.models = {d.model_uid: ModelRecord(d, served=True) for d in deployments}
        self.workers: dict[str, WorkerRecord] = {}
        self.cordons: dict[Target, Cordon] = {(one.worker_id, one.device_id): one for one in cordons}
        self.table = RouteTable(epoch=epoch)
        self._patience = patience
        self._awaited = set(known_workers)
        self._remembered = set(self._awaited)
        self._settles_at = now + patience.settle_s
        self._last_tick = now
        self._generation = epoch * GENERATIONS_PER_EPOCH
        self._assignments_version = 0
        self.settling = bool(self._awaited)

    def handle(self, event: Event) -> list[Command]:
        """Take in what happened; what is to be done about it."""
        match event:
            case DeploymentSet():
                self._set(event)
            case DeploymentRemoved():
                self.models.pop(event.model_uid, None)
            case WorkerJoined():
                self._join(event)
            case WorkerReported():
                if not self._report(event):
                    return []
            case WorkerLeft():
                self._leave(event)
            case ReplicasProbed():
                self._probed(event)
            case Cordoned() | Uncordoned():
                self._cordon(event)
            case Tick():
                self._look_for_lost_workers(event.now)
                return [*self._reconcile(event.now), *self._probe()]
        return self._reconcile(event.now)

    def knows(self, worker_id: str, incarnation: str) -> bool:
        """Whether this very process of a worker has introduced itself."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.hello.incarnation == incarnation

    def ack(self, report: WorkerReport, *, joining: bool = False) -> Ack:
        """The answer to a hello or a report: its assignments, where it may work by others than it should."""
        if not self.knows(report.worker_id, report.incarnation):
            return Ack(known=False)
        current = self.workers[report.worker_id].assignments
        up_to_date = not joining and report.assignments_version == (current.epoch, current.version)
        return Ack(known=True, assignments=None if self.settling or up_to_date else current)

    # What happened.

    def _set(self, event: DeploymentSet) -> None:
        wanted = event.deployment
        model = self.models.get(wanted.model_uid)
        if model is None or model.deployment.revision != wanted.revision:
            self.models[wanted.model_uid] = ModelRecord(wanted)
            return
        model.deployment = wanted
        model.replicas.pop(event.drop, None)

    def _join(self, event: WorkerJoined) -> None:
        worker_id = event.hello.worker_id
        known = self.workers.get(worker_id)
        assignments = known.assignments if known else Assignments(epoch=self.epoch, version=0)
        worker = WorkerRecord(event.hello, event.report, event.now, assignments)
        if known:
            worker.readings = known.readings
        worker.readings.take(known.report if known else event.report, event.report, event.hello.devices, event.now)
        self.workers[worker_id] = worker
        self._awaited.discard(worker_id)
        self._take_in(worker)
        if known is None or not known.alive or known.hello.incarnation != event.hello.incarnation:
            adopt(self.models, [worker], settling=self.settling)  # else it only says what became of its devices

    def _report(self, event: WorkerReported) -> bool:
        """Whether it said anything new."""
        report = event.report
        if not self.knows(report.worker_id, report.incarnation):
            return False
        worker = self.workers[report.worker_id]
        worker.last_seen = max(worker.last_seen, event.now)
        if report.sequence < worker.report.sequence:
            return False  # overtaken by a later one
        returned, same = not worker.alive, report.replicas == worker.report.replicas
        worker.readings.take(worker.report, report, worker.hello.devices, event.now)
        worker.report, worker.alive = report, True
        if returned or not same:
            self._take_in(worker)
        if returned:
            adopt(self.models, [worker], settling=self.settling)
        return returned or not same

    def _leave(self, event: WorkerLeft) -> None:
        if self.knows(event.worker_id, event.incarnation):
            for model, replica, _ in self._on(event.worker_id):
                del model.replicas[replica.replica_id]
            del self.workers[event.worker_id]
        self._awaited.discard(event.worker_id)

    def _probed(self, event: ReplicasProbed) -> None:
        worker = self.workers.get(event.worker_id)
        if worker is None:
            return
        worker.probing = False
        if worker.alive:
            return  # it came back and knows better
        for model, replica, member in self._on(event.worker_id):
            view = event.alive.get(member.replica_id)
            if member.key in event.dead or (view and not _serves_or_will(view.state)):
                del model.replicas[replica.replica_id]
            elif view and member.status:
                member.status = msgspec.structs.replace(
                    member.status,
                    state=view.state,
                    endpoint=view.endpoint or member.status.endpoint,
                    standing=view.standing,
                )
                model.note_served(replica.leader)

    def _look_for_lost_workers(self, now: float) -> None:
        """Find silent workers. Time in which the supervisor itself slept, or its clock was set, is not counted."""
        passed = now - self._last_tick
        self._last_tick = now
        slept = passed if not 0 <= passed <= self._patience.worker_timeout_s / 2 else 0.0
        self._settles_at += slept
        for worker in list(self.workers.values()):
            worker.last_seen += slept
            silent = now - worker.last_seen
            if worker.alive and silent > self._patience.worker_timeout_s:
                worker.alive = False
            elif silent > FORGET_AFTER_S and not self._on(worker.worker_id):
                del self.workers[worker.worker_id]

    # Places.

    def _on(self, worker_id: str) -> list[tuple[ModelRecord, PlacedReplica, Member]]:
        """Every replica that has a member on a worker; never two of one replica."""
        return [
            (model, replica, member)
            for model in self.models.values()
            for replica in model.replicas.values()
            for member in replica.members
            if member.worker_id == worker_id
        ]

    def _take_back_from_lost(self) -> None:
        """Free what a lost worker had not brought up yet; what may serve is probed, what failed waits for its user."""
        lost = [worker.worker_id for worker in self.workers.values() if not worker.alive]
        for worker_id in lost:
            for model, replica, member in self._on(worker_id):
                if not member.can_be_probed and replica.state is not ReplicaState.FAILED:
                    del model.replicas[replica.replica_id]

    def _take_in(self, worker: WorkerRecord) -> None:
        """Let the places on a worker know what it reports of them; no word means not started there."""
        reported = worker.reported()
        for model, replica, member in self._on(worker.worker_id):
            member.hear(reported.get(member.key))
            model.note_served(replica.leader)
        # Numbers in use by an earlier store are never given out again.
        self._generation = max([self._generation, *(generation for _, generation in reported)])

    def _cordon(self, event: Cordoned | Uncordoned) -> None:
        """Take over what an operator wants; who was on his way only because he wanted it before may stay."""
        match event:
            case Cordoned(cordon):
                target = (cordon.worker_id, cordon.device_id)
                self.cordons[target] = cordon
            case Uncordoned(target):
                self.cordons.pop(target, None)
        moves.note_unwelcome(self.models.values(), self.workers, self.cordons)
        for _, replica, _ in self._on(target[0]):
            replica.moving = replica.moving and bool(replica.unwelcome)

    def _take_back_from_faulty(self) -> None:
        """What failed on a device that is not well is not given up: it has to be tried elsewhere."""
        for model in self.models.values():
            for replica in list(model.replicas.values()):
                if replica.faulty and replica.state is ReplicaState.FAILED:
                    del model.replicas[replica.replica_id]

    def _place_missing(self) -> None:
        """Find places for the replicas that have none, then for those that should not stay where they are."""
        models = sorted(self.models.values(), key=lambda m: (m.deployment.created_at, m.deployment.model_uid))
        if all(model.missing <= 0 for model in models) and next(moves.due(models), None) is None:
            return
        ledger = Ledger(self.models, self.workers, count_leaving=True, cordons=self.cordons)
        for model in models:
            if model.missing > 0:
                plan = ledger.plan(model.deployment, model.missing, self.policy)
                model.pending_reason = plan.reason
                self._settle(model, plan)
        nowhere: dict[str, str] = {}
        """By model_uid: what is refused to one of its replicas is refused to all."""
        for model, replica in moves.due(models):
            uid = model.deployment.model_uid
            if uid not in nowhere:
                plan = ledger.plan(model.deployment, 1, self.policy)
                if plan.places and moves.serves_on(model, replica):
                    replica.moving = True
                elif plan.places:
                    del model.replicas[replica.replica_id]
                else:
                    nowhere[uid] = plan.reason
                self._settle(model, plan)
            replica.stuck = nowhere.get(uid, "")

    def _settle(self, model: ModelRecord, plan: Plan) -> None:
        """Give the planned places to replicas."""
        for replica_id, place in zip(model.free_ids(len(plan.places)), plan.places, strict=True):
            model.replicas[replica_id] = PlacedReplica.at(place, replica_id, self._next_generation())

    def _next_generation(self) -> int:
        self._generation += 1
        return self._generation

    # What follows.

    def _reconcile(self, now: float) -> list[Command]:
        if self.settling:
            for model in self.models.values():
                model.replicas.clear()
            adopt(self.models, self.workers.values(), settling=True)
            self.settling = bool(self._awaited) and now < self._settles_at
        if self.settling:
            return self._remember()
        moves.note_unwelcome(self.models.values(), self.workers, self.cordons)
        for model in self.models.values():
            model.drop_surplus()
        gangs.dissolve(self.models.values())
        gangs.mend(self.models.values(), self.workers, now, self._next_generation)
        self._take_back_from_lost()
        self._take_back_from_faulty()
        self._place_missing()
        return [*self._remember(), *self._assign(), *self._publish()]

    def _remember(self) -> list[Command]:
        """Keep the store's list of workers to wait for: those alive, and those whose replicas may still serve."""
        awaited = {w.worker_id: w for w in self.workers.values() if w.alive or self._on(w.worker_id)}
        awaited_ids = set(awaited) | (self._awaited if self.settling else set())
        new = [
            RememberWorker(worker_id, worker.hello.name, worker.hello.address, worker.last_seen)
            for worker_id, worker in sorted(awaited.items())
            if worker_id not in self._remembered
        ]
        gone = [ForgetWorker(worker_id) for worker_id in sorted(self._remembered - awaited_ids)]
        self._remembered = awaited_ids
        return [*new, *gone]

    def _assign(self) -> list[Command]:
        wanted: dict[str, list[Assignment]] = {worker_id: [] for worker_id in self.workers}
        for model in self.models.values():
            for replica in model.replicas.values():
                for worker_id, assignment in replica.assignments(model.deployment):
                    wanted.setdefault(worker_id, []).append(assignment)
        commands: list[Command] = []
        for worker_id, worker in sorted(self.workers.items()):
            items = tuple(sorted(wanted[worker_id], key=lambda item: item.replica_id))
            known = worker.assignments
            if known.version == 0 or known.items != items:
                # One counter for all workers: one that left and came back never sees an old number again.
                self._assignments_version += 1
                worker.assignments = Assignments(epoch=self.epoch, version=self._assignments_version, items=items)
                if worker.alive:
                    commands.append(SendAssignments(worker_id, worker.hello.address, worker.assignments))
        return commands

    def _probe(self) -> list[Command]:
        """Ask after the replicas of lost workers, with each tick and one question per worker at a time."""
        commands: list[Command] = []
        for worker in self.workers.values():
            doubtful = tuple(
                member.status
                for _, _, member in self._on(worker.worker_id)
                if member.status is not None and member.can_be_probed
            )
            if doubtful and not worker.alive and not worker.probing:
                worker.probing = True
                commands.append(ProbeReplicas(worker.worker_id, doubtful))
        return commands

    def _publish(self) -> list[Command]:
        models = routes(self.models, self.workers)
        if self.table.version and models == self.table.models:
            return []
        self.table = RouteTable(epoch=self.epoch, version=self.table.version + 1, models=models)
        return [PublishRoutes(self.table)]


def _serves_or_will(state: ReplicaState) -> bool:
    return not state.is_final and state is not ReplicaState.DRAINING
