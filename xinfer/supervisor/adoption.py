"""Replicas that run already when a supervisor or a worker comes: which of them get their places back. Pure."""

from collections.abc import Iterable, Mapping

from xinfer.protocol import ReplicaStatus
from xinfer.spec import ReplicaState
from xinfer.supervisor.records import Member, ModelRecord, PlacedReplica, WorkerRecord, worth


def adopt(models: Mapping[str, ModelRecord], workers: Iterable[WorkerRecord], *, settling: bool) -> None:
    """Keep what is reported of the current revision, where it has no place: the best and newest first.

    Outside of settling only what a worker brings with it when it comes (back) is adopted. Anything else that it runs
    without a place was taken from it on purpose. Of a gang that means: all of it, or nothing.
    """
    found = [*_found(models, workers)]
    for model, replica in sorted(found, key=lambda pair: (worth(pair[1].state), -pair[1].leader.generation)):
        if replica.replica_id not in model.replicas and (settling or model.missing > 0):
            model.replicas[replica.replica_id] = replica
            model.note_served(replica.leader)


def _found(
    models: Mapping[str, ModelRecord], workers: Iterable[WorkerRecord]
) -> Iterable[tuple[ModelRecord, PlacedReplica]]:
    """What may be adopted: replicas of one process, and gangs of which every member is there."""
    gangs: dict[tuple[str, int], dict[int, Member]] = {}
    for worker in workers:
        for status in worker.report.replicas:
            model = models.get(status.model_uid)
            if model is None or status.revision != model.deployment.revision or _is_leaving(status):
                continue
            member = Member(status.replica_id, status.generation, worker.worker_id, status.slices, status)
            if status.seat is None:
                yield model, PlacedReplica((member,))
                continue
            gang = gangs.setdefault((status.seat.gang, status.generation), {})
            gang[status.seat.rank] = member
            if len(gang) == status.seat.size:
                yield model, PlacedReplica(tuple(gang[rank] for rank in sorted(gang)))


def _is_leaving(status: ReplicaStatus) -> bool:
    return status.state in (ReplicaState.STOPPED, ReplicaState.DRAINING)
