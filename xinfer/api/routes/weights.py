"""Weights from hubs on the workers: downloading them ahead of launches, seeing what is there, removing them."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from xinfer.api.control import LOOKING_S
from xinfer.api.progress_events import progress_events
from xinfer.api.state import state_of
from xinfer.catalog.weight_sets import Pull, WeightsHere
from xinfer.protocol import LaunchRequest

router = APIRouter(prefix="/v1/weights", tags=["models"])

Workers = Annotated[list[str] | None, Query(alias="worker", description="Only these: name, id or address; repeatable")]


class PullBody(BaseModel):
    """Which weights, in the words of a launch, and where to."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: str = Field(description="A model of the catalog, or an id: OWNER/NAME, hf:..., ms:...", min_length=1)
    model_type: str | None = None
    model_format: str | None = None
    model_size_in_billions: int | float | str | None = None
    quantization: str | None = None
    workers: list[str] = Field([], description="Names, ids or addresses of workers; none: all of them")
    verify: bool = Field(False, description="Compare what is there with its hashes, too")


@router.get("", summary="The weights on the workers")
async def list_weights(request: Request, worker: Workers = None) -> dict[str, Any]:
    """What each has downloaded, its size in bytes and the replicas that use it; and the downloads that were ordered."""
    found: dict[str, WeightsHere] = await state_of(request).supervisor.call("weights", tuple(worker or ()))
    return {"object": "list", "workers": {name: msgspec.to_builtins(here) for name, here in found.items()}}


@router.post("", summary="Download weights to the workers", status_code=202)
async def pull(request: Request, body: PullBody) -> dict[str, Any]:
    """Answers when the workers have begun; GET ``/v1/weights/NAME/progress`` for how far they are.

    What is there already is not downloaded again, and workers of one home download once. After a cancel, or a restart
    of a worker, the same order goes on with what came.
    """
    words = body.model_dump(exclude={"workers", "verify"})
    asked = (LaunchRequest(**words), body.verify, tuple(body.workers))
    return _progress(await state_of(request).supervisor.call("pull", *asked, timeout_s=LOOKING_S))


@router.get("/{name}/progress", summary="How far a download to the workers is")
async def progress(request: Request, name: str) -> dict[str, Any]:
    """By the ``name`` that the order answered: in bytes, for each file of each worker and in total."""
    return await _now(request, name)


@router.get("/{name}/events", summary="Follow a download to the workers")
async def follow(request: Request, name: str) -> StreamingResponse:
    """The progress as server-sent events, whenever it changes, until it is done."""
    return await progress_events(request, lambda: _now(request, name))


@router.post("/{name}/cancel", summary="End a download to the workers")
async def cancel(request: Request, name: str) -> dict[str, Any]:
    """On every worker. What came is kept; launches that wait for the same weights go on."""
    return _progress(await state_of(request).supervisor.call("cancel_pull", name))


@router.delete("/{name:path}", summary="Remove weights from the workers")
async def remove(request: Request, name: str, worker: Workers = None) -> dict[str, Any]:
    """By name, source, or the id of a repository (all that was downloaded of it). Used by a replica anywhere: a 409."""
    freed: dict[str, dict[str, int]] = await state_of(request).supervisor.call(
        "remove_weights", name, tuple(worker or ())
    )
    return {"deleted": True, "freed_bytes": sum(sum(sets.values()) for sets in freed.values()), "workers": freed}


async def _now(request: Request, name: str) -> dict[str, Any]:
    return _progress(await state_of(request).supervisor.call("pull_progress", name))


def _progress(pulls: dict[str, Pull]) -> dict[str, Any]:
    goes_on = [pull for pull in pulls.values() if pull.state == "downloading"]
    done, total = sum(pull.done for pull in pulls.values()), sum(pull.total for pull in pulls.values())
    return {
        "name": next(iter(pulls.values())).name,
        "done": not goes_on,
        "downloaded": done,
        "total": total,
        "progress": round(done / total, 4) if total else float(not goes_on),
        "reason": next((pull.reason for pull in pulls.values() if pull.reason), ""),
        "workers": {worker: msgspec.to_builtins(pull) for worker, pull in pulls.items()},
    }
