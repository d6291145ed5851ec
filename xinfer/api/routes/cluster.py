"""The cluster as a whole: workers, devices, engines, where the supervisor is."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request

from xinfer import __version__
from xinfer.api.cards import device_cards, instance_info, replica_info
from xinfer.api.state import state_of
from xinfer.errors import SupervisorAway
from xinfer.protocol import ClusterInfo, WorkerInfo

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


@router.get("/v1/engines", summary="The engines, and whether each worker has them")
async def engines(request: Request) -> dict[str, Any]:
    """Engine -> worker -> whether it can be used there, and why not."""
    info: ClusterInfo = await state_of(request).supervisor.call("info")
    table: dict[str, dict[str, Any]] = {}
    for worker in info.workers:
        for engine, offer in worker.hello.engines.items():
            table.setdefault(engine, {})[worker.hello.name] = msgspec.to_builtins(offer)
    return table


def _worker(worker: WorkerInfo) -> dict[str, Any]:
    hello = worker.hello
    return {
        "worker_id": hello.worker_id,
        "name": hello.name,
        "address": hello.address,
        "version": hello.version,
        "alive": worker.alive,
        "last_seen_s_ago": round(worker.last_seen_s_ago, 1),
        "devices": msgspec.to_builtins(hello.devices),
        "engines": msgspec.to_builtins(hello.engines),
        "replicas": [replica_info(replica, hello.name) for replica in worker.replicas],
    }
