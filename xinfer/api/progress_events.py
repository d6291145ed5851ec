"""Progress as server-sent events: one for each change, the last one says that it is done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import StreamingResponse

from xinfer.api.state import GatewayState, state_of
from xinfer.errors import NotReady, SupervisorAway, XinferError

LOOK_S = 0.5
"""How often is looked for a change."""

Ask = Callable[[], Awaitable[dict[str, Any]]]
"""How far it is; "done" once nothing more will happen."""


async def progress_events(request: Request, ask: Ask) -> StreamingResponse:
    """The answer of a route. What is unknown from the start is refused as everywhere.

    Raises:
        XinferError: what ``ask`` raises the first time.
    """
    first = await ask()
    return StreamingResponse(_events(state_of(request), first, ask), media_type="text/event-stream")


async def _events(state: GatewayState, now: dict[str, Any], ask: Ask) -> AsyncIterator[bytes]:
    told: dict[str, Any] | None = None
    try:
        while True:
            if now != told:
                yield _event(now)
                told = now
            if now["done"]:
                break
            await _pause(state)
            now = await _asked(ask, now)
    except XinferError as error:
        yield _event(error.body())
    yield b"data: [DONE]\n\n"


async def _asked(ask: Ask, last: dict[str, Any]) -> dict[str, Any]:
    """How far it is; as far as is known, while the supervisor is away."""
    try:
        return await ask()
    except SupervisorAway:
        return last


async def _pause(state: GatewayState) -> None:
    try:
        async with asyncio.timeout(LOOK_S):
            await state.ending.wait()
    except TimeoutError:
        return
    raise NotReady("the server is ending; what was begun goes on once it is back", retry_after=5)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(content)
