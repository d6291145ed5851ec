"""The data plane of a replica: accepts gateways, runs their calls on the engine, sends what it yields.

One task per call. A call whose gateway is gone, or whose client is, is cancelled: the engine's generator is closed,
and the engine works no longer for it.
"""

import asyncio
import contextlib
import logging
import secrets
from pathlib import Path
from typing import cast

from xinfer.channel import wire
from xinfer.channel.handshake import TIMEOUT_S, HandshakeError, ReplicaHandshake
from xinfer.channel.watchdog import Watchdog
from xinfer.channel.wire import Failure, FrameReader, Kind
from xinfer.engines.base import Call, Engine, Head, Load
from xinfer.errors import EngineFailed, NotReady, TooManyRequests, XinferError, describe
from xinfer.processes import host_id, runtime_directory
from xinfer.protocol import LaunchOrder
from xinfer.replica.outbox import Outbox
from xinfer.routes import Endpoint

log = logging.getLogger(__name__)

REPORT_EVERY_S = 0.25
"""While calls run, and once after the last: the load, to the gateways that no batch of their own tells it."""

FLUSH_S = 3.0
"""How long connections may take, at the end, to send what is in their buffers."""

_heads: dict[Head, bytes] = {}
"""Encoded heads; an engine has two or three."""


def _encoded(head: Head) -> bytes:
    payload = _heads.get(head)
    if payload is None:
        payload = wire.encode_head(head)
        if len(_heads) < 64:
            _heads[head] = payload
    return payload


class DataServer:
    """Listens on TCP and on a unix socket. ``max_queued`` bounds the calls that it holds, running and waiting."""

    def __init__(self, engine: Engine, order: LaunchOrder, token: str, max_queued: int) -> None:
        self.engine = engine
        self.token = token
        self.draining = False
        self.resting = False
        """The engine sleeps, or is about to."""
        self.has_served = False
        """Whether a call was answered to its end."""
        self._order = order
        self._max_queued = max_queued
        self._connections: set[GatewayConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._socket_path: Path | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._reporting: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are not answered to the end yet."""
        return len(self._calls)

    async def start(self) -> Endpoint:
        """Begin to accept gateways; where they find us."""
        loop = asyncio.get_running_loop()
        order = self._order
        tcp = await loop.create_server(lambda: GatewayConnection(self), order.host, 0)
        self._servers.append(tcp)
        port = tcp.sockets[0].getsockname()[1]
        local = ""
        if hasattr(loop, "create_unix_server"):
            self._socket_path = runtime_directory() / f"{secrets.token_hex(8)}.sock"
            self._servers.append(await loop.create_unix_server(lambda: GatewayConnection(self), str(self._socket_path)))
            self._socket_path.chmod(0o600)
            local = str(self._socket_path)
        host = f"[{order.host}]" if ":" in order.host else order.host
        return Endpoint(order.replica_id, order.instance, f"tcp://{host}:{port}", local, host_id())

    def begin_drain(self) -> None:
        """Refuse new calls (another replica may take them), finish those that run."""
        self.draining = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no call is left, at most ``timeout_s`` seconds; whether that is so."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Cancel what still runs, close every connection."""
        if self._reporting is not None:
            self._reporting.cancel()
        for server in self._servers:
            server.close()
        for task in list(self._calls):
            task.cancel()
        if self._calls:
            await asyncio.gather(*self._calls, return_exceptions=True)
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        if connections:  # the process ends next: what was answered must have left by then
            await asyncio.wait([connection.closed for connection in connections], timeout=FLUSH_S)
        for connection in list(self._connections):
            connection.abort()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)

    def admit(self) -> XinferError | None:
        """Whether one more call may come; otherwise the reason."""
        if self.draining:
            return NotReady("this replica is shutting down; the request may be repeated", retry_after=1)
        if self.resting:
            return NotReady("this replica is asleep; the request may be repeated", retry_after=1)
        if len(self._calls) >= self._max_queued:
            return TooManyRequests(
                f"this replica already holds {self._max_queued} requests; try again shortly", retry_after=1
            )
        return None

    def has_ended(self) -> bool:
        """Whether the engine can serve no more. Then new calls are refused: this process ends next."""
        if self.engine.failure():
            self.begin_drain()
            return True
        return False

    def track(self, task: asyncio.Task[None]) -> None:
        """A call began."""
        self._calls.add(task)
        self._idle.clear()
        task.add_done_callback(self._untrack)
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)

    def _untrack(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self.has_served = self.has_served or not task.cancelled()
        if not self._calls:
            self._idle.set()

    def _report(self) -> None:
        for connection in self._connections:
            connection.report()
        self._reporting = asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report) if self._calls else None

    def join(self, connection: "GatewayConnection") -> None:
        """A gateway connected."""
        self._connections.add(connection)

    def leave(self, connection: "GatewayConnection") -> None:
        """A gateway is gone."""
        self._connections.discard(connection)

    def load(self) -> Load:
        """What the engine reports."""
        return self.engine.load_report()


class _Running:
    """One call being answered, and how much of its window is used."""

    __slots__ = ("room", "task", "unacknowledged")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.unacknowledged = 0
        self.room: asyncio.Event | None = None

    def credit(self, amount: int) -> None:
        """The client took bytes."""
        self.unacknowledged -= amount
        if self.room is not None and self.unacknowledged < wire.WINDOW:
            self.room.set()

    async def has_room(self) -> None:
        """Wait while the client has a whole window to read."""
        while self.unacknowledged >= wire.WINDOW:
            self.room = asyncio.Event()
            await self.room.wait()
        self.room = None


