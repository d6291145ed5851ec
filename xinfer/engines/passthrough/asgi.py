"""Calls to an ASGI application in this process: no socket, no HTTP parser, and each chunk is there at once.

(httpx can call an application too, but collects the whole body first.)
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from xinfer.engines.base import Call, Frame, Head
from xinfer.engines.passthrough.refusals import refusal, refusal_in_stream
from xinfer.errors import EngineFailed, describe
from xinfer.ops import Op

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

MAX_WAITING = 256
"""Chunks that wait for the client; beyond that the application waits."""
KEPT_HEADERS = frozenset({b"content-type"})
"""Of an answer. The others are about the connection, or ours to set."""


class AsgiCaller:
    """Answers calls with an application. ``running`` counts those that are being answered.

    ``edits`` change what it answers to an operation; they are given whole messages of the application.
    """

    def __init__(
        self, app: Application, paths: Mapping[Op, str], edits: Mapping[Op, Callable[[bytes], bytes]] | None = None
    ) -> None:
        self.running = 0
        self._app = app
        self._paths = paths
        self._edits = edits or {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Answer one call. When it is closed early, the application is cancelled, as at a lost connection.

        Raises:
            XinferError: the application answered with an error status, or failed.
        """
        exchange = _Exchange(call.body)
        task = asyncio.get_running_loop().create_task(self._run(call, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(exchange.end)
        self.running += 1
        try:
            first = await exchange.take()
            if exchange.head is None:
                raise EngineFailed("the engine gave no answer; its log has the reason") from exchange.error
            if exchange.head.status >= 400:
                while more := await exchange.take():
                    first += more
                raise refusal(exchange.head.status, first)
            if (refused := refusal_in_stream(first)) is not None:
                raise refused
            yield exchange.head
            edit = self._edits.get(call.op, _as_it_is)
            while first:
                yield edit(first)
                first = await exchange.take()
            if exchange.error is not None:
                why = describe(exchange.error.__cause__ or exchange.error)  # frameworks wrap what they cannot answer
                raise EngineFailed(f"the engine broke off its answer: {why}") from exchange.error
        finally:
            self.running -= 1
            exchange.leave()
            task.cancel()

    async def _run(self, call: Call, exchange: "_Exchange") -> None:
        await self._app(_scope(call, self._paths[call.op]), exchange.receive, exchange.send)


def _as_it_is(data: bytes) -> bytes:
    return data


def _scope(call: Call, path: str) -> dict[str, Any]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in call.headers]
    headers.append((b"x-request-id", call.request_id.encode()))
    if not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"application/json"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
    }


class _Exchange:
    """One request inside the application: what it still reads, and what it has sent."""

    __slots__ = ("_body", "_chunks", "_ended", "_gone", "_ready", "_room", "error", "head")

    def __init__(self, body: bytes) -> None:
        self.head: Head | None = None
        self.error: BaseException | None = None
        self._body: bytes | None = body
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._ready: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()

    async def receive(self) -> Message:
        """The body at once; after that, only that the client has left."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()  # not a future: applications cancel this, and that would cancel a future
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take over what the application says."""
        if message["type"] == "http.response.start":
            kept = tuple((name.lower(), value) for name, value in message["headers"] if name.lower() in KEPT_HEADERS)
            self.head = Head(message["status"], kept)
            return
        if body := message.get("body"):
            self._chunks.append(bytes(body))
        self._ended = not message.get("more_body", False)
        self._wake()
        if len(self._chunks) > MAX_WAITING and not self._gone.is_set():
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    async def take(self) -> bytes:
        """Everything that was sent since; waits for something. Empty: that was all."""
        while not self._chunks:
            if self._ended:
                return b""
            self._ready = asyncio.get_running_loop().create_future()
            await self._ready
        if len(self._chunks) == 1:
            data = self._chunks.popleft()
        else:
            data = b"".join(self._chunks)
            self._chunks.clear()
        if self._room is not None:
            if not self._room.done():  # whoever waited for it may have been cancelled
                self._room.set_result(None)
            self._room = None
        return data

    def end(self, task: asyncio.Task[None]) -> None:
        """The application returned, or raised."""
        error = None if task.cancelled() or self._gone.is_set() else task.exception()
        if error is not None:
            log.error("the application failed", exc_info=error)
            self.error = error
        self._ended = True
        self._wake()

    def leave(self) -> None:
        """The client wants no more."""
        self._gone.set()

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
