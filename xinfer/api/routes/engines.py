"""Engines: which worker has which, and building environments for them."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from xinfer.api.state import state_of
from xinfer.protocol import ClusterInfo, EngineBuild

router = APIRouter(prefix="/v1/engines", tags=["cluster"])


class InstallBody(BaseModel):
    """What to build, and where."""

    model_config = ConfigDict(extra="forbid")

    packages: list[str] = Field(
        [], description="More packages, or other versions of those that the engine needs: torch==2.13.0"
    )
    workers: list[str] = Field([], description="Names, ids or addresses of workers; none: all of them")


@router.get("", summary="The engines, and whether each worker has them")
async def engines(request: Request) -> dict[str, Any]:
    """Engine -> worker -> whether it can be used there, in which environment, and if not, why and what helps."""
    info: ClusterInfo = await state_of(request).supervisor.call("info")
    table: dict[str, dict[str, Any]] = {}
    for worker in info.workers:
        for engine, offer in worker.hello.engines.items():
            table.setdefault(engine, {})[worker.hello.name] = msgspec.to_builtins(offer)
    return table


@router.post("/{name}/install", summary="Build an environment for an engine", status_code=202)
async def install(request: Request, name: str, body: InstallBody | None = None) -> dict[str, Any]:
    """Answers when the workers have begun; GET the same path for how far they are.

    An environment that is there already is ready at once. Every worker builds its own, from where its installer finds
    packages; one that several workers share is built once.
    """
    body = body or InstallBody(packages=[], workers=[])
    asked = (name, tuple(body.packages), tuple(body.workers))
    return _progress(name, await state_of(request).supervisor.call("install_engine", *asked))


@router.get("/{name}/install", summary="How far the environments of an engine are")
async def progress(request: Request, name: str) -> dict[str, Any]:
    """Every build of each worker since it started, the latest last; ``done`` once none of the latest goes on."""
    return _progress(name, await state_of(request).supervisor.call("engine_builds", name))


@router.post("/{name}/install/cancel", summary="Cancel the building of environments for an engine")
async def cancel(request: Request, name: str) -> dict[str, Any]:
    """On every worker. Launches that wait for it fail; what was downloaded is kept for the next time."""
    return _progress(name, await state_of(request).supervisor.call("cancel_engine_builds", name))


def _progress(engine: str, workers: dict[str, tuple[EngineBuild, ...]]) -> dict[str, Any]:
    latest = [of_worker[-1] for of_worker in workers.values() if of_worker]
    ended = [build.state != "building" for build in latest]
    fractions = [1.0 if end else build.progress for build, end in zip(latest, ended, strict=True)]
    return {
        "engine": engine,
        "done": all(ended),
        "progress": round(sum(fractions) / max(1, len(fractions)), 4),
        "reason": next((build.reason for build in latest if build.state == "failed"), ""),
        "workers": {name: msgspec.to_builtins(of_worker) for name, of_worker in workers.items()},
    }
