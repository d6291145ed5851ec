"""Models: what runs (from the route table, also while the supervisor is away), and managing it (by the supervisor)."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from xinfer.api.cards import instance_info, launched_info, model_card, progress_info, replica_info
from xinfer.api.control import LOOKING_S
from xinfer.api.launching import LaunchBody, launch_request
from xinfer.api.progress_events import progress_events
from xinfer.api.state import state_of
from xinfer.api.waiting import wait_until_ready
from xinfer.errors import UnknownModel
from xinfer.protocol import ModelInstance

router = APIRouter(prefix="/v1/models", tags=["models"])


class ScaleBody(BaseModel):
    """How many replicas more."""

    model_config = ConfigDict(extra="forbid")

    replica: StrictInt = Field(1, ge=1, description="How many copies to add")


@router.get("", summary="List the models that can be used")
async def list_models(request: Request) -> dict[str, Any]:
    """The OpenAI list; each entry has the model's description beside its id."""
    models = state_of(request).gateway.models
    return {"object": "list", "data": [model_card(route) for _, route in sorted(models.items())]}


@router.post("", summary="Launch a model")
async def launch(
    request: Request,
    body: LaunchBody,
    wait_ready: Annotated[bool, Query(description="Answer when it is ready (or failed)")] = True,
) -> dict[str, Any]:
    """Deploy a model: it is durable from the answer on, and comes back by itself after any restart."""
    supervisor = state_of(request).supervisor
    instance: ModelInstance = await supervisor.call("launch", launch_request(body), timeout_s=LOOKING_S)
    if wait_ready:
        await wait_until_ready(request, instance.deployment)
    return launched_info(instance)


@router.get("/instances", summary="Deployments and their replicas")
async def instances(request: Request, model_name: str | None = None, model_uid: str | None = None) -> list[Any]:
    """What was asked for beside what runs."""
    found = await state_of(request).supervisor.call("instances", model_name, model_uid)
    return [instance_info(instance) for instance in found]


# A model_uid may contain slashes ("Qwen/Qwen3-0.6B"), so the fixed endings come before the bare uid.


@router.get("/{uid:path}/progress", summary="How far a launch is")
async def progress(request: Request, uid: str) -> dict[str, Any]:
    """Stage and progress (0..1) of every replica, and why it failed when it did."""
    return progress_info(await state_of(request).supervisor.call("progress", uid))


@router.get("/{uid:path}/events", summary="Follow a launch")
async def follow(request: Request, uid: str) -> StreamingResponse:
    """How far it is as server-sent events, whenever that changes, until it is done or gone."""
    supervisor = state_of(request).supervisor

    async def ask() -> dict[str, Any]:
        return progress_info(await supervisor.call("progress", uid))

    return await progress_events(request, ask)


@router.post("/{uid:path}/cancel", summary="Cancel a launch")
async def cancel(request: Request, uid: str) -> dict[str, Any]:
    """Only while it is not ready; later, DELETE it. What was downloaded is kept; the next launch goes on with it."""
    await state_of(request).supervisor.call("cancel", uid)
    return {"model_uid": uid, "status": "cancelled"}


@router.post("/{uid:path}/pause", summary="Let the download of a launch rest")
async def pause(request: Request, uid: str) -> dict[str, Any]:
    """Its replicas keep their slices and what was downloaded, over every restart, until ``resume``.

    Others that wait for the same weights go on with the download.
    """
    await state_of(request).supervisor.call("pause", uid)
    return {"model_uid": uid, "paused": True}


@router.post("/{uid:path}/resume", summary="Go on with a download that rests")
async def resume(request: Request, uid: str) -> dict[str, Any]:
    """From the byte where it was. Of one that does not rest, nothing changes."""
    await state_of(request).supervisor.call("resume", uid)
    return {"model_uid": uid, "paused": False}


@router.get("/{uid:path}/replicas", summary="The replicas of a model")
async def replicas(request: Request, uid: str) -> list[Any]:
    """State, worker, address and progress of each."""
    instance = await _instance(request, uid)
    return [replica_info(replica, instance.workers.get(replica.replica_id, "")) for replica in instance.replicas]


@router.post("/{uid:path}/replicas", summary="Add replicas")
async def add_replicas(request: Request, uid: str, body: ScaleBody) -> dict[str, Any]:
    """Scale up by ``replica``."""
    have = await _instance(request, uid)
    wanted = have.deployment.replicas + body.replica
    instance: ModelInstance = await state_of(request).supervisor.call("scale", uid, wanted)
    return instance_info(instance)


@router.delete("/{uid:path}/replicas/{replica_id}", summary="Remove a replica")
async def remove_replica(request: Request, uid: str, replica_id: str) -> dict[str, Any]:
    """Drain it, stop it, and scale down by one. A number alone names the replica of the model with that number."""
    if replica_id.isdecimal():
        replica_id = f"{uid}-{replica_id}"
    remaining: int = await state_of(request).supervisor.call("remove_replica", uid, replica_id)
    return {"remaining_replicas": remaining}


@router.get("/{uid:path}", summary="Describe a model")
async def retrieve(request: Request, uid: str) -> dict[str, Any]:
    """Its card: what it is, which engine runs it, its context length, how many replicas."""
    route = state_of(request).gateway.models.get(uid)
    if route is None:
        raise UnknownModel(f"the model {uid!r} does not exist; GET /v1/models lists what you can use", param="model")
    return model_card(route)


@router.delete("/{uid:path}", summary="Terminate a model")
async def terminate(request: Request, uid: str) -> dict[str, Any]:
    """Drain and stop all of its replicas, and forget the deployment."""
    await state_of(request).supervisor.call("terminate", uid)
    return {"id": uid, "object": "model", "deleted": True}


async def _instance(request: Request, uid: str) -> ModelInstance:
    found: tuple[ModelInstance, ...] = await state_of(request).supervisor.call("instances", None, uid)
    if not found:
        raise UnknownModel(f"the model {uid!r} does not exist; GET /v1/models lists what there is", param="model")
    return found[0]
