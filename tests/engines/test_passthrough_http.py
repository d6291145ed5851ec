"""The HTTP client of pass-through engines, against a server process that behaves in every way that servers do."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fakes.endpoint.process import Endpoint, endpoint

from xinfer.engines.base import Call, Frame, Head
from xinfer.engines.passthrough import PATHS, HttpCaller, HttpClient, Origin, check_header
from xinfer.engines.passthrough.connection import HIGH_WATER
from xinfer.errors import EndpointFailed, EndpointTimeout, InvalidRequest, TooManyRequests
from xinfer.ops import Op

KEY = {"authorization": "Bearer key-of-the-endpoint"}
IN_BETWEEN = 2 * 1024 * 1024
"""What the server's own buffer, a unix socket and one read may hold of a stream that nobody reads, and plenty more. The
buffers of a TCP connection grow: to tens of MB on some machines."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def port(shared) -> int:
    """Of an endpoint that has seen nothing."""
    shared.forget()
    return shared.port


Use = Callable[[HttpCaller, HttpClient], Awaitable[Any]]


def with_caller(port: int, use: Use, **options: Any) -> Any:
    return with_origin(Origin(host="127.0.0.1", port=port), use, **options)


def over_socket(folder: Path, use: Use) -> Any:
    """With an endpoint of its own."""
    path = str(folder / "s")
    with endpoint(path):
        return with_origin(Origin(host="localhost", port=80, socket=path), use)


def with_origin(origin: Origin, use: Use, **options: Any) -> Any:
    async def main() -> Any:
        client = HttpClient(origin, "the endpoint", KEY, **options)
        try:
            async with asyncio.timeout(20):
                return await use(HttpCaller(client, PATHS), client)
        finally:
            client.close()

    return asyncio.run(main())


def call(model: str, **fields: Any) -> Call:
    return Call(
        "the-id", Op.CHAT, json.dumps({"model": model, **fields}).encode(), model, (("traceparent", "00-1-2-3"),)
    )


async def frames(caller: HttpCaller, model: str, **fields: Any) -> list[Frame]:
    return [frame async for frame in caller.serve(call(model, **fields))]


async def seen(client: HttpClient) -> dict[str, Any]:
    answer = await client.get("/seen")
    assert answer.status == 200
    return json.loads(answer.body)


def test_an_answer_comes_as_its_bytes_are(port):
    async def use(caller, client):
        head, body = await frames(caller, "plain")
        assert head == Head(200, ((b"content-type", b"application/json"),))
        assert json.loads(body)["choices"][0]["message"]["content"] == "one two three"
        (request,) = (await seen(client))["requests"]
        assert request["path"] == "/v1/chat/completions"
        assert request["body"] == '{"model": "plain"}'
        assert request["headers"]["host"] == f"127.0.0.1:{port}"
        assert request["headers"]["x-request-id"] == "the-id"
        assert request["headers"]["traceparent"] == "00-1-2-3"
        assert request["headers"]["accept-encoding"] == "identity"

    with_caller(port, use)


def test_a_stream_comes_whole_and_an_interim_answer_before_it_is_skipped(port):
    async def use(caller, _client):
        head, *pieces = await frames(caller, "plain", stream=True)
        assert head.headers == ((b"content-type", b"text/event-stream"),)
        assert b"".join(pieces).count(b"data: ") == 4

    with_caller(port, use)


def test_one_connection_serves_request_after_request(port):
    async def use(caller, client):
        for _ in range(20):
            await frames(caller, "plain", stream=True)
            await frames(caller, "plain")
        assert (await seen(client))["connections"] == 1
        await asyncio.gather(*[frames(caller, "plain") for _ in range(32)])
        assert (await seen(client))["connections"] <= 32

    with_caller(port, use)


def test_a_kept_connection_that_the_server_has_closed_costs_nothing(port):
    async def use(caller, client):
        for _ in range(5):
            await frames(caller, "once")  # closed right after the answer, perhaps before the next request, perhaps then
        assert len((await seen(client))["requests"]) == 5

    with_caller(port, use)


def test_an_answer_may_end_with_its_connection(port):
    async def use(caller, _client):
        _, body = await frames(caller, "until_close")
        assert body == b"data: all of it\n\n"

    with_caller(port, use)


def test_leaving_ends_the_work_at_once(port):
    async def use(caller, client):
        stream = caller.serve(call("endless"))
        assert isinstance(await anext(stream), Head)
        assert await anext(stream) == b"data: first\n\n"
        assert caller.running == 1
        await stream.aclose()
        assert caller.running == 0
        while not (await seen(client))["aborted"]:
            pass

    with_caller(port, use)


def test_leaving_before_an_answer_ends_the_work_too(port):
    async def use(caller, client):
        waiting = asyncio.ensure_future(frames(caller, "silent"))
        while not (await seen(client))["requests"]:
            pass
        waiting.cancel()
        await asyncio.wait((waiting,))
        while not (await seen(client))["aborted"]:
            pass

    with_caller(port, use)


def test_a_client_that_does_not_read_holds_the_server_back(tmp_path):
    """What waits here is bounded, whatever the server would like to send."""

    async def use(caller, client):
        stream = caller.serve(call("flood"))
        assert isinstance(await anext(stream), Head)
        await anext(stream)
        sent, before = (await seen(client))["sent"], -1
        while sent != before:
            await asyncio.sleep(0.1)
            sent, before = (await seen(client))["sent"], sent
        assert sent < HIGH_WATER + IN_BETWEEN
        rest = sum([len(piece) async for piece in stream])
        assert rest > HIGH_WATER + IN_BETWEEN

    over_socket(tmp_path, use)


