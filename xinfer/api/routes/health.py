from fastapi import APIRouter, Request

from xinfer import __version__
from xinfer.api.state import state_of
from xinfer.errors import NotReady

router = APIRouter(tags=["health"])


@router.get("/health", summary="This gateway's process lives")
async def health() -> dict[str, str]:
    """Always 200 while the process serves at all."""
    return {"status": "ok", "version": __version__}


@router.get("/ready", summary="This gateway can route requests")
async def ready(request: Request) -> dict[str, str]:
    """200 once it has a route table (it keeps the last one while the supervisor is away), 503 before."""
    if not state_of(request).gateway.table.epoch:
        raise NotReady("no route table has come from the supervisor yet", retry_after=1)
    return {"status": "ready"}
