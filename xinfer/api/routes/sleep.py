"""Putting models to sleep, and waking them."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from xinfer.api.state import state_of
from xinfer.api.waiting import wait_until_obeyed
from xinfer.errors import LoadFailed

router = APIRouter(prefix="/v1/models", tags=["models"])

WaitReady = Annotated[bool, Query(description="Answer when every replica has done it")]


class SleepBody(BaseModel):
    """How deep."""

    model_config = ConfigDict(extra="forbid")

    level: StrictInt = Field(
        1, ge=1, description="In the engine's own levels. vLLM: 1 keeps the weights in main memory, 2 drops them"
    )


@router.post("/{uid:path}/sleep", summary="Have a model give its memory back")
async def sleep(request: Request, uid: str, body: SleepBody | None = None, wait_ready: WaitReady = True) -> Any:
    """Its replicas finish what they have begun, then sleep; their slices stay booked for them.

    A request for it wakes it, where the server is set to (XINFER_WAKE_WAIT_S).
    """
    supervisor, level = state_of(request).supervisor, (body or SleepBody()).level
    await supervisor.call("sleep", uid, level)
    if wait_ready:
        try:
            await wait_until_obeyed(request, uid)
        except LoadFailed:
            await supervisor.call("wake", uid)
            raise
    return {"model_uid": uid, "sleep_level": level}


@router.post("/{uid:path}/wake", summary="Wake a model")
async def wake(request: Request, uid: str, wait_ready: WaitReady = True) -> Any:
    """One that is awake stays so."""
    await state_of(request).supervisor.call("wake", uid)
    if wait_ready:
        await wait_until_obeyed(request, uid)
    return {"model_uid": uid, "sleep_level": 0}