@pytest.mark.parametrize("model", ["cut", "rude"])
def test_an_answer_that_breaks_off_is_no_answer(port, model):
    async def use(caller, _client):
        with pytest.raises(EndpointFailed, match="the endpoint broke off its answer"):
            await frames(caller, model)
        assert caller.running == 0

    with_caller(port, use)


@pytest.mark.parametrize("model", ["cut", "rude"])
def test_why_an_answer_breaks_off_is_learnt_before_it_is_said(port, model):
    async def use(_caller, client):
        learnt: list[str] = []

        async def learn_why() -> None:
            learnt.append(model)

        caller = HttpCaller(client, PATHS, learn_why=learn_why)
        await frames(caller, "plain")
        assert learnt == []
        with pytest.raises(EndpointFailed):
            await frames(caller, model)
        assert learnt == [model]

    with_caller(port, use)


def test_silence_has_an_end(port):
    async def use(caller, _client):
        with pytest.raises(EndpointTimeout, match=r"nothing came for 0\.05 s"):
            await frames(caller, "silent")
        stream = caller.serve(call("endless"))
        assert isinstance(await anext(stream), Head)
        await anext(stream)
        with pytest.raises(EndpointTimeout):
            await anext(stream)

    with_caller(port, use, patience_s=0.05)


def test_errors_become_ours(port):
    async def use(caller, _client):
        with pytest.raises(InvalidRequest, match="it is 400") as refused:
            await frames(caller, "400")
        assert refused.value.param == "p"
        with pytest.raises(TooManyRequests, match="it is 429"):
            await frames(caller, "429")

    with_caller(port, use)


def test_what_is_compressed_though_nobody_asked_for_it_comes_as_it_was_before(port):
    async def use(caller, _client):
        head, *body = await frames(caller, "compressed", stream=True)
        assert head == Head(200, ((b"content-type", b"text/event-stream"),))
        assert b"".join(body) == b"data: one\n\ndata: [DONE]\n\n"
        with pytest.raises(InvalidRequest, match=r"^it was compressed$"):
            await frames(caller, "compressed")
        with pytest.raises(EndpointFailed, match=r"this is no HTTP: .*decompressing"):
            await frames(caller, "miscompressed")

    with_caller(port, use)


def test_a_stream_that_is_an_error_from_the_first_event_on_is_one(port):
    async def use(caller, _client):
        with pytest.raises(TooManyRequests, match="it is 429 after all"):
            await frames(caller, "repentant", stream=True)

    with_caller(port, use)


def test_a_server_that_is_not_there():
    async def use(caller, _client):
        with pytest.raises(EndpointFailed, match="the endpoint cannot be reached"):
            await frames(caller, "plain")

    with_caller(1, use)


def test_a_unix_socket(tmp_path):
    async def use(caller, _client):
        _, body = await frames(caller, "plain")
        assert b"one two three" in body

    over_socket(tmp_path, use)


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop])
def test_tls(tmp_path, monkeypatch, loop_factory):
    """The certificate has to be one that this machine trusts, for the host that is asked."""
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key]
    subprocess.run([*words.split(), *more], check=True, capture_output=True)

    async def ask(host: str, port: int) -> bytes:
        client = HttpClient(Origin(host=host, port=port, tls=True), "the endpoint", KEY)
        try:
            first = await frames(HttpCaller(client, PATHS), "plain", stream=True)
            again = await frames(HttpCaller(client, PATHS), "until_close")
            return b"".join([*first[1:], *again[1:]])
        finally:
            client.close()
            await asyncio.sleep(0)  # the transports of TLS close in the next turn of the loop

    with endpoint("--tls", str(certificate), str(key)) as found, asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(EndpointFailed, match="certificate"):
            runner.run(ask("localhost", found.port))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        answer = runner.run(ask("localhost", found.port))
        assert answer.count(b"data: ") == 5
        with pytest.raises(EndpointFailed, match="certificate"):
            runner.run(ask("127.0.0.1", found.port))


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("http://h:8000/v1/", Origin(host="h", port=8000, prefix="/v1"), "h:8000"),
        (
            "https://api.example.com/v1",
            Origin(host="api.example.com", port=443, tls=True, prefix="/v1"),
            "api.example.com",
        ),
        ("http://[::1]:9997", Origin(host="::1", port=9997), "[::1]:9997"),
    ],
)
def test_urls(url, origin, authority):
    assert Origin.of(url) == origin
    assert origin.authority == authority


@pytest.mark.parametrize(
    "url",
    ["", "h:80", "ftp://h", "http://", "http://u:p@h", "http://h/?a=b", "http://h/#x", "http://h/a b", "http://h:x"],
)
def test_what_is_no_url(url):
    with pytest.raises(ValueError):
        Origin.of(url)


@pytest.mark.parametrize("url", ["http://h:0", "http://a..b", f"http://{'a' * 70}.example"])
def test_where_no_server_can_be(url):
    with pytest.raises(ValueError, match=r"^no (server|host) "):
        Origin.of(url)


@pytest.mark.parametrize(("name", "value"), [("a b", "c"), ("", "c"), ("a:", "c"), ("a", "c\r\nd: e"), ("a", "\0")])
def test_what_is_no_header(name, value):
    with pytest.raises(ValueError, match="header"):
        check_header(name, value)
