"""The client side of the comparison: one light HTTP client for both servers, and a closed loop of requests."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

HOST = "127.0.0.1"
LARGEST_HEAD = 1 << 20


@dataclass(frozen=True)
class Rates:
    """What a closed loop of requests saw."""

    requests: int
    wall_s: float
    tokens_each: frozenset[int]
    """Every ``completion_tokens`` that an answer had; 0 stands for an answer without."""

    @property
    def per_second(self) -> float:
        """Requests per second of wall-clock time."""
        return self.requests / self.wall_s


class Refused(RuntimeError):
    """The server answered with another status than 200."""


class Connection:
    """One kept-alive HTTP/1.1 connection on raw streams: the client shares the cores with what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer.

        Raises:
            Refused: with status and body of the answer.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port, limit=LARGEST_HEAD)
        head = f"POST {path} HTTP/1.1\r\nhost: {HOST}:{self._port}\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        status, answer = await self._answer()
        if status != 200:
            raise Refused(f"{path}: {status} {answer[:2000].decode(errors='replace')}")
        return answer

    async def close(self) -> None:
        """Give the connection back."""
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()

    async def _answer(self) -> tuple[int, bytes]:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        _, found, rest = head.partition(b"\r\ncontent-length:")
        if found:
            return status, await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        chunks = []
        while size := int((await self._reader.readline()).partition(b";")[0], 16):
            chunks.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readline()
        return status, b"".join(chunks)


async def ask(port: int, path: str, body: bytes) -> bytes:
    """The answer to one request on a connection of its own.

    Raises:
        Refused: with status and body of the answer.
    """
    connection = Connection(port)
    try:
        return await connection.post(path, body)
    finally:
        await connection.close()


async def closed_loop(port: int, path: str, bodies: Sequence[bytes], *, concurrent: int, seconds: float) -> Rates:
    """``concurrent`` clients for ``seconds``, each with its next request as soon as its last one is answered.

    What has begun is waited for and counted, and the time ends with the last answer: a server whose answers come in
    large batches is not cut in the middle of one.
    """
    counts: list[int] = []
    started = time.perf_counter()

    async def client(first: int) -> None:
        connection = Connection(port)
        number = first
        try:
            while time.perf_counter() - started < seconds:
                counts.append(_completion_tokens(await connection.post(path, bodies[number % len(bodies)])))
                number += concurrent
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for first in range(concurrent):
            group.create_task(client(first))
    wall_s = time.perf_counter() - started
    return Rates(len(counts), wall_s, frozenset(counts))


def _completion_tokens(answer: bytes) -> int:
    """From the usage of an answer, without decoding all of it."""
    _, found, rest = answer.rpartition(b'"completion_tokens":')
    return int(rest.replace(b"}", b",").partition(b",")[0]) if found else 0
