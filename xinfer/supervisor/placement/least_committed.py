from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from xinfer.devices import Placement
from xinfer.supervisor.placement.base import DeviceRoom, Need, WorkerRoom, placement


class _Score(NamedTuple):
    """Lower is better; the name comes last, so that equal places are always taken in the same order."""

    load: float
    replicas: int
    worker_name: str
    worker_id: str


class LeastCommitted:
    """Spread: the worker whose chosen devices have the smallest committed share of memory, then the fewest replicas.

    On a worker the least committed devices are taken, the lower index first.
    """

    name = "least_committed"

    def place(self, need: Need, workers: Sequence[WorkerRoom]) -> Placement | None:
        """The least committed place where the need fits, or None."""
        options = [(_score(worker, chosen), worker, chosen) for worker in workers if (chosen := _choose(need, worker))]
        if not options:
            return None
        _, worker, chosen = min(options, key=itemgetter(0))
        return placement(worker, chosen, need)


def _choose(need: Need, worker: WorkerRoom) -> list[DeviceRoom] | None:
    fitting = [room for room in worker.devices if room.fits(need)]
    if len(fitting) < need.devices:
        return None
    return sorted(fitting, key=lambda room: (room.load, room.replicas, room.device.index))[: need.devices]


def _score(worker: WorkerRoom, chosen: list[DeviceRoom]) -> _Score:
    return _Score(
        load=max(room.load for room in chosen),
        replicas=sum(room.replicas for room in chosen),
        worker_name=worker.name,
        worker_id=worker.worker_id,
    )


POLICY = LeastCommitted()
