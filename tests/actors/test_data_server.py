"""A replica's data server and gateways' links together, over real sockets, with an engine that a test plays by hand."""

import asyncio
import contextlib
import inspect

import pytest
import uvloop

from xinfer.channel import wire
from xinfer.channel.handshake import CHALLENGE_BYTES, MAGIC, GatewayHandshake, HandshakeError
from xinfer.channel.link import ReplicaLink
from xinfer.channel.wire import Kind
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Call, Load
from xinfer.errors import ContextOverflow, TooManyRequests
from xinfer.ops import Kind as ModelKind
from xinfer.ops import Op
from xinfer.protocol import LaunchOrder
from xinfer.replica import server as server_module
from xinfer.replica.server import DataServer
from xinfer.routes import Endpoint
from xinfer.spec import Deployment, Format, ModelSpec

TOKEN = "secret"
PIECE = bytes(64 * 1024)
ORDER = LaunchOrder(
    replica_id="m-0",
    instance="i1",
    generation=1,
    deployment=Deployment(
        model_uid="m", spec=ModelSpec(name="m", kind=ModelKind.LLM, source="", format=Format.NONE), engine="puppet"
    ),
    slices=(),
    threads=1,
    host="127.0.0.1",
    lease_s=60.0,
)


class Puppet:
    """An engine that answers a call by the method that the call's model names."""

    def __init__(self) -> None:
        self.load = Load()
        self.begun = 0
        """Calls whose generator has taken its first step."""
        self.closed = 0
        """Calls whose generator has ended, however it did."""
        self.produced = 0
        """Pieces of ``flood``."""
        self.step = asyncio.Event()
        """Lets ``steps`` yield."""

    def serve(self, call):
        return self._counted(getattr(self, call.model), call)

    async def _counted(self, method, call):
        self.begun += 1
        try:
            async with contextlib.aclosing(method(call)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self.closed += 1

    def load_report(self):
        return self.load

    def failure(self):
        return ""

    async def repeat(self, call):
        yield JSON_HEAD
        yield call.body

    async def hang(self, call):
        await asyncio.get_running_loop().create_future()
        yield JSON_HEAD

    async def hang_after_head(self, call):
        yield SSE_HEAD
        yield b"begun"
        await asyncio.get_running_loop().create_future()

    async def steps(self, call):
        yield SSE_HEAD
        for number in range(3):
            await self.step.wait()
            yield b"%d" % number
            await asyncio.sleep(0)

    async def flood(self, call):
        yield SSE_HEAD
        for _ in range(int(call.body)):
            self.produced += 1
            yield PIECE

    async def one_big_piece(self, call):
        yield JSON_HEAD
        yield bytes(int(call.body))

    async def refuse(self, call):
        raise ContextOverflow("too long", param="messages")
        yield

    async def break_down(self, call):
        raise ValueError("a shape does not fit")
        yield

    async def break_down_later(self, call):
        yield SSE_HEAD
        yield b"begun"
        raise ValueError("a shape does not fit")

    async def say_nothing(self, call):
        return
        yield

    async def forget_the_head(self, call):
        yield b"body"

    async def yield_text(self, call):
        yield JSON_HEAD
        yield "text"


class House:
    """One data server, its engine, and the gateways that a test opened."""

    def __init__(self, server: DataServer, endpoint: Endpoint) -> None:
        self.server = server
        self.engine: Puppet = server.engine
        self.endpoint = endpoint
        self.links: list[ReplicaLink] = []
        self.lost: list[ReplicaLink] = []

    async def connect(self, token: str = TOKEN, *, unix: bool = True) -> ReplicaLink:
        link = ReplicaLink(self.endpoint, token, self.lost.append)
        await link.connect(self.endpoint.host_id if unix else "another machine")
        self.links.append(link)
        return link


@contextlib.asynccontextmanager
async def serving(max_queued: int = 2048):
    server = DataServer(Puppet(), ORDER, TOKEN, max_queued)
    house = House(server, await server.start())
    try:
        yield house
    finally:
        for link in house.links:
            link.close()
        await server.close()
        assert server.in_flight == 0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request):
    """Runs a scenario on the loop of tests and on the one that gateways and replicas really have."""

    def run(scenario):
        async def bounded():
            async with asyncio.timeout(30):
                await scenario()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run


def call(model: str, body: bytes = b"") -> Call:
    return Call("r", Op.CHAT, body, model)


async def until(condition):
    """Wait for what another side of a socket does, which tells nobody."""
    while not condition():  # noqa: ASYNC110  see above
        await asyncio.sleep(0.005)


async def began(stream):
    while stream.head is None and not stream.ended:
        await stream.arrived()


