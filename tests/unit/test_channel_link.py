"""The gateway's side of a channel against peers that behave as no replica of ours would."""

import asyncio
import contextlib
import socket

import pytest

from xinfer.channel import link as link_module
from xinfer.channel import wire
from xinfer.channel.handshake import HandshakeError, ReplicaHandshake
from xinfer.channel.link import ReplicaLink
from xinfer.channel.wire import FrameReader, Kind
from xinfer.engines.base import JSON_HEAD, Call, Head, Load
from xinfer.errors import ReplicaLost
from xinfer.ops import Op
from xinfer.routes import Endpoint

TOKEN = "secret"
CALL = Call("r", Op.CHAT, b"{}", "m")


class Peer(asyncio.Protocol):
    """A replica's end of one connection, played by hand. ``frames`` holds what came, ``arrived`` counts it."""

    def __init__(self) -> None:
        self.handshake = ReplicaHandshake(TOKEN)
        self.reader = FrameReader()
        self.frames: asyncio.Queue[wire.RawFrame] = asyncio.Queue()
        self.gone = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.handshake.challenge)

    def data_received(self, data):
        if not self.handshake.done:
            answer, data = self.handshake.feed(data)
            self.transport.write(answer)
        for frame in self.reader.feed(data):
            self.frames.put_nowait(frame)

    def connection_lost(self, exc):
        self.gone.set()

    def say(self, *frames: bytes) -> None:
        self.transport.write(b"".join(frames))


class Met:
    """A link, the peer at its other end, and what the link's owner was told."""

    def __init__(self, link: ReplicaLink, peer: Peer, lost: asyncio.Event) -> None:
        self.link = link
        self.peer = peer
        self.lost = lost


@contextlib.asynccontextmanager
async def listening(factory):
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield Endpoint("m-0", "i1", f"tcp://{host}:{port}")
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def connected():
    peers: list[Peer] = []

    def factory():
        peers.append(Peer())
        return peers[-1]

    async with listening(factory) as endpoint:
        lost = asyncio.Event()
        link = ReplicaLink(endpoint, TOKEN, lambda _: lost.set())
        await link.connect("elsewhere")
        try:
            yield Met(link, peers[0], lost)
        finally:
            link.close()
            await lost.wait()
            await peers[0].gone.wait()


def play(scenario):
    async def run():
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(run())


async def ended(stream) -> bytes:
    """The rest of an answer."""
    body = b""
    while not stream.ended:
        await stream.arrived()
        body += stream.take()
    return body


# --- opening ----------------------------------------------------------------------------------------------------------


class Greeter(asyncio.Protocol):
    """Says one thing to whoever connects, answers whatever comes with another, or leaves itself."""

    def __init__(self, greeting: bytes, *, reply: bytes = b"", leaves: bool = False) -> None:
        self.greeting = greeting
        self.reply = reply
        self.leaves = leaves

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.greeting)
        if self.leaves:
            transport.close()

    def data_received(self, data):
        self.transport.write(self.reply)


