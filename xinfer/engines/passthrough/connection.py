"""One HTTP/1.1 connection to a server, read by the C parser that also reads what clients send us.

The bytes of one read go from the parser to the one who waits for them, with nothing in between.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

HIGH_WATER = 256 * 1024
"""Bytes of an answer that wait for the client; beyond that nothing more is read from the server."""
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""An answer with none of these headers ends with its connection."""
COMPRESSED = frozenset({b"gzip", b"x-gzip", b"deflate"})
"""We ask for none of these; servers compress all the same."""
_EITHER_HEADER = zlib.MAX_WBITS | 32
"""Tells zlib to see for itself which of them it reads."""


class Broken(ConnectionError):
    """The connection ended, or what came over it is no HTTP."""


class Silent(Broken):
    """The server said nothing for too long."""


class Connection(asyncio.Protocol):
    """Carries one exchange after another, never two at once."""

    def __init__(self, patience_s: float | None) -> None:
        """``patience_s``: seconds that the server may say nothing during an exchange; None: for ever."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Of the answer, with lower-case names. What says that it is compressed is not among them, if we undo that."""
        self.answered = False
        """Something of the answer has arrived."""
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._decompress: Callable[[bytes], bytes] | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._has_head = False
        self._complete = True
        self._keeps = True
        self._error: Broken | None = None
        self._ready: asyncio.Future[None] | None = None
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether another exchange can begin: the last is complete on both sides, and both keep the connection."""
        is_over = self._complete and not self._chunks and not self._transport.get_write_buffer_size()
        return is_over and self._keeps and self._error is None

    def send(self, request: bytes) -> None:
        """Begin an exchange."""
        self.status, self.headers = 0, {}
        self.answered = self._has_head = self._complete = False
        self._heard_at = self._loop.time()
        if self._patience_s is not None:
            self._timer = self._loop.call_later(self._patience_s, self._look_at_the_clock)
        self._transport.write(request)

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            Broken: they do not come.
        """
        while not self._has_head:
            await self._wait()

    async def take(self) -> bytes:
        """Everything of the body that has arrived since; waits for something. Empty: that was all.

        Raises:
            Broken: the rest does not come.
        """
        while not self._chunks:
            if self._complete:
                return b""
            await self._wait()
        if len(self._chunks) == 1:
            data = self._chunks.popleft()
        else:
            data = b"".join(self._chunks)
            self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()
        return data

    def close(self) -> None:
        """End the connection at once, so that the server stops working for an exchange under way."""
        self._stop_clock()
        self._transport.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._ready = self._loop.create_future()
        await self._ready

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _fail(self, error: Broken) -> None:
        if self._error is None:
            self._error = error
        self._stop_clock()
        self._wake()

    def _look_at_the_clock(self) -> None:
        assert self._patience_s is not None
        left = self._heard_at + self._patience_s - self._loop.time()
        if self._paused:  # it may have more to say, but its client does not listen
            left = self._patience_s
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_the_clock)
            return
        self._fail(Silent(f"nothing came for {self._patience_s:g} s"))
        self._transport.abort()

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        """Parse; the parser calls the methods below."""
        self._heard_at = self._loop.time()
        self.answered = True
        try:
            if self._complete:
                raise httptools.HttpParserError("the server speaks without being asked")  # noqa: TRY301  one way out
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Broken(f"this is no HTTP: {error.__context__ or error}"))
            self._transport.abort()
            return
        if self._size > HIGH_WATER and not self._paused and not self._complete:
            self._paused = True
            self._transport.pause_reading()
        if self._has_head:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of an answer that has no other; else its failure."""
        self._keeps = False
        if self._has_head and exc is None and not (FRAMING & self.headers.keys()):
            self._complete = True
        if self._complete:
            self._stop_clock()
            self._wake()
        else:
            self._fail(Broken(str(exc) if exc else "the connection was closed"))

    # httptools --------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer, which nobody needs."""
        if not self._has_head:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole, unless it is an interim one."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200
        self._decompress = None
        if self._has_head and self.headers.get(b"content-encoding", b"").lower() in COMPRESSED:
            del self.headers[b"content-encoding"]
            self._decompress = zlib.decompressobj(_EITHER_HEADER).decompress

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        if self._decompress is not None:
            body = self._decompress(body)  # what this raises, the parser wraps
        if body:  # compressed, the first bytes may be worth nothing yet
            self._chunks.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        """The end of the answer."""
        if not self._has_head:
            self.headers = {}
            return
        self._complete = True
        self._keeps = self._parser.should_keep_alive()
        self._stop_clock()
