"""Which worker, and which of its devices, a replica gets."""

from collections.abc import Iterable

from xinfer.devices import Placement
from xinfer.slices.choose import choose
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.slices.score import worker_score
from xinfer.spec import Policy


def place(request: SliceRequest, workers: Iterable[Rooms]) -> Placement | None:
    """The best place for one replica, or None if there is none. The order of the workers does not matter.

    Workers are asked in the order of their score, fullest or emptiest first; the first that has the devices is taken.
    """
    binpack = request.worker_policy is Policy.BINPACK

    def order(worker: Rooms) -> tuple[int, str, str]:
        score = worker_score(worker.totals)
        return (-score if binpack else score, worker.name, worker.worker_id)

    for worker in sorted(workers, key=order):
        slices = choose(request, worker.by_id.values()) if _may_fit(request, worker) else None
        if slices is not None:
            return Placement(worker_id=worker.worker_id, slices=slices)
    return None


def _may_fit(request: SliceRequest, worker: Rooms) -> bool:
    """A cheap look that spares the close one on workers that are obviously full."""
    return len(worker.by_id) >= request.count and (request.memory_mib or 0) <= worker.largest_free_mib
