"""Where there is room: what is committed on every device, which workers may take a replica, and the plan that results.

Committed is what was assigned, whether or not it runs already. A replica that was taken back but still runs holds its
memory until it is gone: it counts against placing now, not against admitting a launch, which may wait for it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from xinfer.devices import Device, Placement
from xinfer.errors import NoCapacity
from xinfer.protocol import WorkerHello
from xinfer.slices.explain import Explanation, explain
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.spec import Deployment, ReplicaState, ResourceRequest
from xinfer.supervisor import sizing
from xinfer.supervisor.books import Entries, Tenant, open_rooms
from xinfer.supervisor.events import Target
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
        cordons: Collection[Target] = (),
    ) -> None:
        """``without``: model_uids whose replicas are not counted, because they are about to go."""
        self._workers = {worker_id: worker for worker_id, worker in workers.items() if worker.alive}
        self._hellos = [worker.hello for worker in self._workers.values()]
        self._books: dict[bool, dict[str, Rooms]] = {}
        """Opened when they are asked for. A replica runs on CPUs or on accelerators, so there is one for each."""
        self._entries = {worker_id: Entries(count_leaving=count_leaving) for worker_id in self._workers}
        placed = set()
        for uid, model in models.items():
            for replica in model.replicas.values():
                for member in replica.members:
                    placed.add((member.worker_id, member.key))
                    if uid not in without and member.worker_id in self._entries:
                        state = ReplicaState.FAILED if replica.state is ReplicaState.FAILED else member.state
                        tenant = Tenant(uid, member.replica_id, member.slices, state)
                        self._entries[member.worker_id].committed.append(tenant)
        for worker_id, entries in self._entries.items():
            for status in self._workers[worker_id].report.replicas:
                key = (status.replica_id, status.generation)
                if not status.state.is_final and (worker_id, key) not in placed:
                    tenant = Tenant(status.model_uid, status.replica_id, status.slices, status.state)
                    entries.leaving.append(tenant)
        for worker_id, device_id in cordons:
            if worker_id in self._entries:
                self._entries[worker_id].cordoned.add(device_id)

    def plan(self, deployment: Deployment, count: int, policy: PlacementPolicy, *, advise: bool = False) -> Plan:
        """Places for up to ``count`` replicas, booked here at once. ``advise``: also look for what would fit instead.

        Raises:
            InvalidSliceRequest: the resources that the deployment asks for cannot be meant.
        """
        rooms, reason = self._rooms_for(deployment)
        places: list[Placement] = []
        while rooms and len(places) < count:
            request = self._request(deployment, rooms)
            found = place_on(deployment.request.workers, request, rooms, policy)
            if len(found) < deployment.request.workers:
                explanation = explain(request, without_those_of(found, rooms), advise=advise)
                already = f" ({len(places)} of {count} replicas fit)" if places else ""
                origin = sizing.origin(deployment, kind_of(rooms))
                why = f" ({origin})" if origin else ""
                need = f"a replica of {deployment.model_uid!r} needs {in_words(request, deployment.request.workers)}"
                but = _how_many_fit(deployment.request.workers, found, rooms)
                return Plan(places, f"{need}{why}{already}: {but}{explanation.message}", explanation)
            for place in found:
                self._commit(Tenant(deployment.model_uid, "", place.slices), place.worker_id)
            leader, *followers = found
            places.append(msgspec.structs.replace(leader, followers=tuple(followers)))
        return Plan(places, reason)

    def explain(self, deployment: Deployment, *, advise: bool = True) -> Explanation:
        """What stands for and against every device that one more replica could use. ``advise``: see ``plan``.

        Raises:
            InvalidSliceRequest: the resources that the deployment asks for cannot be meant.
        """
        rooms, _ = self._rooms_for(deployment)
        return explain(self._request(deployment, rooms), rooms, advise=advise)

    def request(self, deployment: Deployment) -> SliceRequest:
        """What one more replica asks for, on the kind of devices that it would get.

        Raises:
            InvalidSliceRequest: the resources that the deployment asks for cannot be meant.
        """
        return self._request(deployment, self._rooms_for(deployment)[0])

    def device_kind(self, deployment: Deployment) -> str:
        """On what a replica would run: "cpu" or "accelerator"; empty where no worker may run it."""
        return kind_of(self._rooms_for(deployment)[0])

    def _book(self, *, on_cpu: bool) -> dict[str, Rooms]:
        """By worker, its CPU or its accelerators, with everything that is committed on them."""
        book = self._books.get(on_cpu)
        if book is not None:
            return book
        book = {
            worker_id: open_rooms(worker, self._entries[worker_id], on_cpu=on_cpu)
            for worker_id, worker in self._workers.items()
        }
        self._books[on_cpu] = book
        return book

    def _commit(self, tenant: Tenant, worker_id: str) -> None:
        for book in self._books.values():
            book[worker_id].take(tenant.slices)
        self._entries[worker_id].committed.append(tenant)  # for a book that is still to be opened

    def _rooms_for(self, deployment: Deployment) -> tuple[list[Rooms], str]:
        """The devices that a replica may use, by worker; where no worker may run it, the reason."""
        hellos, reason = candidate_workers(self._hellos, deployment)
        if reason:
            return [], reason
        book = self._book(on_cpu=uses_cpu(hellos, deployment.request))
        return [book[hello.worker_id] for hello in hellos], ""

    def _request(self, deployment: Deployment, rooms: Sequence[Rooms]) -> SliceRequest:
        request = slice_request(deployment, kind_of(rooms))
        if not deployment.request.anti_affinity:
            return request
        cards = {
            worker.by_id[piece.device_id].card
            for worker in rooms
            for tenant in self._entries[worker.worker_id].committed
            for piece in tenant.slices
            if tenant.model_uid == deployment.model_uid and piece.device_id in worker.by_id
        }
        return msgspec.structs.replace(request, anti_affinity=frozenset(cards))


def kind_of(rooms: Iterable[Rooms]) -> str:
    """Whether rooms that were opened together are of CPUs or of accelerators; empty: there is no device."""
    device = next((room.device for worker in rooms for room in worker.by_id.values()), None)
    if device is None:
        return ""
    return sizing.CPU if device.kind == CPU else sizing.ACCELERATOR


def slice_request(deployment: Deployment, device_kind: str = "") -> SliceRequest:
    """What one replica asks for; memory that is not given is estimated, for the kind of device as in ``memory_mib``.

    Raises:
        InvalidSliceRequest: it cannot be meant; names the field.
    """
    request = deployment.request
    by_percent = request.memory_percent is not None
    return SliceRequest(
        count=request.devices,
        memory_mib=request.memory_mib if by_percent else sizing.memory_mib(deployment, device_kind),
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


def place_on(workers: int, request: SliceRequest, rooms: Sequence[Rooms], policy: PlacementPolicy) -> list[Placement]:
    """Places for the members of one replica on so many different workers, or on as many as fit."""
    found: list[Placement] = []
    while len(found) < workers:
        place = policy.place(request, without_those_of(found, rooms))
        if place is None:
            break
        found.append(place)
    return found


def without_those_of(places: Collection[Placement], rooms: Sequence[Rooms]) -> Sequence[Rooms]:
    """The rooms of workers that have none of the places."""
    taken = {place.worker_id for place in places}
    return [worker for worker in rooms if worker.worker_id not in taken] if taken else rooms


def _how_many_fit(workers: int, found: Collection[Placement], rooms: Sequence[Rooms]) -> str:
    """Where several workers are needed, how many of them there are and have room."""
    if workers == 1:
        return ""
    if len(rooms) < workers:
        return f"there {'is' if len(rooms) == 1 else 'are'} only {len(rooms)} that may run it; "
    names = {worker.worker_id: worker.name for worker in rooms}
    have = ", ".join(names[place.worker_id] for place in found)
    return f"{len(found)} of {workers} have room{f' ({have})' if have else ''}; "


def in_words(request: SliceRequest, workers: int = 1) -> str:
    """What a replica asks for: "100 MiB and 20 % of the cores on one device"."""
    memory = (
        f"{request.memory_mib} MiB" if request.memory_mib is not None else f"{request.memory_percent} % of the memory"
    )
    cores = " and all cores" if request.exclusive else f" and {request.cores} % of the cores" if request.cores else ""
    devices = "one device" if request.count == 1 else f"each of {request.count} devices"
    on_worker = "one worker" if workers == 1 else f"each of {workers} workers"
    return f"{memory}{cores} on {devices}{f' of {on_worker}' if request.count > 1 or workers > 1 else ''}"


def candidate_workers(hellos: Sequence[WorkerHello], deployment: Deployment) -> tuple[list[WorkerHello], str]:
    """The workers that may run a replica; where there are none, the reason."""
    engine, request = deployment.engine, deployment.request
    if not hellos:
        return [], "no worker has joined"
    chosen = [hello for hello in hellos if request.worker is None or answers_to(hello, request.worker)]
    if not chosen:
        return [], f"no living worker is called {request.worker!r}; there are: {worker_names(hellos)}"
    environment = deployment.environment
    offering = [hello for hello in chosen if (offer := hello.engines.get(engine)) and offer.serves(environment)]
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
