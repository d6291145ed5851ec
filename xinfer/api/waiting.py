import asyncio

from fastapi import Request

from xinfer.api.state import state_of
from xinfer.errors import LoadFailed, SupervisorAway
from xinfer.protocol import ModelProgress
from xinfer.spec import Deployment

POLL_S = 15.0


async def wait_until_ready(request: Request, deployment: Deployment) -> None:
    """Wait for a launch, also across a restart of the supervisor; ends at once when the client is gone.

    Raises:
        LoadFailed: with the engine's reason.
        LaunchCancelled: somebody cancelled or terminated it.
    """
    supervisor = state_of(request).supervisor
    while not await request.is_disconnected():
        try:
            progress: ModelProgress = await supervisor.call(
                "wait", deployment.model_uid, deployment.revision, POLL_S, timeout_s=POLL_S + 10.0
            )
        except SupervisorAway:
            await asyncio.sleep(0.5)
            continue
        if progress.done:
            if progress.reason:
                raise LoadFailed(progress.reason)
            return
