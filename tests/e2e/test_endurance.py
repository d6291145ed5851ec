"""What must not hurt the others: clients that do not read, and a replica that does not answer."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest

CHOICES = 32
TOKENS = 2000
WORDS = ("word " * TOKENS).strip()
STALLED = 8


def resident_mib(site) -> float:
    """What gateways and replicas hold in memory."""
    data_plane = [p for p in site.processes() if {"xinfer.api", "xinfer.replica"} & set(p.cmdline())]
    return sum(process.memory_info().rss for process in data_plane) / 2**20


def long_answer() -> dict:
    """A request whose answer is tens of thousands of server-sent events, about 13 MB."""
    return {"model": "long", "messages": [{"role": "user", "content": WORDS}], "n": CHOICES, "stream": True}


def stalled_stream(site) -> socket.socket:
    """A client that asks for a long answer and never reads a byte of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", site.port))
    body = json.dumps(long_answer()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: xinfer\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_clients_that_do_not_read_cost_no_memory_and_hold_nobody_up(site, wait):
    site.local()
    site.launch("echo", model_uid="long")
    with contextlib.ExitStack() as stack:
        before = resident_mib(site)
        for _ in range(STALLED):
            stack.enter_context(stalled_stream(site))
        wait(lambda: site.running()["long-0"] == STALLED, "all run")
        # Tokens of all streams are made at one beat: when this one is at its end, nothing but its client's reading
        # has kept equally long ones from being so too.
        answer = stack.enter_context(
            httpx.stream("POST", f"{site.url}/v1/chat/completions", json=long_answer(), timeout=60, trust_env=False)
        )
        assert sum(piece.count(b'"content":"') for piece in whole_events(answer)) == CHOICES * (1 + TOKENS)
        assert site.running()["long-0"] == STALLED
        assert resident_mib(site) - before < 40, "of about 100 that nobody reads"


def whole_events(answer: httpx.Response) -> Iterator[bytes]:
    """Its bytes, never cut within an event."""
    rest = b""
    for piece in answer.iter_bytes():
        events, end, rest = (rest + piece).rpartition(b"\n\n")
        yield events + end


def test_a_replica_that_hangs_is_replaced_and_its_requests_answered(site, wait):
    site.local(replica_lease_s=6)
    site.launch("echo", model_uid="twins", replica=2, rate=20)
    pids = site.until_ready_replicas("twins", 2)
    with site.client() as client, concurrent.futures.ThreadPoolExecutor(8) as thread:

        def ask(text: str) -> str:
            answer = client.chat.completions.create(
                model="twins", messages=[{"role": "user", "content": text}], stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

        begun = client.chat.completions.create(
            model="twins", messages=[{"role": "user", "content": WORDS}], stream=True
        )
        next(iter(begun))
        [busy] = [name for name, running in site.running().items() if running]
        os.kill(pids[busy], signal.SIGSTOP)
        answers = [thread.submit(ask, f"question {number}") for number in range(8)]
        assert [answer.result() for answer in answers] == [f"question {number}" for number in range(8)]
        with pytest.raises(openai.APIError, match="died"):
            list(begun)
    wait(lambda: len(site.ready_pids("twins")) == 2 and pids[busy] not in site.ready_pids("twins").values(), "replaced")
    assert not psutil.pid_exists(pids[busy])
