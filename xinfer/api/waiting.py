"""Waiting for what the supervisor was asked for, across its restarts, and no longer than the client."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import Request

from xinfer.api.state import GatewayState, state_of
from xinfer.errors import NotReady, SupervisorAway, load_error
from xinfer.protocol import ModelProgress
from xinfer.spec import Deployment

POLL_S = 15.0
AWAY_S = 0.5


async def wait_until_ready(request: Request, deployment: Deployment) -> None:
    """Wait for a launch, also across a restart of the supervisor; ends soon after the client is gone.

    Raises:
        LoadFailed: with the engine's reason. InvalidRequest: where that is a word of the launch.
        LaunchCancelled: somebody cancelled or terminated it.
        NotReady: this gateway is told to end.
    """
    state = state_of(request)
    await _wait(request, lambda: _poll(state, deployment))


async def wait_until_obeyed(request: Request, model_uid: str, adapter: str = "") -> None:
    """Wait until the running replicas of a model are as they should be: its adapters, and whether it sleeps.

    Raises:
        LoadFailed: one cannot load that ``adapter``, or does not fall asleep; says why.
        UnknownModel: the model is gone.
        NotReady: this gateway is told to end.
    """
    state = state_of(request)
    await _wait(request, lambda: _ask(state, model_uid, adapter))


async def _wait(request: Request, poll: Callable[[], Awaitable[bool]]) -> None:
    ending = asyncio.create_task(state_of(request).ending.wait())
    try:
        while not await request.is_disconnected():
            polling = asyncio.ensure_future(poll())
            await asyncio.wait((polling, ending), return_when=asyncio.FIRST_COMPLETED)
            if not polling.done():
                polling.cancel()
                raise NotReady("the server is ending; what was begun goes on once it is back", retry_after=5)
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
        raise load_error(progress.reason, progress.refused)
    return progress.done


async def _ask(state: GatewayState, model_uid: str, adapter: str) -> bool:
    """Whether its replicas have done what they were ordered; knows when that changes, or after POLL_S seconds."""
    try:
        return bool(await state.supervisor.call("obeyed", model_uid, adapter, POLL_S, timeout_s=POLL_S + 10.0))
    except SupervisorAway:
        await asyncio.sleep(AWAY_S)
        return False
