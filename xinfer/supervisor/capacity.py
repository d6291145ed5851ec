"""Where there is room: what is committed on every device, which workers may take a replica, and the plan that results.

Committed is what was assigned, whether or not it runs already. A replica that was taken back but still runs holds its
memory until it is gone: it counts against placing now, not against admitting a launch, which may wait for it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from xinfer.devices import Device, DeviceSlice, Placement
from xinfer.protocol import WorkerHello
from xinfer.spec import Deployment, ResourceRequest
from xinfer.supervisor import sizing
from xinfer.supervisor.placement.base import DeviceRoom, Need, PlacementPolicy, WorkerRoom, shortfalls
from xinfer.supervisor.records import ModelRecord, WorkerRecord

CPU = "cpu"


class Ledger:
    """The books of one moment: every device of every living worker and what is committed on it."""

    def __init__(
        self,
        models: Mapping[str, ModelRecord],
        workers: Mapping[str, WorkerRecord],
        *,
        count_leaving: bool,
        without: Collection[str] = (),
    ) -> None:
        """``without``: model_uids whose replicas are not counted, because they are about to go."""
        self._hellos = [worker.hello for worker in workers.values() if worker.alive]
        self._rooms = {
            (hello.worker_id, device.device_id): DeviceRoom(device)
            for hello in self._hellos
            for device in hello.devices
        }
        placed = [(uid, replica) for uid, model in models.items() for replica in model.replicas.values()]
        for uid, replica in placed:
            if uid not in without:
                self._commit(replica.worker_id, replica.slices)
        if count_leaving:
            current = {(replica.worker_id, replica.key) for _, replica in placed}
            self._count_leaving(workers.values(), current)

    def plan(self, deployment: Deployment, count: int, policy: PlacementPolicy) -> tuple[list[Placement], str]:
        """Places for up to ``count`` replicas, booked here at once, and why there are not more (empty: all placed)."""
        need = Need(
            devices=deployment.request.devices,
            memory_mib=sizing.memory_mib(deployment),
            cores_percent=deployment.request.cores_percent,
        )
        candidates, reason = candidate_workers(self._hellos, deployment.engine, deployment.request)
        if reason:
            return [], reason
        rooms = self._worker_rooms(candidates, deployment.request)
        places: list[Placement] = []
        while len(places) < count:
            place = policy.place(need, rooms)
            if place is None:
                return places, self._refusal(deployment, need, rooms, len(places), count)
            self._commit(place.worker_id, place.slices)
            places.append(place)
        return places, ""

    def _commit(self, worker_id: str, slices: Iterable[DeviceSlice]) -> None:
        for piece in slices:
            room = self._rooms.get((worker_id, piece.device_id))
            if room is not None:
                room.committed_mib += piece.memory_mib
                room.committed_cores += piece.cores_percent
                room.replicas += 1

    def _count_leaving(self, workers: Iterable[WorkerRecord], current: Collection[tuple[str, tuple[str, int]]]) -> None:
        for worker in workers:
            for key, status in worker.reported().items():
                if (worker.worker_id, key) in current or status.state.is_final:
                    continue
                for piece in status.slices:
                    room = self._rooms.get((worker.worker_id, piece.device_id))
                    if room is not None:
                        room.leaving_mib += piece.memory_mib

    def _worker_rooms(self, hellos: Sequence[WorkerHello], request: ResourceRequest) -> list[WorkerRoom]:
        allowed = allowed_devices(hellos, request)
        return [
            WorkerRoom(
                hello.worker_id,
                hello.name,
                [self._rooms[hello.worker_id, device.device_id] for device in allowed[hello.worker_id]],
            )
            for hello in hellos
        ]

    def _refusal(self, deployment: Deployment, need: Need, rooms: Sequence[WorkerRoom], placed: int, count: int) -> str:
        devices = "one device" if need.devices == 1 else f"each of {need.devices} devices of one worker"
        already = f" ({placed} of {count} replicas fit)" if placed else ""
        return (
            f"a replica of {deployment.model_uid!r} needs {need.memory_mib} MiB on {devices}{already}: "
            f"{shortfalls(need, rooms)}"
        )


def candidate_workers(
    hellos: Sequence[WorkerHello], engine: str, request: ResourceRequest
) -> tuple[list[WorkerHello], str]:
    """The workers that may run a replica; where there are none, the reason."""
    if not hellos:
        return [], "no worker has joined"
    chosen = [hello for hello in hellos if request.worker is None or answers_to(hello, request.worker)]
    if not chosen:
        return [], f"no living worker is called {request.worker!r}; there are: {worker_names(hellos)}"
    offering = [hello for hello in chosen if (offer := hello.engines.get(engine)) and offer.ok]
    if not offering:
        reasons = "; ".join(f"{hello.name}: {_why_not(hello, engine)}" for hello in chosen)
        return [], f"no worker offers the engine {engine!r} ({reasons})"
    return offering, ""


def allowed_devices(hellos: Iterable[WorkerHello], request: ResourceRequest) -> dict[str, list[Device]]:
    """By worker_id, the devices that a request may use.

    "any" means accelerators as soon as one of the workers has one: nobody who has accelerators wants a replica to end
    up on a CPU because they are full.
    """
    hellos = list(hellos)
    kind = request.device_kind
    if kind == "any":
        kind = "accelerator" if any(d.kind != CPU for hello in hellos for d in hello.devices) else CPU
    return {
        hello.worker_id: [
            device
            for device in hello.devices
            if (device.kind == CPU) == (kind == CPU)
            and (not request.device_indices or device.index in request.device_indices)
        ]
        for hello in hellos
    }


def answers_to(hello: WorkerHello, name: str) -> bool:
    """Whether a user who writes ``name`` means this worker: its id, name, address or host."""
    host = hello.address.rpartition(":")[0].strip("[]")
    return name in (hello.worker_id, hello.name, hello.address, host)


def worker_names(hellos: Iterable[WorkerHello]) -> str:
    """The workers as a user can name them, for messages."""
    return ", ".join(sorted(f"{hello.name} ({hello.address})" for hello in hellos)) or "none"


def _why_not(hello: WorkerHello, engine: str) -> str:
    offer = hello.engines.get(engine)
    return offer.reason or "not available" if offer else "unknown there"
