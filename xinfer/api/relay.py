"""The hot routes: plain ASGI, one partial decode of the body, then bytes from the replica to the socket.

Nothing of FastAPI is on this path: its middleware would wrap ``send`` once more for every chunk.
"""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from xinfer.api.bodies import BodyReader, ClientGone, Receive, Scope, Send, limited, read_json
from xinfer.api.errors import RelayedError, sse_error
from xinfer.api.fallback import HEADER, fallback_of, stand_in
from xinfer.api.gateway import Gateway
from xinfer.channel.link import CallStream
from xinfer.engines.base import Call, Head
from xinfer.errors import MethodNotAllowed, ReplicaLost, XinferError
from xinfer.ops import Op
from xinfer.telemetry.metrics import GatewayMetrics

_KEPT_HEADERS = frozenset({b"traceparent", b"tracestate"})
"""Request headers that travel to the replica."""
_WHOLE = (b"application/json", b"text/plain", b"text/vtt")
"""Content types of answers that are of no use in pieces."""
END_OF_EVENT = b"\n\n"
_MAX_REQUEST_ID = 128
_UNPRINTABLE = re.compile(rb"[^!-~]")


def request_id_of(scope: Scope) -> str:
    """The client's ``x-request-id``, without what could not be sent back in a header; a new one if it gave none."""
    given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return _UNPRINTABLE.sub(b"", given)[:_MAX_REQUEST_ID].decode() or secrets.token_hex(12)


class HotRoute:
    """One inference route as an ASGI application."""

    def __init__(
        self, op: Op, gateway: Gateway, metrics: GatewayMetrics, max_body_bytes: int, read: BodyReader = read_json
    ) -> None:
        self._op = op
        self._gateway = gateway
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The boundary: every failure becomes an answer in the OpenAI error shape."""
        request_id = request_id_of(scope)
        answer = _Answer(self._op, request_id, send, self._gateway, self._metrics)
        try:
            if scope["method"] != "POST":
                await answer.fail(MethodNotAllowed(f"{scope['path']} takes only POST"), (b"allow", b"POST"))
                return
            body = await self._read(limited(receive, scope, self._max_body_bytes), scope)
            answer.model = body.model
            kept = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"] if n in _KEPT_HEADERS]
            call = Call(request_id, self._op, body.data, body.model, (*body.headers, *kept))
            await self._relay_until_gone(call, receive, answer)
        except ClientGone:
            answer.finish(499)
        except XinferError as error:
            await answer.fail(error)
        except Exception:
            await answer.fail(XinferError("an internal error, it is in the server's log; please report it"))
            raise
        except BaseException:
            answer.finish(500)
            raise

    async def _relay_until_gone(self, call: Call, receive: Receive, answer: "_Answer") -> None:
        """Relay, and stop within one turn of the loop when the client closes its connection."""
        relaying = asyncio.current_task()
        assert relaying is not None
        gone = over = False

        def on_receive(watching: asyncio.Task[MutableMapping[str, Any]]) -> None:
            nonlocal gone
            if not watching.cancelled() and not over:
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
            raise ClientGone from None
        finally:
            over = True
            watching.cancel()

    async def _relay(self, call: Call, answer: "_Answer") -> None:
        """Until the model has answered, or the one that stands in for it, or the one that stands in for that."""
        models, tried = self._gateway.table.models, {call.model}
        while True:
            patient = not fallback_of(call, models, tried)
            try:
                async with contextlib.aclosing(self._gateway.answers(call, patient=patient)) as streams:
                    async for stream in streams:
                        if await answer.relay(stream):
                            return
            except XinferError as error:
                other = None if answer.begun else stand_in(error, call, models, tried)
                if other is None:
                    raise
                self._metrics.fell_back(call.model, other.model)
                tried.add(other.model)
                answer.stand_in = other.model
                call = other


class _Answer:
    """What the client has got of an answer so far."""

    def __init__(self, op: Op, request_id: str, send: Send, gateway: Gateway, metrics: GatewayMetrics) -> None:
        self.model = ""
        """Of the request, once it is known."""
        self.stand_in = ""
        """The model that is asked in its place."""
        self.begun = False
        """The client has seen something of it."""
        self._op = op
        self._request_id = request_id.encode()
        self._send = send
        self._gateway = gateway
        self._metrics = metrics
        self._started = time.perf_counter()

    async def relay(self, stream: CallStream) -> bool:
        """Send the answer on; False if its replica died before the client saw anything of it.

        Raises:
            XinferError: the replica died, or failed, later than that, or it answered with an error.
        """
        head = stream.head
        assert head is not None
        if not _is_stream(head):
            return await self._relay_whole(stream, head)
        last, data = END_OF_EVENT, await stream.read()
        if not data and not _is_complete(stream):
            return False
        self._metrics.first_byte(self._op, self.model, time.perf_counter() - self._started)
        send = self._send
        await self._start(head)
        while data:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            stream.credit(len(data))
            last, data = data, await stream.read()
        if stream.lost or stream.failure is not None:
            error = _error_of(stream)
            event = sse_error(error, self._op)
            if not last.endswith(END_OF_EVENT):  # cut off in the middle: what is whole must not be lost with that
                event = END_OF_EVENT + event
            await send({"type": "http.response.body", "body": event, "more_body": False})
            self.finish(error.status)
            return True
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.finish(head.status)
        return True

    async def _relay_whole(self, stream: CallStream, head: Head) -> bool:
        """Collect the body to its end: it gets a length, and until then a dead replica costs the client nothing."""
        pieces: list[bytes] = []
        while data := await stream.read():
            pieces.append(data)
            stream.credit(len(data))
        if not _is_complete(stream):
            return False
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        await self._start(head, (b"content-length", str(len(body)).encode()))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.finish(head.status)
        return True

    async def _start(self, head: Head, *more: tuple[bytes, bytes]) -> None:
        self.begun = True
        headers = [*head.headers, (b"x-request-id", self._request_id), *more]
        if self.stand_in:
            headers.append((HEADER, self.stand_in.encode()))
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})

    async def fail(self, error: XinferError, *headers: tuple[bytes, bytes]) -> None:
        """Answer with an error, unless an answer has begun."""
        if not self.begun:
            body = error.encode()
            head = Head(error.status, ((b"content-type", b"application/json"), *headers))
            extra = tuple((name.encode(), value.encode()) for name, value in error.headers().items())
            await self._start(head, (b"content-length", str(len(body)).encode()), *extra)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.finish(error.status)

    def finish(self, status: int) -> None:
        """Account for it. A label takes only names that are deployed, not whatever clients ask for."""
        model = self.model if self.model in self._gateway.table.models else ""
        self._metrics.finished(self._op, model, status, time.perf_counter() - self._started)


def _is_stream(head: Head) -> bool:
    return not any(name == b"content-type" and value.startswith(_WHOLE) for name, value in head.headers)


def _is_complete(stream: CallStream) -> bool:
    """Whether an answer has ended well; False if its replica died.

    Raises:
        XinferError: the replica ended it with an error.
    """
    if stream.failure is not None:
        raise _error_of(stream)
    return not stream.lost


def _error_of(stream: CallStream) -> XinferError:
    if stream.failure is not None:
        return RelayedError(stream.failure)
    return ReplicaLost("the replica died while it was answering; send the request again")
