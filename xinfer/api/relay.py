"""The hot routes: plain ASGI, one partial decode of the body, then bytes from the replica to the socket.

Nothing of FastAPI is on this path: its middleware would wrap ``send`` once more for every chunk.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from xinfer.api.errors import RelayedError, sse_error
from xinfer.api.gateway import MAX_LOST, Gateway
from xinfer.channel.link import CallStream
from xinfer.engines.base import Call, Head
from xinfer.errors import InvalidRequest, PayloadTooLarge, ReplicaLost, UnknownModel, XinferError
from xinfer.ops import Op
from xinfer.telemetry.metrics import GatewayMetrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_KEPT_HEADERS = frozenset({b"traceparent", b"tracestate"})
"""Request headers that travel to the replica."""


class _Routing(msgspec.Struct):
    """What routing needs of a body; everything else is skipped, not decoded."""

    model: str


_decoder = msgspec.json.Decoder(_Routing)


class _ClientGone(Exception):
    """The client closed its connection."""


def routing_fields(body: bytes) -> _Routing:
    """The model's name in a request body.

    Raises:
        InvalidRequest: no JSON object, or without a model.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        if "$.model" in text or "`model`" in text:
            raise InvalidRequest(
                "'model' is required and must be a string; GET /v1/models lists the models", param="model"
            ) from None
        raise InvalidRequest("the body must be a JSON object with at least 'model'") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", param=None) from None


async def read_body(receive: Receive, limit: int, declared: int | None) -> bytes:
    """The whole request body.

    Raises:
        PayloadTooLarge: it has more than ``limit`` bytes.
    """
    if declared is not None and declared > limit:
        raise PayloadTooLarge(f"the body has {declared} bytes, the limit is {limit} (XINFER_MAX_BODY_BYTES)")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    pieces, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise PayloadTooLarge(f"the body has more than {limit} bytes, which is the limit (XINFER_MAX_BODY_BYTES)")
    return b"".join(pieces)


class HotRoute:
    """One inference route as an ASGI application."""

    def __init__(self, op: Op, gateway: Gateway, metrics: GatewayMetrics, max_body_bytes: int) -> None:
        self._op = op
        self._gateway = gateway
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The boundary: every failure becomes an answer in the OpenAI error shape."""
        answer = _Answer(self._op, send, self._metrics)
        try:
            call = await self._admit(scope, receive)
            answer.begin(call)
            await self._relay_until_gone(call, receive, answer)
        except _ClientGone:
            answer.finish(499)
        except XinferError as error:
            await answer.fail(error)
        except BaseException:
            answer.finish(500)
            raise

    async def _admit(self, scope: Scope, receive: Receive) -> Call:
        declared: int | None = None
        request_id = ""
        kept: list[tuple[str, str]] = []
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = int(value)
            elif name == b"x-request-id":
                request_id = value.decode("latin-1")[:128]
            elif name in _KEPT_HEADERS:
                kept.append((name.decode("latin-1"), value.decode("latin-1")))
        body = await read_body(receive, self._max_body_bytes, declared)
        fields = routing_fields(body)
        return Call(request_id or secrets.token_hex(12), self._op, body, fields.model, tuple(kept))

    async def _relay_until_gone(self, call: Call, receive: Receive, answer: "_Answer") -> None:
        """Relay, and stop within one turn of the loop when the client closes its connection."""
        relaying = asyncio.current_task()
        assert relaying is not None
        gone = False

        def on_receive(watching: asyncio.Task[MutableMapping[str, Any]]) -> None:
            nonlocal gone
            if not watching.cancelled() and not relaying.done():
                gone = True
                relaying.cancel()

        watching = asyncio.ensure_future(receive())
        watching.add_done_callback(on_receive)
        try:
            await self._relay(call, answer)
        except asyncio.CancelledError:
            if not gone:
                raise
            relaying.uncancel()
            raise _ClientGone from None
        finally:
            watching.remove_done_callback(on_receive)
            watching.cancel()

    async def _relay(self, call: Call, answer: "_Answer") -> None:
        for attempt in range(1, MAX_LOST + 1):
            stream = await self._gateway.call(call)
            try:
                if await answer.relay(stream):
                    return
            finally:
                stream.cancel()
            # A whole answer was being collected when its replica died; the client has seen nothing of it.
            if attempt == MAX_LOST:
                raise ReplicaLost(f"{MAX_LOST} replicas of {call.model!r} died while they worked on this request")


class _Answer:
    """What the client has got of an answer so far."""

    def __init__(self, op: Op, send: Send, metrics: GatewayMetrics) -> None:
        self._op = op
        self._send = send
        self._metrics = metrics
        self._model = ""
        self._request_id = b""
        self._started = time.perf_counter()
        self._begun = False

    def begin(self, call: Call) -> None:
        """The request is admitted."""
        self._model = call.model
        self._request_id = call.request_id.encode("latin-1", "replace")

    async def relay(self, stream: CallStream) -> bool:
        """Send the answer on; False if its replica died before the client saw anything of it.

        Raises:
            XinferError: the replica died, or failed, later than that, or it answered with an error.
        """
        head = stream.head
        assert head is not None
        if not _is_stream(head):
            return await self._relay_whole(stream, head)
        self._metrics.first_byte(self._op, self._model, time.perf_counter() - self._started)
        send = self._send
        await self._start(head)
        chunks = 0
        while True:
            data = stream.take()
            if data:
                chunks += 1
                await send({"type": "http.response.body", "body": data, "more_body": True})
                stream.credit(len(data))
            elif stream.ended:
                break
            else:
                await stream.arrived()
        if stream.lost or stream.failure is not None:
            error = _error_of(stream)
            await send({"type": "http.response.body", "body": sse_error(error), "more_body": False})
            self.finish(error.status)
            return True
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.finish(head.status)
        return True

    async def _relay_whole(self, stream: CallStream, head: Head) -> bool:
        """Collect the body to its end: it gets a length, and until then a dead replica costs the client nothing."""
        pieces: list[bytes] = []
        while True:
            data = stream.take()
            if data:
                pieces.append(data)
                stream.credit(len(data))
            elif stream.ended:
                break
            else:
                await stream.arrived()
        if stream.lost:
            return False
        if stream.failure is not None:
            raise _error_of(stream)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        await self._start(head, (b"content-length", str(len(body)).encode()))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.finish(head.status)
        return True

    async def _start(self, head: Head, *more: tuple[bytes, bytes]) -> None:
        self._begun = True
        headers = [*head.headers, (b"x-request-id", self._request_id), *more]
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})

    async def fail(self, error: XinferError) -> None:
        """Answer with an error; the client has seen nothing yet."""
        if isinstance(error, UnknownModel):
            self._model = ""  # a label must not grow with whatever clients ask for
        body = error.encode()
        head = Head(error.status, ((b"content-type", b"application/json"),))
        extra = tuple((name.encode(), value.encode()) for name, value in error.headers().items())
        await self._start(head, (b"content-length", str(len(body)).encode()), *extra)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.finish(error.status)

    def finish(self, status: int) -> None:
        """Account for it."""
        self._metrics.finished(self._op, self._model, status, time.perf_counter() - self._started)


def _is_stream(head: Head) -> bool:
    return not any(name == b"content-type" and value.startswith(b"application/json") for name, value in head.headers)


def _error_of(stream: CallStream) -> XinferError:
    if stream.failure is not None:
        return RelayedError(stream.failure)
    return ReplicaLost("the replica died while it was answering; send the request again")
