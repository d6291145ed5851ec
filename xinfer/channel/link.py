"""The gateway's side of a channel: one connection to one replica, many calls on it."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

from xinfer.channel import wire
from xinfer.channel.handshake import TIMEOUT_S, GatewayHandshake, HandshakeError
from xinfer.channel.watchdog import Watchdog
from xinfer.channel.wire import Failure, FrameReader, Kind
from xinfer.engines.base import Call, Head, Load
from xinfer.errors import ReplicaLost
from xinfer.routes import Endpoint

log = logging.getLogger(__name__)


_BODY = int(Kind.BODY)
"""Looked up once per chunk, where a member of an enum costs as much as a call."""


class CallStream:
    """The answer to one call, as it arrives. Read ``head`` after ``arrived``, then take body bytes until ``ended``."""

    __slots__ = ("_credited", "_link", "_number", "_parts", "_waiter", "ended", "failure", "head", "lost")

    def __init__(self, link: "ReplicaLink", number: int) -> None:
        self._link = link
        self._number = number
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._credited = 0
        self.head: Head | None = None
        self.ended = False
        self.failure: Failure | None = None
        self.lost = False
        """The connection ended before the answer did."""

    async def arrived(self) -> None:
        """Wait until there is something new: a head, body bytes or the end."""
        if self._parts or self.ended:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """All body bytes that came since the last call."""
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    async def read(self) -> bytes:
        """The same, but waits for some; empty at the end of the body."""
        while not self._parts and not self.ended:
            await self.arrived()
        return self.take()

    def credit(self, amount: int) -> None:
        """The client's socket took ``amount`` bytes; lets the replica send as many more, told in half windows."""
        self._credited += amount
        if self._credited >= wire.WINDOW // 2 and not self.ended:
            self._link.write(wire.encode_credit(self._number, self._credited))
            self._credited = 0

    def cancel(self) -> None:
        """Nobody waits any more: tell the replica, and forget the call. Harmless after the end."""
        if not self.ended:
            self._link.forget(self._number)
            self._link.write(wire.frame(self._number, Kind.CANCEL))
            self.finish(None)

    def on_head(self, head: Head) -> None:
        """A HEAD arrived."""
        self.head = head
        self._wake()

    def on_body(self, data: bytes) -> None:
        """A BODY arrived."""
        self._parts.append(data)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def finish(self, failure: Failure | None, *, lost: bool = False) -> None:
        """The answer is over."""
        self.ended = True
        self.failure = failure
        self.lost = lost
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ReplicaLink(asyncio.Protocol):
    """A connection to a replica. ``on_lost`` is called once, when it ends for whatever reason."""

    def __init__(self, endpoint: Endpoint, token: str, on_lost: Callable[["ReplicaLink"], None]) -> None:
        self.endpoint = endpoint
        self.load = Load()
        self.opened_since_load = 0
        """Calls opened here that the replica's last load report cannot have counted."""
        self._handshake = GatewayHandshake(token)
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._calls: dict[int, CallStream] = {}
        self._last_number = 0
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchdog = Watchdog(self._ping, self._give_up)

    @property
    def is_open(self) -> bool:
        """Whether calls can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def in_flight(self) -> int:
        """Calls of this gateway under way on it."""
        return len(self._calls)

    async def connect(self, own_host_id: str) -> None:
        """Open and authenticate the connection: over the unix socket on the same machine, else TCP.

        Raises:
            ConnectionError, OSError: nobody there, or a stranger.
            TimeoutError: it does not answer.
        """
        loop = asyncio.get_running_loop()
        endpoint = self.endpoint
        async with asyncio.timeout(TIMEOUT_S):
            if endpoint.local_path and endpoint.host_id == own_host_id and Path(endpoint.local_path).exists():
                await loop.create_unix_connection(lambda: self, endpoint.local_path)
            else:
                host, _, port = endpoint.address.removeprefix("tcp://").rpartition(":")
                await loop.create_connection(lambda: self, host.strip("[]"), int(port))
            try:
                await self._opened
            except BaseException:
                self.close()
                raise
        if not self.is_open:
            raise ConnectionResetError("closed as soon as it was opened")

    def open(self, call: Call) -> CallStream:
        """Send a call.

        Raises:
            ReplicaLost: the connection has ended meanwhile.
        """
        if self._transport is None or self._transport.is_closing():
            raise ReplicaLost(f"replica {self.endpoint.replica_id} is gone")
        number = self._next_number()
        stream = self._calls[number] = CallStream(self, number)
        if len(call.body) < wire.LARGE_BODY:
            self._transport.write(wire.frame(number, Kind.CALL, wire.encode_call(call)))
        else:
            start, body = wire.encode_large_call(call)
            header = wire.header(number, Kind.CALL, len(start) + len(body))
            self._transport.writelines((header + start, body))
        self.opened_since_load += 1
        self._watchdog.start()
        return stream

    def _next_number(self) -> int:
        """Numbers have 32 bits on the wire and begin again after the last; 0 is the connection itself."""
        while True:
            self._last_number = self._last_number % wire.MAX_CALL + 1
            if self._last_number not in self._calls:
                return self._last_number

    def write(self, data: bytes) -> None:
        """Send a frame, unless the connection has ended."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def forget(self, number: int) -> None:
        """Frames of this call are of no interest any more."""
        self._calls.pop(number, None)

    def close(self) -> None:
        """End the connection; calls under way end as lost."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open; the replica speaks first."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        """Handshake first, then frames."""
        if not self._handshake.done:
            data = self._shake_hands(data)
            if not data:
                return
        self._watchdog.heard = True
        try:
            for number, kind, payload in self._reader.feed(data):
                self._on_frame(number, kind, payload)
        except wire.MALFORMED as error:
            log.warning("replica %s: %s", self.endpoint.replica_id, error)
            self.close()

    def _on_frame(self, number: int, kind: int, payload: bytes) -> None:
        stream = self._calls.get(number)
        if kind == _BODY and stream is not None:
            if stream.head is None:
                raise wire.WireError("a body came before its head")
            stream.on_body(payload)
        elif kind == Kind.LOAD:
            self.load = wire.decode_load(payload)
            self.opened_since_load = 0
        elif stream is None:
            pass  # cancelled a moment ago; what was under way is of no interest
        elif kind == Kind.HEAD:
            stream.on_head(wire.decode_head(payload))
        elif kind == Kind.END:
            failure = wire.decode_failure(payload) if payload else None
            del self._calls[number]
            stream.finish(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        """The replica died, or the network between us."""
        self._transport = None
        self._watchdog.stop()
        if not self._opened.done():
            self._opened.set_exception(exc or HandshakeError("closed while opening: is the cluster token the same?"))
            self._opened.exception()  # also when nobody waits for it any more
        calls, self._calls = self._calls, {}
        for stream in calls.values():
            stream.finish(None, lost=True)
        self._on_lost(self)

    def _shake_hands(self, data: bytes) -> bytes:
        assert self._transport is not None
        try:
            answer, rest = self._handshake.feed(data)
        except HandshakeError as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            self.close()
            return b""
        if answer:
            self._transport.write(answer)
        if self._handshake.done and not self._opened.done():
            self._opened.set_result(None)
        return rest

    def _ping(self) -> bool:
        """While calls are under way: ask the replica whether it lives, and tell it that we do."""
        if self._calls:
            self.write(wire.frame(0, Kind.PING))
        return bool(self._calls)

    def _give_up(self) -> None:
        log.warning("replica %s says nothing; giving up %d calls", self.endpoint.replica_id, len(self._calls))
        self.close()
