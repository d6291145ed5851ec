from fastapi import APIRouter, Request, Response

from xinfer.api.state import state_of
from xinfer.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Prometheus metrics of this gateway and of the cluster's devices")
async def metrics(request: Request) -> Response:
    """In the Prometheus text format. The supervisor is asked for the devices, but not waited for."""
    state = state_of(request)
    cluster = await state.cluster.sample(state.supervisor)
    return Response(state.metrics.exposition(state.gateway.loads(), cluster), media_type=CONTENT_TYPE)
