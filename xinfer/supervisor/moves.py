"""Replicas that should not stay where they are: their device is lost or unhealthy, or an operator drains it. Pure.

What serves goes on until its replacement does: a replica on a faulty device may still answer, and is better than none.
A move that was begun is carried through even if the device recovers: one that comes and goes moves nobody twice.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from xinfer.protocol import Cordon
from xinfer.spec import ReplicaState
from xinfer.supervisor.events import Target
from xinfer.supervisor.records import Member, ModelRecord, PlacedReplica, WorkerRecord

Cordons = Mapping[Target, Cordon]


def trouble(member: Member, worker: WorkerRecord | None) -> str:
    """What is wrong with the devices of a member; empty: nothing, or nobody knows because its worker is lost."""
    if worker is None or not worker.alive:
        return ""
    for piece in member.slices:
        device = worker.devices.get(piece.device_id)
        if device is None:
            return f"device {piece.device_id} of worker {worker.hello.name} is gone"
        if not device.healthy:
            reason = device.health_reason or "no reason is known"
            return f"device {piece.device_id} of worker {worker.hello.name} is not healthy: {reason}"
    return ""


def drained(member: Member, worker: WorkerRecord | None, cordons: Cordons) -> str:
    """What an operator drains that a member is on; empty: nothing."""
    name = worker.hello.name if worker else member.worker_id
    for device_id in ("", *(piece.device_id for piece in member.slices)):
        cordon = cordons.get((member.worker_id, device_id))
        if cordon is not None and cordon.drain:
            return f"device {device_id} of worker {name} is drained" if device_id else f"worker {name} is drained"
    return ""


def note_unwelcome(models: Iterable[ModelRecord], workers: Mapping[str, WorkerRecord], cordons: Cordons) -> None:
    """Write down of every replica why it should not stay where it is.

    One that may stay again does so if the replica that was to take over from it has failed.
    """
    for model in models:
        failed = any(one.state is ReplicaState.FAILED for one in model.replicas.values())
        for replica in model.replicas.values():
            placed = [(member, workers.get(member.worker_id)) for member in replica.members]
            wrong = next(filter(None, (trouble(*one) for one in placed)), "")
            replica.faulty = bool(wrong)
            replica.unwelcome = wrong
            if cordons and not wrong:
                replica.unwelcome = next(filter(None, (drained(*one, cordons) for one in placed)), "")
            if not replica.unwelcome:
                replica.stuck, replica.moving = "", replica.moving and not failed


def due(models: Collection[ModelRecord]) -> Iterator[tuple[ModelRecord, PlacedReplica]]:
    """The replicas that are to be moved now; a drained worker gives up those that serve one after the other.

    One that failed waits for its user; if its device did that, it has no place to be moved from any more.
    """
    busy = {
        worker_id
        for model in models
        for replica in model.replicas.values()
        if replica.moving and not replica.faulty
        for worker_id in replica.worker_ids
    }
    for model in models:
        for replica in list(model.replicas.values()):
            if not replica.unwelcome or replica.moving or replica.state is ReplicaState.FAILED:
                continue
            if replica.faulty or replica.state is not ReplicaState.READY:
                yield model, replica
            elif busy.isdisjoint(replica.worker_ids):
                yield model, replica
                if replica.moving:  # whoever asked has found a place
                    busy.update(replica.worker_ids)


def serves_on(model: ModelRecord, replica: PlacedReplica) -> bool:
    """Whether a replica serves until its replacement does, rather than being replaced at once.

    One on a faulty device may answer wrongly: it serves on only if no other does.
    """
    if replica.state is not ReplicaState.READY:
        return False
    others = (other for other in model.replicas.values() if other is not replica and not other.faulty)
    return not replica.faulty or not any(other.state is ReplicaState.READY for other in others)