async def rest(stream) -> bytes:
    """What is left of an answer, read as a client would."""
    pieces = []
    while (data := stream.take()) or not stream.ended:
        pieces.append(data)
        stream.credit(len(data))
        await stream.arrived()
    return b"".join(pieces)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_an_answer_arrives_whole(play, unix, size):
    async def scenario():
        async with serving() as house:
            link = await house.connect(unix=unix)
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            streams = [link.open(call("repeat", body)) for _ in range(2)]
            for stream in streams:
                assert await rest(stream) == body
                assert (stream.head, stream.failure, stream.lost) == (JSON_HEAD, None, False)

    play(scenario)


def test_what_all_calls_yield_in_one_step_leaves_in_one_batch(play, monkeypatch):
    """A batch begins with one load report, so counting those counts the batches."""
    monkeypatch.setattr(server_module, "REPORT_EVERY_S", 1000.0)
    loads = []
    decode = wire.decode_load
    monkeypatch.setattr(wire, "decode_load", lambda payload: loads.append(1) or decode(payload))

    async def scenario():
        async with serving() as house:
            link = await house.connect()
            streams = [link.open(call("steps")) for _ in range(64)]
            for stream in streams:
                await began(stream)
            loads.clear()
            house.engine.step.set()
            assert [await rest(stream) for stream in streams] == [b"012"] * 64
            # Three steps of 64 tokens each, and the ends.
            assert 1 <= len(loads) <= 7

    play(scenario)


def test_load_reports_reach_every_gateway_also_those_without_calls(play, monkeypatch):
    monkeypatch.setattr(server_module, "REPORT_EVERY_S", 0.01)

    async def scenario():
        async with serving() as house:
            busy, idle = await house.connect(), await house.connect(unix=False)
            house.engine.load = Load(running=1, queued=2, tokens_queued=3, kv_usage=0.5, tokens_per_s=4.0)
            stream = busy.open(call("hang"))
            await until(lambda: idle.load == busy.load == house.engine.load)
            house.engine.load = Load()
            stream.cancel()
            await until(lambda: idle.load == busy.load == Load())

    play(scenario)


# --- cancel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["hang", "hang_after_head"])
def test_a_cancel_closes_the_generator_of_the_engine(play, model):
    async def scenario():
        async with serving() as house:
            link = await house.connect()
            stream, other = link.open(call(model)), link.open(call("hang"))
            await until(lambda: house.engine.begun == 2)
            stream.cancel()
            await until(lambda: house.engine.closed == 1)
            await until(lambda: house.server.in_flight == 1)
            assert not other.ended
            other.cancel()
            assert await house.server.drained(10)

    play(scenario)


def test_a_cancel_that_comes_with_its_call_leaves_nothing_behind(play):
    """Both frames arrive in one read, so the task of the call is cancelled before its first step."""

    async def scenario():
        async with serving() as house:
            link = await house.connect()
            for _ in range(10):
                link.open(call("hang")).cancel()
            assert await rest(link.open(call("repeat", b"still here"))) == b"still here"
            assert house.engine.begun == 1
            assert house.server.in_flight == 0
            assert [connection._running for connection in house.server._connections] == [{}]

    play(scenario)


# --- backpressure -----------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_stops_its_call_and_no_other(play):
    async def scenario():
        async with serving() as house:
            link = await house.connect()
            stuck = link.open(call("flood", b"64"))
            await began(stuck)
            window = wire.WINDOW // len(PIECE)
            await until(lambda: house.engine.produced == window)
            for _ in range(20):
                assert await rest(link.open(call("repeat", b"others go on"))) == b"others go on"
            assert house.engine.produced == window
            assert await rest(stuck) == PIECE * 64

    play(scenario)


