"""Gangs: replicas whose members run on several workers, and live and die together. Pure.

The worker of a member does not start it again by itself: when one ends, the others have nobody to work with. After a
pause that grows with every time, all of them are started anew as the next generation, where they were. Who could not
serve after several attempts is given up, as a worker gives up a replica of one process.
"""

from collections.abc import Callable, Iterable, Mapping

from xinfer.spec import ReplicaState
from xinfer.supervisor.records import Member, ModelRecord, PlacedReplica, WorkerRecord

START_ATTEMPTS = 3
"""A gang that was never READY gets so many chances."""
PAUSE_S = 0.5
"""Before it is started again; doubles with every time. Meanwhile the others notice, and say what they have to."""
LONGEST_PAUSE_S = 30.0
STABLE_S = 60.0
"""READY for so long: the next pause is the first one again."""


def dissolve(models: Iterable[ModelRecord]) -> None:
    """Take the places of gangs back of which a member is asked to leave: its worker goes, and it will not return."""
    for model in models:
        for replica in list(model.replicas.values()):
            leaving = replica.is_gang and any(member.state in _LEAVING for member in replica.members)
            if leaving and not replica.ordeal.given_up:
                del model.replicas[replica.replica_id]


def mend(
    models: Iterable[ModelRecord],
    workers: Mapping[str, WorkerRecord],
    now: float,
    next_generation: Callable[[], int],
) -> None:
    """Look after every gang: note what fails first, start it again when its pause is over, or give it up.

    ``now`` is epoch seconds.
    """
    for model in models:
        for replica in model.replicas.values():
            if replica.is_gang and not replica.ordeal.given_up:
                _look_after(replica, workers, now)
                _carry_on(replica, now, next_generation)


def _look_after(replica: PlacedReplica, workers: Mapping[str, WorkerRecord], now: float) -> None:
    """Note how it is now."""
    ordeal = replica.ordeal
    broken = [member for member in replica.members if member.lost or member.state is ReplicaState.FAILED]
    if broken:
        if ordeal.retry_at is None:
            stable = ordeal.ready_since is not None and now - ordeal.ready_since >= STABLE_S
            ordeal.deaths = 1 if stable else ordeal.deaths + 1
            ordeal.retry_at = now + min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(ordeal.deaths - 1, 10))
            ordeal.ready_since = None
        ordeal.reason = _reason(replica, broken, workers)
    elif replica.state is ReplicaState.READY and ordeal.ready_since is None:
        ordeal.ready_since, ordeal.was_ready, ordeal.reason = now, True, ""


def _carry_on(replica: PlacedReplica, now: float, next_generation: Callable[[], int]) -> None:
    ordeal = replica.ordeal
    if ordeal.retry_at is None or now < ordeal.retry_at:
        return
    ordeal.retry_at = None
    if ordeal.deaths >= START_ATTEMPTS and not ordeal.was_ready:
        ordeal.given_up = True
        ordeal.reason = f"given up after {ordeal.deaths} attempts: {ordeal.reason}"
    else:
        ordeal.restarts += 1
        replica.start_again(next_generation())


def _reason(replica: PlacedReplica, broken: Iterable[Member], workers: Mapping[str, WorkerRecord]) -> str:
    """What the member said that failed first; others fail because of it."""
    first = min(broken, key=lambda member: member.status.since if member.status and not member.lost else float("inf"))
    worker = workers.get(first.worker_id)
    where = f"rank {replica.members.index(first)} on worker {worker.hello.name if worker else first.worker_id}"
    if first.status is None or first.lost:
        return f"{where}: its process is gone, and its worker does not know why"
    return f"{where}: {first.status.reason}"


_LEAVING = (ReplicaState.DRAINING, ReplicaState.STOPPED)
