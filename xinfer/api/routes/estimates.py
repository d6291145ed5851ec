"""Estimates: how much memory a launch would need, without making it."""

from typing import Any

from fastapi import APIRouter, Request

from xinfer.api.control import LOOKING_S
from xinfer.api.launching import LaunchBody, launch_request
from xinfer.api.state import state_of

router = APIRouter(prefix="/v1", tags=["models"])


@router.post("/estimates", summary="How much memory a launch would need, by parts")
async def estimate(request: Request, body: LaunchBody) -> dict[str, Any]:
    """The same body as a launch; nothing is launched.

    The estimate of one replica on each kind of device, what such replicas were observed to use, and where it fits now.
    """
    found: dict[str, Any] = await state_of(request).supervisor.call(
        "estimate", launch_request(body), timeout_s=LOOKING_S
    )
    return found
