"""Calls to a server behind HTTP: on this machine (loopback, a unix socket) or anywhere (a URL).

It is a client of our own because of what each chunk of a stream costs. With 32 paced streams over loopback on uvloop,
receiving a chunk took 11 µs of CPU here, 15 with aiohttp (which not every environment has) and 50 with httpx.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from xinfer.engines.base import Call, Frame, Head
from xinfer.engines.passthrough.connection import Broken, Connection, Silent
from xinfer.engines.passthrough.refusals import error_in_stream, refusal
from xinfer.errors import EndpointFailed, EndpointTimeout, XinferError
from xinfer.ops import Op

CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BYTES = 256 * 1024
"""Of an error answer; the rest is not read."""
MAX_IDLE = 64
"""Connections that are kept for later."""
_UNFIT = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

Refuse = Callable[[int, bytes, Mapping[bytes, bytes]], XinferError]
"""Status, body and headers of an answer that is none, as one of our errors. Its status may be that of a success."""


async def _say_it_at_once() -> None:
    """Where nothing is to be known of a server but what it answers."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is."""

    host: str
    port: int
    tls: bool = False
    socket: str = ""
    """A unix socket; host and port are then only what it is told."""
    prefix: str = ""
    """Comes before every path."""

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The origin in a URL such as ``https://host/v1``.

        Raises:
            ValueError: it is no such URL; says what is wrong.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it must begin with http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("it must have no user, no '?' and no '#'")
        if _UNFIT.search(url) or " " in url:
            raise ValueError("it has characters that no URL has")
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError(f"no host can be called {parts.hostname!r}") from None
        tls = parts.scheme == "https"
        if parts.port == 0:
            raise ValueError("no server has the port 0")
        port = parts.port or (443 if tls else 80)
        return cls(host=parts.hostname, port=port, tls=tls, prefix=parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """What goes into the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Answer(NamedTuple):
    """A whole one."""

    status: int
    body: bytes
    headers: Mapping[bytes, bytes]
    """With lower-case names."""


class HttpClient:
    """Connections to one server, used again and again. As many as there are requests at once: a replica bounds those.

    Args:
        origin: where it is.
        name: what error messages call it.
        headers: sent with every request.
        patience_s: seconds that it may say nothing while it answers; None: for ever.
    """

    def __init__(
        self,
        origin: Origin,
        name: str,
        headers: Mapping[str, str] | None = None,
        *,
        patience_s: float | None = None,
    ) -> None:
        self._origin = origin
        self._name = name
        self._patience_s = patience_s
        given = {header.lower(): value for header, value in (headers or {}).items()}
        common = {"host": origin.authority, "accept-encoding": "identity", **given}
        self._common = _header_lines(common)
        self._idle: list[Connection] = []
        self._tls: ssl.SSLContext | None = None

    async def open(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Connection:
        """Send a request; the connection on which the head of its answer has arrived. Give it back, or close it.

        Raises:
            EndpointFailed: there is no answer.
        """
        length = f"content-length: {len(body)}\r\n" if body or method == "POST" else ""
        head = (
            f"{method} {self._origin.prefix}{path} HTTP/1.1\r\n{self._common}{length}{_header_lines(headers or {})}\r\n"
        )
        request = head.encode("latin-1") + body
        while True:
            kept = self._idle.pop() if self._idle else None
            if kept is not None and not kept.is_free:
                continue
            connection = kept or await self._connect()
            try:
                connection.send(request)
                await connection.head()
            except Broken as error:
                connection.close()
                if kept is not None and not connection.answered and not isinstance(error, Silent):
                    continue  # closed while it lay idle: the server has not looked at this request
                raise self._failure(error) from error
            except BaseException:
                connection.close()
                raise
            return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end; any other is closed, which tells the server to stop."""
        if connection.is_free and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    async def get(self, path: str) -> "Answer":
        """What is at a path.

        Raises:
            EndpointFailed: there is no answer.
        """
        return await self._whole(await self.open("GET", path))

    async def post(self, path: str, body: bytes) -> "Answer":
        """The answer to some JSON.

        Raises:
            EndpointFailed: there is no answer.
        """
        return await self._whole(await self.open("POST", path, body, {"content-type": "application/json"}))

    async def _whole(self, connection: Connection) -> "Answer":
        try:
            return Answer(connection.status, await self.rest_of(connection), connection.headers)
        finally:
            self.give_back(connection)

    async def rest_of(self, connection: Connection, limit: int = 16 * 1024 * 1024) -> bytes:
        """The body, up to about so many bytes.

        Raises:
            EndpointFailed: it breaks off.
        """
        pieces: list[bytes] = []
        size = 0
        while size <= limit and (data := await self.take(connection)):
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)

    async def take(self, connection: Connection) -> bytes:
        """See ``Connection.take``.

        Raises:
            EndpointFailed: the answer breaks off.
        """
        try:
            return await connection.take()
        except Broken as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """End the connections that are not in use."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connect(self) -> Connection:
        origin, loop = self._origin, asyncio.get_running_loop()
        if origin.tls and self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)  # reads every certificate that is trusted

        def new() -> Connection:
            return Connection(self._patience_s)

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if origin.socket:
                    return (await loop.create_unix_connection(new, origin.socket))[1]
                return (await loop.create_connection(new, origin.host, origin.port, ssl=self._tls))[1]
        except TimeoutError as error:
            raise EndpointTimeout(
                f"{self._name} does not accept a connection within {CONNECT_TIMEOUT_S:g} s"
            ) from error
        except OSError as error:
            raise EndpointFailed(f"{self._name} cannot be reached: {error}") from error

    def _failure(self, error: Broken) -> EndpointFailed:
        if isinstance(error, Silent):
            return EndpointTimeout(f"{self._name} does not answer: {error}")
        return EndpointFailed(f"{self._name} broke off its answer: {error}")


def _header_lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def check_header(name: str, value: str) -> None:
    """Refuse what cannot be a header.

    Raises:
        ValueError: name or value have characters that would end it.
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    if _UNFIT.search(value):
        raise ValueError(f"the value of the header {name!r} has characters that no header has")


