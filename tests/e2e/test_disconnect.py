"""Who leaves is not worked for any more: a client, streaming or not, and a gateway with all of its clients."""

import json
import socket

import httpx
import openai
import pytest

UID = "slow"
WORDS = "a long answer that nobody will hear the end of " * 400
SOON_S = 1.0
"""The promise: so long after its client has gone, the engine works no more for a request."""


@pytest.fixture(scope="module")
def busy(tmp_path_factory, open_site):
    """A server with one model that needs minutes for WORDS."""
    with open_site(tmp_path_factory.mktemp("disconnect")) as site:
        site.local()
        site.launch("echo", model_uid=UID, rate=20)
        yield site


def running(site) -> int:
    """Requests that the engine works on, as the replica itself says."""
    return sum(site.running().values())


def ask(client, text=WORDS):
    return client.chat.completions.create(model=UID, messages=[{"role": "user", "content": text}], stream=True)


def send(site, path: str, body: dict) -> socket.socket:
    """A request on a bare socket, whose answer nobody has read yet."""
    payload = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", site.port))
    head = f"POST {path} HTTP/1.1\r\nhost: xinfer\r\ncontent-length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": WORDS}]}),
        ("/v1/completions", {"prompt": WORDS}),
    ],
)
def test_the_engine_stops_when_the_client_has_left(busy, wait, path, body, stream):
    with send(busy, path, {"model": UID, "stream": stream, **body}):
        wait(lambda: running(busy) == 1, "the engine works on it")
    wait(lambda: running(busy) == 0, "the engine rests", SOON_S)


def test_the_engine_stops_when_the_official_client_closes_a_stream(busy, wait):
    with busy.client() as client:
        stream = ask(client)
        next(iter(stream))
        wait(lambda: running(busy) == 1, "the engine works on it")
        stream.close()
        wait(lambda: running(busy) == 0, "the engine rests", SOON_S)


def test_many_leave_at_once_and_the_one_who_stays_hears_everything(busy, wait):
    words = "just these few words " * 5
    with busy.client() as staying, busy.client() as leaving:
        stream = ask(staying, words)
        others = [ask(leaving) for _ in range(16)]
        wait(lambda: running(busy) == 17, "the engine works on all")
        for other in others:
            other.close()
        wait(lambda: running(busy) == 1, "the engine works on one", SOON_S)
        heard = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert heard == words
    wait(lambda: running(busy) == 0, "the engine rests", SOON_S)


def test_the_engine_stops_when_the_gateway_is_killed(busy, wait):
    with busy.client() as client:
        streams = [ask(client) for _ in range(4)]
        wait(lambda: running(busy) == 4, "the engine works on all")
        [gateway] = busy.gateways()
        gateway.kill()
        for stream in streams:
            with pytest.raises((openai.APIError, httpx.HTTPError, OSError)):
                list(stream)
    wait(lambda: busy.get_or_none("/ready"), "another gateway routes")
    with busy.client() as client:
        stream = ask(client)  # with its answer the replica tells the new gateway what it works on
        next(iter(stream))
        assert running(busy) == 1
        stream.close()
    wait(lambda: running(busy) == 0, "the engine rests", SOON_S)