def test_a_cancel_reaches_a_call_that_waits_for_its_client(play):
    async def scenario():
        async with serving() as house:
            link = await house.connect()
            stuck = link.open(call("flood", b"64"))
            await until(lambda: house.engine.produced == wire.WINDOW // len(PIECE))
            stuck.cancel()
            assert await house.server.drained(10)
            assert house.engine.closed == 1

    play(scenario)


class Stopped(asyncio.Protocol):
    """A gateway that proves itself, sends one call and is then stopped, as by SIGSTOP: the socket stays open."""

    def __init__(self, asked: Call) -> None:
        self.handshake = GatewayHandshake(TOKEN)
        self.asked = asked
        self.gone = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not self.handshake.done:
            self.transport.write(self.handshake.feed(data)[0])
        if self.handshake.done:
            self.transport.pause_reading()
            self.transport.write(wire.frame(1, Kind.CALL, wire.encode_call(self.asked)))

    def connection_lost(self, exc):
        self.gone.set()


@pytest.mark.parametrize(("model", "body"), [("hang", b""), ("flood", b"1000"), ("one_big_piece", b"30000000")])
def test_a_gateway_that_was_stopped_is_given_up(play, monkeypatch, caplog, model, body):
    monkeypatch.setattr(wire, "PING_EVERY_S", 0.02)

    async def scenario():
        async with serving() as house:
            alive = (await house.connect()).open(call("hang"))
            stopped = Stopped(call(model, body))
            await asyncio.get_running_loop().create_unix_connection(lambda: stopped, house.endpoint.local_path)
            await until(lambda: house.engine.closed == 1)
            stopped.transport.abort()
            await stopped.gone.wait()
            assert house.server.in_flight == 1
            assert not alive.ended

    play(scenario)
    assert "a gateway says nothing; giving up its 1 calls" in caplog.text


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_engine_arrives_with_its_status_and_words(play):
    async def scenario():
        async with serving() as house:
            stream = (await house.connect()).open(call("refuse"))
            assert await rest(stream) == b""
            failure = stream.failure
            assert stream.head is None
            assert (failure.status, failure.code, failure.message, failure.param, failure.retryable) == (
                400,
                ContextOverflow.code,
                "too long",
                "messages",
                False,
            )

    play(scenario)


@pytest.mark.parametrize(
    ("model", "got", "words"),
    [
        ("break_down", (None, b""), "ValueError: a shape does not fit"),
        ("break_down_later", (SSE_HEAD, b"begun"), "ValueError: a shape does not fit"),
        ("say_nothing", (None, b""), "must begin with a Head, not with NoneType"),
        ("forget_the_head", (None, b""), "must begin with a Head, not with bytes"),
        ("yield_text", (JSON_HEAD, b""), "must be bytes after its Head, not str"),
    ],
)
def test_whatever_an_engine_raises_or_does_wrong_ends_its_call_and_is_logged(play, caplog, model, got, words):
    async def scenario():
        async with serving() as house:
            link = await house.connect()
            stream = link.open(call(model))
            body = await rest(stream)
            assert (stream.head, body) == got
            assert (stream.failure.status, stream.failure.code) == (500, "engine_error")
            assert words in stream.failure.message
            assert await rest(link.open(call("repeat", b"alive"))) == b"alive"

    play(scenario)
    assert words in caplog.text


def test_a_full_replica_refuses_and_another_may_take_the_call(play):
    async def scenario():
        async with serving(max_queued=2) as house:
            link = await house.connect()
            taken = [link.open(call("hang")) for _ in range(2)]
            refused = link.open(call("repeat"))
            await rest(refused)
            assert (refused.failure.status, refused.failure.code) == (429, TooManyRequests.code)
            assert (refused.failure.retryable, refused.failure.retry_after) == (True, 1)
            taken[0].cancel()
            await until(lambda: house.server.in_flight == 1)
            assert await rest(link.open(call("repeat", b"now"))) == b"now"

    play(scenario)


def test_a_draining_replica_refuses_new_calls_and_finishes_the_others(play):
    async def scenario():
        async with serving() as house:
            link = await house.connect()
            under_way = link.open(call("steps"))
            await began(under_way)
            house.server.begin_drain()
            assert not await house.server.drained(0.01)
            refused = link.open(call("repeat"))
            await rest(refused)
            assert (refused.failure.status, refused.failure.retryable) == (503, True)
            house.engine.step.set()
            assert await rest(under_way) == b"012"
            assert await house.server.drained(10)

    play(scenario)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_when_a_gateway_dies_the_engine_stops_working_for_it_only(play):
    async def scenario():
        async with serving() as house:
            dies, lives = await house.connect(unix=False), await house.connect()
            for model in ("hang", "hang_after_head", "flood"):
                dies.open(call(model, b"1000"))
            survivor = lives.open(call("steps"))
            await until(lambda: house.engine.begun == 4)
            dies.close()
            await until(lambda: house.engine.closed == 3)
            house.engine.step.set()
            assert await rest(survivor) == b"012"

    play(scenario)


def test_when_a_replica_ends_its_calls_are_lost(play):
    async def scenario():
        async with serving() as house:
            link = await house.connect()
            streams = [link.open(call("hang")), link.open(call("hang_after_head"))]
            await until(lambda: house.engine.begun == 2)
            await house.server.close()
            assert house.engine.closed == 2
            for stream in streams:
                await rest(stream)
                assert (stream.lost, stream.failure) == (True, None)
            await until(lambda: house.lost == [link])

    play(scenario)


def test_what_was_answered_before_the_end_still_arrives(play, monkeypatch):
    """The socket is full when the replica is told to end: its last answers are in its buffers."""

    async def scenario():
        async with serving() as house:
            link = await house.connect()
            link._transport.pause_reading()
            streams = [link.open(call("one_big_piece", b"200000")) for _ in range(40)]
            await until(lambda: house.engine.closed == 40)
            assert await house.server.drained(10)
            closing = asyncio.ensure_future(house.server.close())
            await asyncio.wait({closing}, timeout=0.05)
            link._transport.resume_reading()
            assert [len(await rest(stream)) for stream in streams] == [200_000] * 40
            assert not any(stream.lost for stream in streams)
            await closing

    play(scenario)


def test_a_gateway_that_takes_nothing_holds_the_end_up_only_for_a_while(play, monkeypatch):
    monkeypatch.setattr(server_module, "FLUSH_S", 0.05)

    async def scenario():
        async with serving() as house:
            link = await house.connect()
            link._transport.pause_reading()
            for _ in range(40):
                link.open(call("one_big_piece", b"200000"))
            await until(lambda: house.engine.closed == 40)
            await house.server.close()
            await until(lambda: not house.server._connections)

    play(scenario)


# --- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
def test_a_gateway_of_another_cluster_is_refused(play, unix, caplog):
    async def scenario():
        async with serving() as house:
            with pytest.raises((HandshakeError, ConnectionResetError)):
                await house.connect("another token", unix=unix)
            await until(lambda: not house.server._connections)

    play(scenario)
    assert "does not know the cluster token" in caplog.text


@pytest.mark.parametrize(
    "said",
    [
        bytes(64) + wire.frame(1, Kind.CALL, wire.encode_call(Call("r", Op.CHAT, b"", "repeat"))),
        wire.frame(1, Kind.CALL, wire.encode_call(Call("r", Op.CHAT, b"x" * 100, "repeat"))),
        b"GET / HTTP/1.1\r\nhost: replica\r\nuser-agent: a scanner that looks for open ports\r\n\r\n",
        b"\xff" * 100_000,
    ],
    ids=["a call behind a wrong proof", "a call at once", "http", "noise"],
)
def test_nothing_of_a_stranger_is_read_and_nothing_told(play, monkeypatch, caplog, said):
    def no_frame_is_read(*_):
        raise AssertionError("a frame of a stranger was read")

    monkeypatch.setattr(wire, "decode_call", no_frame_is_read)

    async def scenario():
        async with serving() as house:
            host, _, port = house.endpoint.address.removeprefix("tcp://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                heard = await reader.read()
                assert heard.startswith(MAGIC)
                assert len(heard) == CHALLENGE_BYTES
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await until(lambda: not house.server._connections)
            assert house.engine.begun == 0

    play(scenario)


def test_one_that_proves_nothing_is_not_waited_for(play, monkeypatch):
    monkeypatch.setattr(server_module, "TIMEOUT_S", 0.05)

    async def scenario():
        async with serving() as house:
            reader, writer = await asyncio.open_unix_connection(house.endpoint.local_path)
            assert len(await reader.readexactly(CHALLENGE_BYTES)) == CHALLENGE_BYTES
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            # One that has proved itself may be silent for longer.
            link = await house.connect()
            await asyncio.wait({asyncio.ensure_future(rest(link.open(call("hang"))))}, timeout=0.1)
            assert link.is_open

    play(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [
        wire.HEADER.pack(2**31, 1, Kind.CALL),
        wire.frame(1, Kind.CALL, b"\xc1"),
        wire.frame(1, Kind.CALL, b"\x82\xa2op\xa6unheard"),
        wire.frame(1, Kind.CREDIT, b"x"),
    ],
)
def test_a_gateway_that_talks_nonsense_is_left_and_the_others_are_not(play, caplog, nonsense):
    async def scenario():
        async with serving() as house:
            mad, sane = await house.connect(), await house.connect()
            stream = mad.open(call("hang"))
            survivor = sane.open(call("steps"))
            await until(lambda: house.engine.begun == 2)
            mad.write(nonsense)
            await rest(stream)
            assert stream.lost
            await until(lambda: house.engine.closed == 1)
            house.engine.step.set()
            assert await rest(survivor) == b"012"

    play(scenario)
    assert {record.name for record in caplog.records} == {"xinfer.replica.server"}


def test_the_socket_of_the_replica_is_for_its_user_only_and_goes_with_it(play):
    async def scenario():
        async with serving() as house:
            path = house.server._socket_path
            assert (path.stat().st_mode & 0o777, str(path)) == (0o600, house.endpoint.local_path)
            await house.server.close()
            assert not path.exists()

    play(scenario)


def test_every_play_of_the_puppet_is_an_answer_or_a_fault():
    """Guards the tests above: a misspelt model would be an AttributeError, which looks like a broken engine."""
    plays = [name for name, method in inspect.getmembers(Puppet, inspect.isasyncgenfunction) if name[0] != "_"]
    assert len(plays) == 12
