"""A gateway's application in this process, real replicas beside it in the same event loop, and a client made by hand.

No supervisor, no sockets of HTTP: a test publishes its own route table, and sees every ASGI message as it is sent.
"""

import asyncio
import contextlib
import json
from typing import Any, NamedTuple

import pytest

from xinfer.api.app import create_app
from xinfer.api.control import Supervisor
from xinfer.devices import Grant, Lease
from xinfer.engines.echo import EchoEngine
from xinfer.errors import SupervisorAway
from xinfer.ops import Kind, Op
from xinfer.protocol import LaunchOrder
from xinfer.replica.server import DataServer
from xinfer.routes import Availability, ModelRoute, RouteTable
from xinfer.settings import Settings
from xinfer.spec import Deployment, Format, ModelSpec

PATIENCE_S = 30.0
TOKEN = "secret"


class Reply(NamedTuple):
    """A whole answer. ``chunks`` are the bodies as they were sent."""

    status: int
    headers: dict[str, str]
    chunks: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, checked to have the OpenAI shape."""
        assert self.headers["content-type"] == "application/json"
        assert self.json.keys() == {"error"}
        error = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        return error

    @property
    def events(self) -> list[Any]:
        """The server-sent events of a stream; ``[DONE]`` as that string."""
        parts = self.body.decode().split("\n\n")
        assert parts.pop() == ""
        assert all(part.startswith("data: ") for part in parts)
        texts = [part.removeprefix("data: ") for part in parts]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


class Exchange:
    """One request under way. ``reading`` is cleared to play a client whose socket is full."""

    def __init__(self, app: Any, scope: dict[str, Any], pieces: list[bytes], *, complete: bool = True) -> None:
        self.reading = asyncio.Event()
        self.reading.set()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces) or not complete
            self._inbox.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        self.task = asyncio.ensure_future(app(scope, self._inbox.get, self._send))
        self.task.add_done_callback(lambda _: self._sent.put_nowait(None))

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reading.wait()
        self._sent.put_nowait(message)

    def disconnect(self) -> None:
        """The client closes its connection."""
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def message(self) -> dict[str, Any] | None:
        """The next ASGI message; None when the application has returned."""
        return await self._sent.get()

    async def reply(self) -> Reply:
        """The rest of the answer; checks that it is one complete answer, and nothing after it."""
        start = await self.message()
        if start is None:
            await self.task
            raise AssertionError("the application returned without an answer")
        assert start["type"] == "http.response.start"
        headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
        assert len(dict(headers)) == len(headers), "a header was sent twice"
        chunks, more = [], True
        while (message := await self.message()) is not None:
            assert message["type"] == "http.response.body"
            assert more, "a body was sent after the last one"
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        assert not more, "the answer has no end"
        await self.task
        reply = Reply(start["status"], dict(headers), chunks)
        assert int(reply.headers.get("content-length", len(reply.body))) == len(reply.body)
        return reply


class Replica:
    """A data server with an engine, as a replica's process has it."""

    def __init__(self, uid: str, number: int, engine: Any, max_queued: int) -> None:
        spec = ModelSpec(name=uid, kind=Kind.LLM, source="", format=Format.NONE)
        self.engine = engine
        self.dead = False
        self.server = DataServer(
            engine,
            LaunchOrder(
                replica_id=f"{uid}-{number}",
                instance=f"{uid}-{number}-i1",
                generation=1,
                deployment=Deployment(model_uid=uid, spec=spec, engine="echo"),
                slices=(),
                threads=1,
                host="127.0.0.1",
                lease_s=60.0,
            ),
            TOKEN,
            max_queued,
        )

    async def start(self) -> None:
        self.endpoint = await self.server.start()

    def die(self) -> None:
        """As if its process were killed: every connection ends at once, and nobody listens any more."""
        self.dead = True
        for listener in self.server._servers:
            listener.close()
        for connection in list(self.server._connections):
            connection.abort()