@pytest.mark.parametrize(
    ("greeter", "words"),
    [
        (lambda: Greeter(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"), "no xinfer replica"),
        (lambda: Greeter(b"", leaves=True), "is the cluster token the same"),
        (lambda: Greeter(b"xinfer/1" + bytes(32), reply=bytes(32)), "could not prove"),
    ],
)
def test_a_stranger_is_not_talked_to(greeter, words):
    async def scenario():
        async with listening(greeter) as endpoint:
            lost = asyncio.Event()
            link = ReplicaLink(endpoint, TOKEN, lambda _: lost.set())
            with pytest.raises(HandshakeError, match=words):
                await link.connect("elsewhere")
            await lost.wait()
            assert not link.is_open
            with pytest.raises(ReplicaLost):
                link.open(CALL)

    play(scenario)


def test_one_that_accepts_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(link_module, "TIMEOUT_S", 0.05)

    async def scenario():
        async with listening(lambda: Greeter(b"")) as endpoint:
            lost = asyncio.Event()
            with pytest.raises(TimeoutError):
                await ReplicaLink(endpoint, TOKEN, lambda _: lost.set()).connect("elsewhere")
            await lost.wait()

    play(scenario)


def test_an_address_where_nobody_listens_is_an_error_at_once():
    async def scenario():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = Endpoint("m-0", "i1", f"tcp://127.0.0.1:{free.getsockname()[1]}")
            with pytest.raises(ConnectionRefusedError):
                await ReplicaLink(endpoint, TOKEN, lambda _: None).connect("elsewhere")

    play(scenario)


# --- calls ------------------------------------------------------------------------------------------------------------


def test_answers_find_their_calls_in_any_order():
    async def scenario():
        async with connected() as met:
            first, second = met.link.open(CALL), met.link.open(CALL)
            numbers = [(await met.peer.frames.get())[0] for _ in range(2)]
            met.peer.say(
                wire.frame(numbers[1], Kind.HEAD, wire.encode_head(JSON_HEAD)),
                wire.frame(numbers[1], Kind.BODY, b"two"),
                wire.frame(numbers[1], Kind.END),
                wire.frame(numbers[0], Kind.HEAD, wire.encode_head(Head(201, ()))),
                wire.frame(numbers[0], Kind.BODY, b"o"),
                wire.frame(numbers[0], Kind.BODY, b"ne"),
            )
            await second.arrived()
            assert (second.head, second.take(), second.ended) == (JSON_HEAD, b"two", True)
            await first.arrived()
            assert (first.head, first.take(), first.ended) == (Head(201, ()), b"one", False)
            assert met.link.in_flight == 1
            first.cancel()

    play(scenario)


def test_numbers_begin_again_after_the_last_and_skip_those_in_use():
    async def scenario():
        async with connected() as met:
            oldest = met.link.open(CALL)
            met.link._last_number = wire.MAX_CALL - 1
            later = [met.link.open(CALL) for _ in range(2)]
            assert [(await met.peer.frames.get())[0] for _ in range(3)] == [1, wire.MAX_CALL, 2]
            for stream in [oldest, *later]:
                stream.cancel()

    play(scenario)


def test_a_cancelled_call_is_told_once_and_what_still_comes_for_it_is_dropped():
    async def scenario():
        async with connected() as met:
            stream, other = met.link.open(CALL), met.link.open(CALL)
            stream.cancel()
            stream.cancel()
            assert stream.ended
            assert not stream.lost
            await stream.arrived()
            assert [(await met.peer.frames.get())[1] for _ in range(3)] == [Kind.CALL, Kind.CALL, Kind.CANCEL]
            met.peer.say(
                wire.frame(1, Kind.HEAD, wire.encode_head(JSON_HEAD)),
                wire.frame(1, Kind.BODY, b"late"),
                wire.frame(1, Kind.END),
                wire.frame(2, Kind.HEAD, wire.encode_head(JSON_HEAD)),
                wire.frame(2, Kind.END),
            )
            await ended(other)
            assert (stream.head, stream.take()) == (None, b"")
            assert met.peer.frames.empty()
            assert met.link.in_flight == 0

    play(scenario)


def test_credit_is_told_in_half_windows_and_not_after_the_end():
    async def scenario():
        async with connected() as met:
            stream = met.link.open(CALL)
            await met.peer.frames.get()
            stream.credit(wire.WINDOW // 2 - 1)
            stream.credit(2)
            assert await met.peer.frames.get() == (1, Kind.CREDIT, (wire.WINDOW // 2 + 1).to_bytes(4, "little"))
            met.peer.say(wire.frame(1, Kind.END))
            await ended(stream)
            stream.credit(wire.WINDOW)
            met.link.write(wire.frame(0, Kind.PING))
            assert (await met.peer.frames.get())[1] == Kind.PING

    play(scenario)


def test_a_load_report_counts_from_then_on():
    async def scenario():
        async with connected() as met:
            streams = [met.link.open(CALL) for _ in range(3)]
            assert met.link.opened_since_load == 3
            met.peer.say(wire.encode_load(Load(2, 1, 50, 0.5, 100.0)), wire.frame(1, Kind.END))
            await ended(streams[0])
            assert (met.link.load, met.link.opened_since_load) == (Load(2, 1, 50, 0.5, 100.0), 0)
            streams.append(met.link.open(CALL))
            assert met.link.opened_since_load == 1
            for stream in streams:
                stream.cancel()

    play(scenario)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_when_the_replica_dies_every_call_on_it_is_lost():
    async def scenario():
        async with connected() as met:
            streams = [met.link.open(CALL) for _ in range(3)]
            await met.peer.frames.get()
            met.peer.say(wire.frame(1, Kind.HEAD, wire.encode_head(JSON_HEAD)), wire.frame(1, Kind.BODY, b"begun"))
            met.peer.transport.close()
            assert [await ended(stream) for stream in streams] == [b"begun", b"", b""]
            assert [stream.lost for stream in streams] == [True] * 3
            await met.lost.wait()
            assert not met.link.is_open
            with pytest.raises(ReplicaLost, match="m-0 is gone"):
                met.link.open(CALL)

    play(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [
        wire.HEADER.pack(2**31, 1, Kind.BODY),
        wire.frame(0, Kind.LOAD, b"short"),
        wire.frame(1, Kind.HEAD, b"\xc1"),
        wire.frame(1, Kind.END, b"\x90"),
        wire.frame(1, Kind.BODY, b"no head came before"),
    ],
)
def test_a_peer_that_talks_nonsense_is_left(nonsense, caplog):
    async def scenario():
        async with connected() as met:
            stream = met.link.open(CALL)
            met.peer.say(nonsense)
            await ended(stream)
            assert stream.lost
            await met.lost.wait()

    play(scenario)
    assert [record.name for record in caplog.records] == ["xinfer.channel.link"]


def test_a_silent_replica_is_pinged_and_then_given_up(monkeypatch):
    """As one that was stopped with SIGSTOP, or whose machine is unreachable: the socket stays open, nothing comes."""
    monkeypatch.setattr(wire, "PING_EVERY_S", 0.02)

    async def scenario():
        async with connected() as met:
            stream = met.link.open(CALL)
            await ended(stream)
            assert stream.lost
            await met.lost.wait()
            await met.peer.gone.wait()
            kinds = [met.peer.frames.get_nowait()[1] for _ in range(met.peer.frames.qsize())]
            assert kinds[0] == Kind.CALL
            assert len(kinds) > 1
            assert set(kinds[1:]) == {Kind.PING}

    play(scenario)


def test_a_replica_that_answers_pings_may_take_its_time(monkeypatch):
    monkeypatch.setattr(wire, "PING_EVERY_S", 0.02)

    async def scenario():
        async with connected() as met:
            stream = met.link.open(CALL)
            await met.peer.frames.get()
            for _ in range(5):
                assert (await met.peer.frames.get())[1] == Kind.PING
                met.peer.say(wire.encode_load(Load(running=1)))
            met.peer.say(wire.frame(1, Kind.HEAD, wire.encode_head(JSON_HEAD)), wire.frame(1, Kind.END))
            await ended(stream)
            assert not stream.lost

    play(scenario)


def test_an_idle_link_is_not_watched_and_the_next_call_starts_anew(monkeypatch):
    monkeypatch.setattr(wire, "PING_EVERY_S", 0.02)

    async def scenario():
        async with connected() as met:
            for number in (1, 2):
                stream = met.link.open(CALL)
                assert met.link._watchdog.awake
                met.peer.say(wire.frame(number, Kind.END))
                await ended(stream)
                while met.link._watchdog.awake:  # noqa: ASYNC110  its timer tells nobody
                    await asyncio.sleep(0.01)

    play(scenario)
