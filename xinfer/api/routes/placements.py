"""Placements: what would become of a launch, without making it."""

from typing import Any

from fastapi import APIRouter, Request

from xinfer.api.control import LOOKING_S
from xinfer.api.launching import LaunchBody, launch_request
from xinfer.api.state import state_of

router = APIRouter(prefix="/v1", tags=["models"])


@router.post("/placements:explain", summary="Where a launch would go, and why nowhere else")
async def explain(request: Request, body: LaunchBody) -> dict[str, Any]:
    """The same body as a launch; nothing is launched. Every device with its reason, and the request that would fit."""
    found: dict[str, Any] = await state_of(request).supervisor.call(
        "explain", launch_request(body), timeout_s=LOOKING_S
    )
    return found
