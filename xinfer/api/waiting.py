import asyncio

from fastapi import Request

from xinfer.api.state import GatewayState, state_of
from xinfer.errors import LoadFailed, NotReady, SupervisorAway
from xinfer.protocol import ModelProgress
from xinfer.spec import Deployment

POLL_S = 15.0
AWAY_S = 0.5


async def wait_until_ready(request: Request, deployment: Deployment) -> None:
    """Wait for a launch, also across a restart of the supervisor; ends soon after the client is gone.

    Raises:
        LoadFailed: with the engine's reason.
        LaunchCancelled: somebody cancelled or terminated it.
        NotReady: this gateway is told to end.
    """
    state = state_of(request)
    ending = asyncio.create_task(state.ending.wait())
    try:
        while not await request.is_disconnected():
            polling = asyncio.create_task(_poll(state, deployment))
            await asyncio.wait((polling, ending), return_when=asyncio.FIRST_COMPLETED)
            if not polling.done():
                polling.cancel()
                raise NotReady("the server is ending; the launch goes on once it is back", retry_after=5)
            if polling.result():
                return
    finally:
        ending.cancel()


async def _poll(state: GatewayState, deployment: Deployment) -> bool:
    """Whether the launch is done; knows when that changes, or after POLL_S seconds."""
    call = ("wait", deployment.model_uid, deployment.revision, POLL_S)
    try:
        progress: ModelProgress = await state.supervisor.call(*call, timeout_s=POLL_S + 10.0)
    except SupervisorAway:
        await asyncio.sleep(AWAY_S)
        return False
    if progress.done and progress.reason:
        raise LoadFailed(progress.reason)
    return progress.done