class HttpCaller:
    """Answers calls with a server. ``running`` counts those that are being answered.

    ``learn_why`` is waited for before it is said that there is no answer, or no end of one.
    """

    def __init__(
        self,
        client: HttpClient,
        paths: Mapping[Op, str],
        refuse: Refuse = lambda status, body, _: refusal(status, body),
        learn_why: Callable[[], Awaitable[None]] = _say_it_at_once,
    ) -> None:
        self.running = 0
        self._learn_why = learn_why
        self._client = client
        self._paths = paths
        self._refuse = refuse

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Answer one call, with the server's bytes as they come. When it is closed early, so is the connection.

        Raises:
            XinferError: the server answered with an error status, or not at all, or not to the end.
        """
        client = self._client
        self.running += 1
        connection: Connection | None = None
        try:
            connection = await client.open("POST", self._paths[call.op], call.body, _request_headers(call))
            if not 200 <= connection.status < 300 or _is_page(connection.headers):
                body = await client.rest_of(connection, MAX_ERROR_BYTES)
                raise self._refuse(connection.status, body, connection.headers)
            first = await client.take(connection)
            if not first:
                raise self._refuse(connection.status, first, connection.headers)
            if (error := error_in_stream(first)) is not None:
                raise self._refuse(*error, connection.headers)
            yield Head(connection.status, _kept_headers(connection.headers))
            while first:
                yield first
                first = await client.take(connection)
        except EndpointFailed:
            await self._learn_why()
            raise
        finally:
            self.running -= 1
            if connection is not None:
                client.give_back(connection)


def _request_headers(call: Call) -> dict[str, str]:
    headers = {"content-type": "application/json", "x-request-id": call.request_id}
    return headers | dict(call.headers)


def _is_page(headers: Mapping[bytes, bytes]) -> bool:
    """A page for people, with which something answers that is no API, or that stands in front of it."""
    return headers.get(b"content-type", b"").lower().startswith(b"text/html")


def _kept_headers(headers: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Of an answer: what its bytes are. The others are about the connection, or ours to set."""
    kept = [(b"content-type", headers.get(b"content-type", b"application/json"))]
    if (encoding := headers.get(b"content-encoding", b"identity")) != b"identity":
        kept.append((b"content-encoding", encoding))
    return tuple(kept)
