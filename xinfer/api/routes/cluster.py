"""The cluster as a whole: workers, devices, where the supervisor is."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictInt

from xinfer import __version__
from xinfer.api.cards import device_cards, instance_info, replica_info
from xinfer.api.state import state_of
from xinfer.errors import SupervisorAway
from xinfer.protocol import ClusterInfo, Cordon, ReplicaStatus, WorkerInfo
from xinfer.slices.tally import tallies

router = APIRouter(tags=["cluster"])

_WILDCARDS = frozenset({"0.0.0.0", "::", ""})


@router.get("/v1/address", summary="The supervisor's actor address, for workers that join")
async def address(request: Request) -> str:
    """host:port. A supervisor that listens on every interface is reachable under the name that the caller used."""
    known = state_of(request).supervisor.address
    if not known:
        raise SupervisorAway("no supervisor has started in this home", retry_after=2)
    host, _, port = known.rpartition(":")
    return f"{request.url.hostname}:{port}" if host.strip("[]") in _WILDCARDS else known


@router.get("/v1/cluster/auth", summary="Whether clients must authenticate")
async def auth() -> dict[str, bool]:
    """The first thing that Xinference's client asks."""
    return {"auth": False}


@router.get("/v1/cluster/version", summary="The version")
async def version() -> dict[str, str]:
    """Of this gateway."""
    return {"version": __version__}


@router.get("/v1/cluster/info", summary="Workers, devices, models and replicas")
async def cluster_info(request: Request) -> dict[str, Any]:
    """Everything that ``xinfer status`` shows."""
    info: ClusterInfo = await state_of(request).supervisor.call("info")
    return {
        "version": info.version,
        "address": info.address,
        "epoch": info.epoch,
        "uptime_s": round(info.uptime_s, 1),
        "settling": info.settling,
        "cordons": msgspec.to_builtins(info.cordons),
        "workers": [_worker(worker) for worker in info.workers],
        "models": [instance_info(instance) for instance in info.instances],
    }


@router.get("/v1/workers", summary="The workers")
async def workers(request: Request) -> list[Any]:
    """Name, address, devices and engines of each."""
    info: ClusterInfo = await state_of(request).supervisor.call("info")
    return [_worker(worker) for worker in info.workers]


@router.get("/v1/cluster/devices", summary="Each device of each worker as its slices")
async def devices(request: Request) -> list[Any]:
    """What each device has, what of it is reserved and for which replica, what is used, and what holds it to that.

    All memory in MiB; ``null`` where nobody can tell.
    """
    info: ClusterInfo = await state_of(request).supervisor.call("info")
    return [card for worker in info.workers for card in device_cards(worker)]


class CordonBody(BaseModel):
    """A worker, or one of its devices."""

    worker: str = Field(description="Its name, id, address or host", min_length=1)
    device: StrictInt | str | None = Field(
        None, description="Its id, number (of an accelerator) or UUID; none: the whole worker"
    )

    @property
    def target(self) -> tuple[str, str]:
        """The worker and the device, as the supervisor takes them."""
        return self.worker, "" if self.device is None else str(self.device)


@router.post("/v1/cluster/cordon", summary="Let a worker or a device take no new replicas")
async def cordon(request: Request, body: CordonBody) -> dict[str, Any]:
    """What runs there stays; a drain that is under way ends. It holds until uncordoned, over every restart."""
    return await _cordoned(request, body, drain=False)


@router.post("/v1/cluster/drain", summary="Cordon, and move the replicas away one after the other")
async def drain(request: Request, body: CordonBody) -> dict[str, Any]:
    """Answers at once. A replica goes when another one serves in its stead; one that fits nowhere else stays.

    The ``devices`` and ``info`` of the cluster show how far it is.
    """
    return await _cordoned(request, body, drain=True)


@router.post("/v1/cluster/uncordon", summary="Let a worker or a device take replicas again")
async def uncordon(request: Request, body: CordonBody) -> dict[str, Any]:
    """What was moved away does not come back by itself. Devices that were cordoned for themselves stay so."""
    target: tuple[str, str] = await state_of(request).supervisor.call("uncordon", *body.target)
    return await _target_info(request, *target)


async def _cordoned(request: Request, body: CordonBody, *, drain: bool) -> dict[str, Any]:
    said: Cordon = await state_of(request).supervisor.call("cordon", *body.target, drain)
    return await _target_info(request, said.worker_id, said.device_id)


async def _target_info(request: Request, worker_id: str, device_id: str) -> dict[str, Any]:
    """What holds for a worker or a device now, and which replicas are still there."""
    info: ClusterInfo = await state_of(request).supervisor.call("info")
    worker = next((worker for worker in info.workers if worker.hello.worker_id == worker_id), None)
    holding = [one for one in info.cordons if one.worker_id == worker_id and one.device_id in ("", device_id)]
    return {
        "worker_id": worker_id,
        "worker": worker.hello.name if worker else worker_id,
        "device": device_id or None,
        "cordoned": bool(holding),
        "draining": any(cordon.drain for cordon in holding),
        "replicas": [
            replica.replica_id
            for replica in (worker.replicas if worker else ())
            if not replica.state.is_final and (not device_id or _is_on(replica, device_id))
        ],
    }


def _is_on(replica: ReplicaStatus, device_id: str) -> bool:
    return any(piece.device_id == device_id for piece in replica.slices)


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    hello = worker.hello
    return {
        "worker_id": hello.worker_id,
        "name": hello.name,
        "address": hello.address,
        "version": hello.version,
        "alive": worker.alive,
        "last_seen_s_ago": round(worker.last_seen_s_ago, 1),
        "cordoned": any(not cordon.device_id for cordon in worker.cordons),
        "draining": any(not cordon.device_id and cordon.drain for cordon in worker.cordons),
        "devices": [
            {**msgspec.to_builtins(tally.device), "cordoned": tally.cordoned, "draining": tally.drained}
            for tally in tallies(worker)
        ],
        "engines": msgspec.to_builtins(hello.engines),
        "replicas": [replica_info(replica, hello.name) for replica in worker.replicas],
    }
