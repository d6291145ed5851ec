"""What is told about a model, derived from its record: replica statuses, progress, instances."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from xinfer.protocol import Cordon, ModelInstance, ModelProgress, ReplicaStatus, WorkerInfo
from xinfer.spec import ReplicaState
from xinfer.supervisor.launched import as_served
from xinfer.supervisor.records import Member, ModelRecord, PlacedReplica, WorkerRecord, slot_of

Workers = Mapping[str, WorkerRecord]


def statuses(model: ModelRecord, workers: Workers) -> tuple[ReplicaStatus, ...]:
    """Every desired replica in the order of its slots, also those without a place or a word from their worker."""
    placed = [_status(model, replica, workers) for replica in model.replicas.values()]
    waiting = [
        _pending(model, replica_id, model.pending_reason or "waiting for a place", generation=0)
        for replica_id in model.free_ids(model.missing)
    ]
    return tuple(sorted([*placed, *waiting], key=lambda status: slot_of(status.replica_id)))


def _status(model: ModelRecord, replica: PlacedReplica, workers: Workers) -> ReplicaStatus:
    members = [_member(model, member, workers) for member in replica.members]
    status = _gang(replica, members, workers) if replica.is_gang else members[0]
    if replica.unwelcome and replica.leader.status is not None and not status.reason:
        return msgspec.structs.replace(status, reason=_why_it_leaves(replica))
    return status


def _member(model: ModelRecord, member: Member, workers: Workers) -> ReplicaStatus:
    worker, name = workers.get(member.worker_id), _name(member, workers)
    if member.status is None:
        reason = f"waiting for worker {name} to start it"
        return msgspec.structs.replace(
            _pending(model, member.replica_id, reason, member.generation), slices=member.slices
        )
    if worker is not None and not worker.alive and not member.state.is_final:
        return msgspec.structs.replace(member.status, reason=f"worker {name} does not answer")
    return member.status


def _name(member: Member, workers: Workers) -> str:
    worker = workers.get(member.worker_id)
    return worker.hello.name if worker else member.worker_id


def _gang(replica: PlacedReplica, statuses: Sequence[ReplicaStatus], workers: Workers) -> ReplicaStatus:
    """A gang as one replica: the status of its leader, in the state of the gang, with what its slowest member does."""
    state, ordeal = replica.state, replica.ordeal
    over = {"state": state, "stage": "failed", "reason": ""} if ordeal.given_up else {}
    members = [
        msgspec.structs.replace(
            status, worker=_name(replica.members[rank], workers), seat=status.seat or replica.seat(rank), **over
        )
        for rank, status in enumerate(statuses)
    ]
    leader = members[0]
    reasons = [f"{one.worker}: {one.reason}" for one in members if one.reason]
    if state is ReplicaState.READY:
        stage, progress = leader.stage, leader.progress
    elif ordeal.given_up:
        stage, progress = "failed", 0.0
    elif ordeal.retry_at is not None:
        stage, progress = "waiting to be restarted", 0.0
    else:
        rank, slowest = min(enumerate(members), key=lambda one: (_fraction(one[1]), one[0]))
        stage = f"rank {rank} on {slowest.worker}: {slowest.stage}"
        progress = sum(map(_fraction, members)) / len(members)
    return msgspec.structs.replace(
        leader,
        state=state,
        stage=stage,
        progress=progress,
        reason=ordeal.reason or "; ".join(reasons),
        refused=next((one.refused for one in members if one.refused), ""),
        restarts=ordeal.restarts,
        warning="; ".join(f"{one.worker}: {one.warning}" for one in members if one.warning),
        endpoint=leader.endpoint if state is ReplicaState.READY else None,
        members=tuple(members),
    )


def _why_it_leaves(replica: PlacedReplica) -> str:
    if replica.moving:
        return f"{replica.unwelcome}; it serves until another replica does"
    if replica.stuck:
        return f"{replica.unwelcome}; it cannot be moved: {replica.stuck}"
    return f"{replica.unwelcome}; it is moved in its turn"


def _pending(model: ModelRecord, replica_id: str, reason: str, generation: int) -> ReplicaStatus:
    deployment = model.deployment
    return ReplicaStatus(
        replica_id=replica_id,
        model_uid=deployment.model_uid,
        generation=generation,
        revision=deployment.revision,
        state=ReplicaState.PENDING,
        stage="pending",
        reason=reason,
        since=deployment.created_at,
    )


def progress(model: ModelRecord, workers: Workers) -> ModelProgress:
    """How far the launch is: mean progress, and the stage of the replica that is furthest behind."""
    replicas = statuses(model, workers)
    fractions = [_fraction(status) for status in replicas]
    slowest = min(zip(fractions, replicas, strict=True), key=lambda pair: pair[0], default=(1.0, None))[1]
    failed = next((status for status in replicas if status.state is ReplicaState.FAILED), None)
    return ModelProgress(
        model_uid=model.deployment.model_uid,
        progress=sum(fractions) / max(1, len(fractions)),
        stage=_stage(slowest),
        replicas=replicas,
        done=all(status.state is ReplicaState.READY or status.state.is_final for status in replicas),
        reason=failed.reason if failed else "",
        refused=failed.refused if failed else "",
    )


def _fraction(status: ReplicaStatus) -> float:
    return 1.0 if status.state is ReplicaState.READY else min(1.0, max(0.0, status.progress))


def _stage(status: ReplicaStatus | None) -> str:
    if status is None or status.state is ReplicaState.READY:
        return "ready"
    return status.stage or status.state.lower()


def instance(model: ModelRecord, workers: Workers) -> ModelInstance:
    """The desired state of a model beside its replicas, and the names of the workers they are on."""
    return ModelInstance(
        deployment=as_served(model.deployment),
        replicas=statuses(model, workers),
        workers={
            member.replica_id: workers[member.worker_id].hello.name
            for replica in model.replicas.values()
            for member in replica.members
            if member.worker_id in workers
        },
    )


def worker_info(worker: WorkerRecord, now: float, cordons: Iterable[Cordon] = ()) -> WorkerInfo:
    """A worker as ``xinfer status`` shows it. ``cordons``: those of the whole cluster."""
    return WorkerInfo(
        hello=worker.hello,
        alive=worker.alive,
        last_seen_s_ago=max(0.0, now - worker.last_seen),
        replicas=worker.report.replicas,
        uses=worker.report.uses,
        cordons=tuple(cordon for cordon in cordons if cordon.worker_id == worker.worker_id),
    )
