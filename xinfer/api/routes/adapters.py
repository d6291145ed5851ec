"""The LoRA adapters of a model: added to and taken from its running replicas."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from xinfer.api.adapter_words import LoraModule
from xinfer.api.cards import adapter_infos
from xinfer.api.state import state_of
from xinfer.api.waiting import wait_until_obeyed
from xinfer.errors import LoadFailed, UnknownModel
from xinfer.protocol import ModelInstance
from xinfer.spec import Adapter

router = APIRouter(prefix="/v1/models", tags=["adapters"])


@router.get("/{uid:path}/adapters", summary="The adapters of a model")
async def list_adapters(request: Request, uid: str) -> list[Any]:
    """Each with the replicas that serve it, and why others cannot."""
    found: tuple[ModelInstance, ...] = await state_of(request).supervisor.call("instances", None, uid)
    if not found:
        raise UnknownModel(f"the model {uid!r} does not exist; GET /v1/models lists what there is", param="model")
    return adapter_infos(found[0])


@router.post("/{uid:path}/adapters", summary="Serve one more adapter")
async def add_adapter(
    request: Request,
    uid: str,
    body: LoraModule,
    wait_ready: Annotated[bool, Query(description="Answer when the running replicas serve it")] = True,
) -> dict[str, Any]:
    """From then on it is a model of its own, on every replica, over every restart.

    One that a replica cannot load is removed again, unless nobody waits for it.
    """
    supervisor = state_of(request).supervisor
    await supervisor.call("add_adapter", uid, Adapter(name=body.name, path=body.path))
    if wait_ready:
        try:
            await wait_until_obeyed(request, uid, body.name)
        except LoadFailed:
            await supervisor.call("remove_adapter", uid, body.name)
            raise
    return {"id": body.name, "object": "model", "parent": uid}


@router.delete("/{uid:path}/adapters/{name:path}", summary="Serve an adapter no more")
async def remove_adapter(request: Request, uid: str, name: str) -> dict[str, Any]:
    """What it has begun to answer is finished."""
    await state_of(request).supervisor.call("remove_adapter", uid, name)
    await wait_until_obeyed(request, uid)
    return {"id": name, "object": "model", "deleted": True}
