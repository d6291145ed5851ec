"""Where there is room: what is committed on every device, which workers may take a replica, and the plan that results.

Committed is what was assigned, whether or not it runs already. A replica that was taken back but still runs holds its
memory until it is gone: it counts against placing now, not against admitting a launch, which may wait for it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from xinfer.devices import Device, DeviceSlice, Placement
from xinfer.errors import NoCapacity
from xinfer.protocol import WorkerHello
from xinfer.slices.explain import Explanation, explain
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.spec import Deployment, ResourceRequest
from xinfer.supervisor import sizing
from xinfer.supervisor.events import ReplicaKey
from xinfer.supervisor.placement.base import PlacementPolicy
from xinfer.supervisor.records import ModelRecord, WorkerRecord

CPU = "cpu"


class Plan(NamedTuple):
    """Places for replicas and, if there are not enough of them, why."""

    places: list[Placement]
    reason: str = ""
    explanation: Explanation | None = None
    """What stands against every device, where it is the devices that the next replica does not fit on."""

    def require_all(self) -> None:
        """Whether every replica has a place.

        Raises:
            NoCapacity: not every one; by how many MiB each device falls short.
        """
        if self.reason:
            raise NoCapacity(self.reason, details=self.explanation.details() if self.explanation else None)


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
        self._books: dict[bool, dict[str, Rooms]] = {}
        """Opened when they are asked for. A replica runs on CPUs or on accelerators, so there is one for each."""
        placed = [(uid, replica) for uid, model in models.items() for replica in model.replicas.values()]
        self._committed = [(uid, replica.worker_id, replica.slices) for uid, replica in placed if uid not in without]
        current = {(replica.worker_id, replica.key) for _, replica in placed}
        self._leaving = list(_leaving(workers.values(), current)) if count_leaving else []

    def plan(self, deployment: Deployment, count: int, policy: PlacementPolicy, *, advise: bool = False) -> Plan:
        """Places for up to ``count`` replicas, booked here at once. ``advise``: also look for what would fit instead.

        Raises:
            InvalidSliceRequest: the resources that the deployment asks for cannot be meant.
        """
        rooms, reason = self._rooms_for(deployment)
        places: list[Placement] = []
        while rooms and len(places) < count:
            request = self._request(deployment, rooms)
            place = policy.place(request, rooms)
            if place is None:
                explanation = explain(request, rooms, advise=advise)
                already = f" ({len(places)} of {count} replicas fit)" if places else ""
                need = f"a replica of {deployment.model_uid!r} needs {in_words(request)}{already}"
                return Plan(places, f"{need}: {explanation.message}", explanation)
            self._commit(deployment.model_uid, place.worker_id, place.slices)
            places.append(place)
        return Plan(places, reason)

    def explain(self, deployment: Deployment) -> Explanation:
        """What stands for and against every device that one more replica could use.

        Raises:
            InvalidSliceRequest: the resources that the deployment asks for cannot be meant.
        """
        rooms, _ = self._rooms_for(deployment)
        return explain(self._request(deployment, rooms), rooms)

    def _book(self, *, on_cpu: bool) -> dict[str, Rooms]:
        """By worker, its CPU or its accelerators, with everything that is committed on them."""
        book = self._books.get(on_cpu)
        if book is not None:
            return book
        book = {
            hello.worker_id: Rooms(
                [device for device in hello.devices if (device.kind == CPU) == on_cpu],
                worker_id=hello.worker_id,
                name=hello.name,
            )
            for hello in self._hellos
        }
        for _, worker_id, slices in self._committed:
            if worker_id in book:
                book[worker_id].take(slices)
        for worker_id, slices in self._leaving:
            if worker_id in book:
                book[worker_id].hold(slices)
        self._books[on_cpu] = book
        return book

    def _commit(self, model_uid: str, worker_id: str, slices: tuple[DeviceSlice, ...]) -> None:
        self._committed.append((model_uid, worker_id, slices))
        for book in self._books.values():
            book[worker_id].take(slices)

    def _rooms_for(self, deployment: Deployment) -> tuple[list[Rooms], str]:
        """The devices that a replica may use, by worker; where no worker may run it, the reason."""
        hellos, reason = candidate_workers(self._hellos, deployment.engine, deployment.request)
        if reason:
            return [], reason
        book = self._book(on_cpu=uses_cpu(hellos, deployment.request))
        return [book[hello.worker_id] for hello in hellos], ""

    def _request(self, deployment: Deployment, rooms: Iterable[Rooms]) -> SliceRequest:
        request = slice_request(deployment)
        if not deployment.request.anti_affinity:
            return request
        by_worker = {worker.worker_id: worker.by_id for worker in rooms}
        cards = {
            by_worker[worker_id][piece.device_id].card
            for uid, worker_id, slices in self._committed
            for piece in slices
            if uid == deployment.model_uid and piece.device_id in by_worker.get(worker_id, ())
        }
        return msgspec.structs.replace(request, anti_affinity=frozenset(cards))


def _leaving(
    workers: Iterable[WorkerRecord], current: Collection[tuple[str, ReplicaKey]]
) -> Iterator[tuple[str, tuple[DeviceSlice, ...]]]:
    """What is still held by replicas that have no place any more, by worker."""
    for worker in workers:
        for key, status in worker.reported().items():
            if (worker.worker_id, key) not in current and not status.state.is_final:
                yield worker.worker_id, status.slices


def slice_request(deployment: Deployment) -> SliceRequest:
    """What one replica asks for; memory that is not given is estimated.

    Raises:
        InvalidSliceRequest: it cannot be meant; names the field.
    """
    request = deployment.request
    by_percent = request.memory_percent is not None
    return SliceRequest(
        count=request.devices,
        memory_mib=request.memory_mib if by_percent else sizing.memory_mib(deployment),
        memory_percent=request.memory_percent,
        cores=request.cores_percent,
        exclusive=request.exclusive,
        types=request.device_types,
        types_denied=request.device_types_denied,
        indices=request.device_indices,
        uuids=request.device_uuids,
        uuids_denied=request.device_uuids_denied,
        numa_bind=request.numa_bind,
        worker_policy=request.worker_policy,
        device_policy=request.device_policy,
        weights=request.weights,
    )


def in_words(request: SliceRequest) -> str:
    """What a replica asks for: "100 MiB and 20 % of the cores on one device"."""
    memory = (
        f"{request.memory_mib} MiB" if request.memory_mib is not None else f"{request.memory_percent} % of the memory"
    )
    cores = " and all cores" if request.exclusive else f" and {request.cores} % of the cores" if request.cores else ""
    devices = "one device" if request.count == 1 else f"each of {request.count} devices of one worker"
    return f"{memory}{cores} on {devices}"


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


def uses_cpu(hellos: Collection[WorkerHello], request: ResourceRequest) -> bool:
    """Whether a request is for CPUs rather than accelerators.

    "any" means accelerators as soon as one of the workers has one: nobody who has accelerators wants a replica to end
    up on a CPU because they are full.
    """
    if request.device_kind == "any":
        return all(device.kind == CPU for hello in hellos for device in hello.devices)
    return request.device_kind == CPU


def allowed_devices(hellos: Collection[WorkerHello], request: ResourceRequest) -> dict[str, list[Device]]:
    """By worker_id, the devices that a request may use, of the right kind and with the right index."""
    on_cpu = uses_cpu(hellos, request)
    return {
        hello.worker_id: [
            device
            for device in hello.devices
            if (device.kind == CPU) == on_cpu and (not request.device_indices or device.index in request.device_indices)
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
