"""The frames that a replica has for one gateway, sent in batches.

Whatever is put in during one turn of the event loop leaves in one write: an engine step that yields a token for each
of 64 streams costs one system call. When the loop is idle, that turn is now, so nothing waits for company.
"""

import asyncio
from collections.abc import Callable

from xinfer.channel import wire
from xinfer.channel.wire import Kind
from xinfer.engines.base import Load


class Outbox:
    """One per connection. Bounded by the calls' own windows, so a slow socket needs no limit here."""

    def __init__(self, transport: asyncio.Transport, load: Callable[[], Load]) -> None:
        self._transport = transport
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._scheduled = False
        self._paused = False

    def put(self, call: int, kind: Kind, payload: bytes = b"") -> None:
        """Add a frame to the batch that leaves at the end of this turn of the loop."""
        parts = self._parts
        parts.append(wire.HEADER.pack(len(payload), call, kind))
        if payload:
            parts.append(payload)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def pause(self) -> None:
        """The socket is full: keep collecting."""
        self._paused = True

    def resume(self) -> None:
        """The socket takes bytes again."""
        self._paused = False
        if self._parts and not self._scheduled:
            self._flush()

    def close(self) -> None:
        """Send what is left, then end the connection."""
        self._paused = False
        if self._parts:
            self._flush()
        self._transport.close()

    def _flush(self) -> None:
        self._scheduled = False
        if self._paused or self._transport.is_closing():
            return
        parts, self._parts = self._parts, []
        self._transport.write(wire.encode_load(self._load()) + b"".join(parts))
