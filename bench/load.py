"""A light load generator: raw sockets, so that its own CPU does not crowd out what is measured."""

import asyncio
import json
import time
from dataclasses import dataclass, field

_TOKEN = b'token"}'
"""Stands once in every event with content."""
_END = b"0\r\n\r\n"


@dataclass
class Outcome:
    """What one run of load saw."""

    requests: int = 0
    chunks: int = 0
    wall_s: float = 0.0
    first_byte_s: list[float] = field(default_factory=list)


def request_bytes(port: int, model: str, words: int, *, stream: bool) -> bytes:
    """A chat request whose echo has ``words`` tokens, as HTTP/1.1."""
    content = " ".join(["token"] * words)
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": content}]}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def client(port: int, request: bytes, repeats: int, outcome: Outcome, *, stream: bool) -> None:
    """One connection, ``repeats`` requests one after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        for _ in range(repeats):
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError((head + await reader.read(500)).decode())
            if stream:
                events = await _read_chunks(reader, started, outcome)
                outcome.chunks += events
            else:
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            outcome.requests += 1
    finally:
        writer.close()


async def _read_chunks(reader: asyncio.StreamReader, started: float, outcome: Outcome) -> int:
    """To the end of a chunked body; how many SSE events with content it had."""
    events = 0
    tail = b""
    first = True
    while not tail.endswith(_END):
        piece = await reader.read(1 << 16)
        if not piece:
            raise RuntimeError("the stream ended early")
        if first:
            outcome.first_byte_s.append(time.perf_counter() - started)
            first = False
        # With the end of the last piece: a token may be cut in two, and a tail is too short to hold a whole one.
        seen = tail + piece
        events += seen.count(_TOKEN)
        tail = seen[1 - len(_TOKEN) :]
    return events


async def run(port: int, *, model: str, streams: int, words: int, repeats: int = 1, stream: bool = True) -> Outcome:
    """``streams`` connections at once."""
    outcome = Outcome()
    request = request_bytes(port, model, words, stream=stream)
    started = time.perf_counter()
    await asyncio.gather(*[client(port, request, repeats, outcome, stream=stream) for _ in range(streams)])
    outcome.wall_s = time.perf_counter() - started
    return outcome