class Stage:
    """A running gateway and the replicas that a test has started."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.gateway = app.state.gateway_state.gateway
        self.replicas: list[Replica] = []
        self._models: dict[str, ModelRoute] = {}

    async def replica(self, uid: str, engine: Any = None, *, max_queued: int = 2048, **options: Any) -> Replica:
        """Start a replica; of the echo engine, with ``options``, if no other is given."""
        if engine is None:
            engine = EchoEngine()
            grant = Grant(lease=Lease(replica_id=uid, generation=1, slices=()))
            spec = ModelSpec(name=uid, kind=Kind.LLM, source="", format=Format.NONE)
            await engine.load(spec, options, grant, lambda *_: None)
        replica = Replica(uid, len(self.replicas), engine, max_queued)
        await replica.start()
        self.replicas.append(replica)
        return replica

    def publish(
        self,
        uid: str,
        *replicas: Replica,
        ops: Any = frozenset(Op),
        availability: Availability = Availability.READY,
        message: str = "",
        fallback: str = "",
    ) -> None:
        """Send the gateway a newer table, in which a model is so."""
        endpoints = tuple(replica.endpoint for replica in replicas)
        route = ModelRoute(uid, tuple(sorted(ops)), availability, endpoints, message=message, fallback=fallback)
        self._models = self._models | {uid: route}
        self._send_table()

    async def connected(self) -> None:
        """Wait until the gateway has a connection to every living replica of its table."""
        alive = {replica.endpoint.instance for replica in self.replicas if not replica.dead}
        await self.until(lambda: alive & self.gateway._wanted.keys() <= self.gateway._links.keys())

    def withdraw(self, uid: str) -> None:
        """Send the gateway a newer table, in which there is no such model."""
        self._models = {name: route for name, route in self._models.items() if name != uid}
        self._send_table()

    def _send_table(self) -> None:
        self.gateway.update(RouteTable(1, self.gateway.table.version + 1, self._models))

    async def serve(self, uid: str, count: int = 1, **options: Any) -> list[Replica]:
        """Start replicas of echo, publish them, and wait until the gateway is connected to each."""
        replicas = [await self.replica(uid, **options) for _ in range(count)]
        self.publish(uid, *replicas)
        await self.connected()
        return replicas

    async def until(self, condition: Any) -> None:
        """Wait for what happens on the other side of a socket, which tells nobody."""
        while not condition():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.005)

    def open(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: dict[str, str | bytes] | None = None,
        complete: bool = True,
    ) -> Exchange:
        """Begin a request. A list of bytes is sent piece by piece, anything but bytes as JSON."""
        pieces = body if body and isinstance(body, list) and all(isinstance(piece, bytes) for piece in body) else [body]
        pieces = [piece if isinstance(piece, bytes) else json.dumps(piece).encode() for piece in pieces]
        given = {"content-type": "application/json", "host": "gateway"} | (headers or {})
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.encode(), value if isinstance(value, bytes) else value.encode())
                for name, value in given.items()
                if value is not None
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 9997),
        }
        return Exchange(self.app, scope, pieces, complete=complete)

    async def request(self, method: str, path: str, body: Any = b"", **more: Any) -> Reply:
        """A request and its whole answer."""
        return await self.open(method, path, body, **more).reply()

    async def post(self, path: str, body: Any, **more: Any) -> Reply:
        return await self.request("POST", path, body, **more)

    async def get(self, path: str, **more: Any) -> Reply:
        return await self.request("GET", path, **more)

    async def counted(self, **labels: str) -> float:
        """The value of ``xinfer_requests_total`` summed over the series with these labels."""
        text = (await self.get("/metrics")).body.decode()
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith("xinfer_requests_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(pair in line for pair in wanted))


@contextlib.asynccontextmanager
async def staged(settings: Settings):
    app = create_app(settings)
    replicas: list[Replica] = []
    try:
        async with app.router.lifespan_context(app):
            stage = Stage(app)
            replicas = stage.replicas
            yield stage
            await stage.connected()  # a connection that is just being accepted cannot be closed yet
    finally:
        for replica in replicas:
            await replica.server.close()


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Runs ``scenario(stage)`` beside a gateway; further arguments are settings."""
    monkeypatch.setenv("XINFER_CLUSTER_TOKEN", TOKEN)

    def run(scenario, **settings):
        async def bounded():
            async with asyncio.timeout(PATIENCE_S):
                given = {"home": tmp_path, "token_file": tmp_path / "token", "recover_wait_s": 20.0} | settings
                async with staged(Settings(**given)) as stage:
                    await scenario(stage)

        asyncio.run(bounded())

    return run


@pytest.fixture
def supervisor(monkeypatch):
    """What the supervisor is asked; it answers with ``answer``, or raises it."""

    class Scripted:
        def __init__(self):
            self.asked = []
            self.answer = None

    script = Scripted()

    async def call(_self, name, *args, **_how):
        if name == "routes":
            raise SupervisorAway("it has no table")
        script.asked.append((name, *args))
        if isinstance(script.answer, Exception):
            raise script.answer
        return script.answer

    monkeypatch.setattr(Supervisor, "call", call)
    return script
