"""An OpenAI-compatible endpoint of few words, as a process: ``python server.py [SOCKET | --tls CERTIFICATE KEY]``.

It says its port on stdout.

The model's name says how it behaves; ``GET /seen`` says what it has seen since ``GET /forget``. Written on plain
sockets, so that it can be as rude as servers are: ends a connection in the middle, after an answer, or never answers.
"""

import asyncio
import gzip
import json
import ssl
import sys
from typing import Any

KEY = "key-of-the-endpoint"
MODELS = ("plain", "embed")
FLOOD = 8 * 1024 * 1024

NOTHING = {"connections": 0, "aborted": 0, "sent": 0}
seen: dict[str, Any] = {**NOTHING, "requests": []}


class Gone(Exception):
    """The client closed its connection."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    seen["connections"] += 1
    try:
        while await answer(reader, writer):
            pass
    except (Gone, ConnectionError, asyncio.IncompleteReadError):
        seen["aborted"] += 1
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; whether the connection stays open."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False  # between two requests everybody may leave
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if path in {"/seen", "/forget"}:
        whole(writer, 200, seen)
        if path == "/forget":
            seen.update(NOTHING, requests=[])
        return True
    seen["requests"].append({"path": path, "headers": headers, "body": body.decode()})
    if headers.get("authorization") != f"Bearer {KEY}":
        whole(writer, 401, {"error": {"message": f"wrong key {headers.get('authorization')}"}})
        return True
    if method == "GET":
        known = path == "/v1/models"
        whole(writer, 200 if known else 404, {"object": "list", "data": [{"id": name} for name in MODELS]})
        return True
    return await BEHAVIOURS.get(json.loads(body)["model"], plain)(reader, writer, json.loads(body))


def whole(writer: asyncio.StreamWriter, status: int, content: Any, *more: str) -> None:
    raw(writer, json.dumps(content).encode(), "Content-Type: application/json", *more, status=status)


def raw(writer: asyncio.StreamWriter, data: bytes, *headers: str, status: int = 200) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def begin(writer: asyncio.StreamWriter, *more: str) -> None:
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", *(more or ("transfer-encoding: chunked",))]
    writer.write("\r\n".join([*lines, "", ""]).encode())


async def plain(_reader: Any, writer: asyncio.StreamWriter, request: dict[str, Any]) -> bool:
    if request.get("stream"):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        begin(writer)
        for word in ("one", " two", " three"):
            chunk(writer, b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": word}}]}).encode())
            await writer.drain()
        chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
    else:
        whole(writer, 200, {"model": request["model"], "choices": [{"message": {"content": "one two three"}}]})
    return True


async def once(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    """Keeps no connection, and does not say so."""
    whole(writer, 200, {"once": True})
    return False


async def until_close(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    """An answer whose end is that of its connection."""
    begin(writer, "connection: close")
    writer.write(b"data: all of it\n\n")
    return False


async def cut(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    begin(writer)
    chunk(writer, b"data: half\n\n")
    await writer.drain()
    return False


async def rude(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    writer.write(b"SSH-2.0-what\r\n\r\n")
    return False


async def silent(reader: asyncio.StreamReader, _writer: Any, _request: Any) -> bool:
    await reader.read(1)
    raise Gone


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _request: Any) -> bool:
    """One event, and then nothing, until the client leaves."""
    begin(writer)
    chunk(writer, b"data: first\n\n")
    await reader.read(1)
    raise Gone


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _request: Any) -> bool:
    """More than anybody should hold in memory for a client that does not read."""
    begin(writer)
    while seen["sent"] < FLOOD and not reader.at_eof():
        chunk(writer, b"x" * 16384)
        await writer.drain()
        seen["sent"] += 16384
    writer.write(b"0\r\n\r\n")
    return True


def failing(status: int, *more: str) -> Any:
    async def fail(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
        whole(writer, status, {"error": {"message": f"it is {status}", "param": "p"}}, *more)
        return True

    return fail


async def page(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    raw(writer, b"<html>Please log in</html>", "Content-Type: text/html; charset=utf-8")
    return True


async def nothing(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    raw(writer, b"", "Content-Type: application/json")
    return True


async def compressed(_reader: Any, writer: asyncio.StreamWriter, request: dict[str, Any]) -> bool:
    """Though nobody asked for it; a stream in pieces of one byte."""
    if not request.get("stream"):
        data = gzip.compress(b'{"error": {"message": "it was compressed"}}')
        raw(writer, data, "Content-Encoding: gzip", status=400)
        return True
    begin(writer, "transfer-encoding: chunked", "content-encoding: gzip")
    for byte in gzip.compress(b"data: one\n\ndata: [DONE]\n\n"):
        chunk(writer, bytes([byte]))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    return True


async def repentant(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    """Says success, and then that it is none."""
    begin(writer)
    chunk(writer, b'data: {"error": {"message": "it is 429 after all", "code": 429}}\n\ndata: [DONE]\n\n')
    writer.write(b"0\r\n\r\n")
    return True


async def miscompressed(_reader: Any, writer: asyncio.StreamWriter, _request: Any) -> bool:
    raw(writer, b"not at all", "Content-Encoding: gzip")
    return True


ACTS = (plain, once, until_close, cut, rude, silent, endless, flood)
MORE_ACTS = (page, nothing, compressed, miscompressed, repentant)
BEHAVIOURS = {
    **{act.__name__: act for act in (*ACTS, *MORE_ACTS)},
    **{str(status): failing(status) for status in (400, 403, 404, 500, 503)},
    "429": failing(429, "retry-after: 7"),
    "307": failing(307, "location: https://elsewhere.example/v1"),
}


async def main() -> None:
    tls = None
    if sys.argv[1:2] == ["--tls"]:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*sys.argv[2:])
    if sys.argv[1:] and tls is None:
        server = await asyncio.start_unix_server(serve, sys.argv[1])
        print(0, flush=True)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
