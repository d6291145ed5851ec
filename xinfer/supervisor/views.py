"""What is told about a model, derived from its record: replica statuses, progress, instances."""

from collections.abc import Iterable, Mapping

import msgspec

from xinfer.protocol import Cordon, ModelInstance, ModelProgress, ReplicaStatus, WorkerInfo
from xinfer.spec import ReplicaState
from xinfer.supervisor.records import ModelRecord, PlacedReplica, WorkerRecord, slot_of

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
    worker = workers.get(replica.worker_id)
    name = worker.hello.name if worker else replica.worker_id
    if replica.status is None:
        reason = f"waiting for worker {name} to start it"
        return msgspec.structs.replace(
            _pending(model, replica.replica_id, reason, replica.generation), slices=replica.slices
        )
    if worker is not None and not worker.alive and not replica.state.is_final:
        return msgspec.structs.replace(replica.status, reason=f"worker {name} does not answer")
    if replica.unwelcome and not replica.status.reason:
        return msgspec.structs.replace(replica.status, reason=_why_it_leaves(replica))
    return replica.status


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
    failures = [status.reason for status in replicas if status.state is ReplicaState.FAILED]
    return ModelProgress(
        model_uid=model.deployment.model_uid,
        progress=sum(fractions) / max(1, len(fractions)),
        stage=_stage(slowest),
        replicas=replicas,
        done=all(status.state is ReplicaState.READY or status.state.is_final for status in replicas),
        reason=failures[0] if failures else "",
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
        deployment=model.deployment,
        replicas=statuses(model, workers),
        workers={
            replica.replica_id: workers[replica.worker_id].hello.name
            for replica in model.replicas.values()
            if replica.worker_id in workers
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