class GatewayConnection(asyncio.Protocol):
    """One gateway."""

    def __init__(self, server: DataServer) -> None:
        self._server = server
        self._handshake = ReplicaHandshake(server.token)
        self._reader = FrameReader()
        self._running: dict[int, _Running] = {}
        self._transport: asyncio.Transport
        self._outbox: Outbox
        self._deadline: asyncio.TimerHandle | None = None
        self._watchdog = Watchdog(lambda: bool(self._running), self._give_up)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """End the connection, after what is in its buffers; then ``closed`` is done."""
        self._outbox.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def report(self) -> None:
        """Tell the gateway the load."""
        if self._handshake.done:
            self._transport.write(wire.encode_load(self._server.load()))

    # asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Challenge the peer; it has TIMEOUT_S seconds."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, no subclass of asyncio's
        self._outbox = Outbox(self._transport, self._server.load)
        self._server.join(self)
        self._transport.write(self._handshake.challenge)
        self._deadline = asyncio.get_running_loop().call_later(TIMEOUT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Handshake first, then frames."""
        self._watchdog.heard = True
        try:
            if not self._handshake.done:
                answer, data = self._handshake.feed(data)
                if not self._handshake.done:
                    return
                self._transport.write(answer)
                if self._deadline is not None:
                    self._deadline.cancel()
            for number, kind, payload in self._reader.feed(data):
                self._on_frame(number, kind, payload)
        except (HandshakeError, *wire.MALFORMED) as error:
            log.warning("refused a connection: %s", error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio calls it so
        """The gateway died or left: nobody waits for its calls."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._watchdog.stop()
        self.closed.set_result(None)
        self._server.leave(self)
        for running in self._running.values():
            if running.task is not None:
                running.task.cancel()

    def pause_writing(self) -> None:
        """The socket is full."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The socket takes bytes again."""
        self._outbox.resume()

    def _give_up(self) -> None:
        log.warning("a gateway says nothing; giving up its %d calls", len(self._running))
        self._transport.abort()

    # calls --------------------------------------------------------------------------------------------------------

    def _on_frame(self, number: int, kind: int, payload: bytes) -> None:
        if kind == Kind.CALL:
            self._begin(number, wire.decode_call(payload))
        elif kind == Kind.CREDIT:
            if (running := self._running.get(number)) is not None:
                running.credit(wire.decode_credit(payload))
        elif kind == Kind.CANCEL:
            if (running := self._running.get(number)) is not None and running.task is not None:
                running.task.cancel()
        elif kind == Kind.PING:
            self.report()

    def _begin(self, number: int, call: Call) -> None:
        refusal = self._server.admit()
        if refusal is not None:
            self._outbox.put(number, Kind.END, _failure(refusal, retryable=True))
            return
        running = self._running[number] = _Running()
        running.task = asyncio.get_running_loop().create_task(self._serve(number, call, running))
        # Not in a finally of _serve: a task that is cancelled before its first step never runs one.
        running.task.add_done_callback(lambda _: self._running.pop(number, None))
        self._server.track(running.task)
        self._watchdog.start()

    async def _serve(self, number: int, call: Call, running: _Running) -> None:
        """Answer one call. The boundary: whatever an engine raises becomes an answer.

        Unless the engine itself is gone, as its processes can be while this one lives: that is no answer. The
        connection ends, as if this process had died, which it does next; another one is asked where no byte has come.
        """
        failed: XinferError | None = None
        try:
            await self._send_answer(number, call, running)
        except XinferError as error:
            failed = error
        except Exception as error:  # the boundary of the engine: the client gets an answer, the log the traceback
            log.exception("request %s (%s) failed", call.request_id, call.op)
            failed = EngineFailed(f"the engine failed: {describe(error)}")
        if failed is not None and failed.status >= EngineFailed.status and self._server.has_ended():
            log.warning("request %s (%s) is given up: %s", call.request_id, call.op, failed.message)
            self.close()
            return
        self._outbox.put(number, Kind.END, _failure(failed) if failed is not None else b"")

    async def _send_answer(self, number: int, call: Call, running: _Running) -> None:
        """Send what the engine yields: one Head, then bytes, no faster than the client takes them.

        Raises:
            TypeError: the engine yields something else.
        """
        put = self._outbox.put
        async with contextlib.aclosing(self._server.engine.serve(call)) as frames:  # type: ignore[type-var]  # an async generator
            head = await anext(frames, None)
            if type(head) is not Head:
                raise TypeError(f"an answer must begin with a Head, not with {type(head).__name__}")
            put(number, Kind.HEAD, _encoded(head))
            async for item in frames:
                if type(item) is not bytes:
                    raise TypeError(f"an answer must be bytes after its Head, not {type(item).__name__}")
                put(number, Kind.BODY, item)
                running.unacknowledged += len(item)
                if running.unacknowledged >= wire.WINDOW:
                    await running.has_room()


def _failure(error: XinferError, *, retryable: bool = False) -> bytes:
    return wire.encode_failure(
        Failure(error.message, error.code, error.type, error.status, retryable, error.param, error.retry_after)
    )
