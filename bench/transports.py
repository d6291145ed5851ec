"""What the channel's transport costs: frames on an authenticated asyncio stream, beside frames in xoscar messages.

    python bench/transports.py

Both carry the same frames at the same beat between two processes, everything of one turn of the loop in one batch; the
consumer cuts them apart and counts. For docs/adr/0002: microseconds of CPU per frame, producer + consumer.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop
import xoscar as xo
from cpu import cpu_seconds

from xinfer.actors import open_pool, prepare
from xinfer.channel import wire
from xinfer.channel.handshake import GatewayHandshake, ReplicaHandshake
from xinfer.engines.base import Load
from xinfer.replica.outbox import Outbox
from xinfer.settings import Settings

RATE = 50.0
BEATS = 150
STREAMS = (1, 16, 64, 256)
PAYLOAD = b"x" * 170
TOKEN = "benchmark"  # both processes are ours


async def beats(streams: int, emit) -> None:
    """What an engine does: at every beat a chunk for each stream."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for beat in range(1, BEATS + 1):
        await asyncio.sleep(max(0.0, start + beat / RATE - loop.time()))
        for number in range(1, streams + 1):
            emit(number)


class StreamProducer(asyncio.Protocol):
    """The replica's side of the stream: handshake, then batches from an Outbox."""

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.handshake = ReplicaHandshake(TOKEN)
        transport.write(self.handshake.challenge)

    def data_received(self, data: bytes) -> None:
        if not self.handshake.done:
            answer, data = self.handshake.feed(data)
            self.transport.write(answer)
        if data:
            self.producing = asyncio.ensure_future(self.produce(int(data)))

    async def produce(self, streams: int) -> None:
        outbox = Outbox(self.transport, Load)
        await beats(streams, lambda number: outbox.put(number, wire.Kind.BODY, PAYLOAD))


class StreamConsumer(asyncio.Protocol):
    """The gateway's side."""

    def __init__(self, streams: int) -> None:
        self.streams, self.seen = streams, 0
        self.reader, self.handshake = wire.FrameReader(), GatewayHandshake(TOKEN)
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.handshake.done:
            answer, data = self.handshake.feed(data)
            self.transport.write(answer or str(self.streams).encode())
        self.seen += sum(kind == wire.Kind.BODY for _, kind, _ in self.reader.feed(data))
        if self.seen == self.streams * BEATS:
            self.done.set_result(None)


class ActorProducer(xo.StatelessActor):
    """The same behind a long-poll: ``take`` returns everything since the last one, as soon as there is something."""

    async def begin(self, streams: int) -> None:
        self.parts: list[bytes] = []
        self.more = asyncio.Event()

        def emit(number: int) -> None:
            self.parts += (wire.header(number, wire.Kind.BODY, len(PAYLOAD)), PAYLOAD)
            self.more.set()

        self.task = asyncio.create_task(beats(streams, emit))

    async def take(self) -> bytes:
        await self.more.wait()
        self.more.clear()
        parts, self.parts = self.parts, []
        return b"".join(parts)


async def produce(kind: str, place: str) -> None:
    if kind == "stream":
        server = await asyncio.get_running_loop().create_unix_server(StreamProducer, place)
        print(place, flush=True)
        await server.serve_forever()
    pool = await open_pool("127.0.0.1")
    await xo.create_actor(ActorProducer, address=pool.external_address, uid="producer")
    print(pool.external_address, flush=True)
    await pool.join()


async def consume_stream(place: str, streams: int) -> None:
    loop = asyncio.get_running_loop()
    transport, consumer = await loop.create_unix_connection(lambda: StreamConsumer(streams), place)
    await consumer.done
    transport.close()


async def consume_actor(place: str, streams: int) -> None:
    producer = await xo.actor_ref(address=place, uid="producer")
    await producer.begin(streams)
    reader, seen = wire.FrameReader(), 0
    while seen < streams * BEATS:
        seen += len(reader.feed(await producer.take()))


async def compare() -> None:
    with tempfile.TemporaryDirectory(prefix="xi-") as folder:
        children, places = {}, {}
        for kind in ("stream", "actor"):
            argv = [sys.executable, __file__, kind, str(Path(folder) / "s")]
            children[kind] = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            places[kind] = children[kind].stdout.readline().strip()
        print("microseconds of CPU per frame: producer + consumer")
        print(f"{'streams':>8} {'stream':>16} {'xoscar':>16} {'ratio':>6}")
        for streams in STREAMS:
            cells, totals = [], []
            for kind, consume in (("stream", consume_stream), ("actor", consume_actor)):
                pids = (children[kind].pid, os.getpid())
                await consume(places[kind], 1 if streams == 1 else 2) if streams == STREAMS[0] else None
                before = [cpu_seconds(pid) for pid in pids]
                await consume(places[kind], streams)
                spent = [(cpu_seconds(p) - b) / (streams * BEATS) * 1e6 for p, b in zip(pids, before, strict=True)]
                cells.append(f"{spent[0]:7.1f} +{spent[1]:7.1f}")
                totals.append(sum(spent))
            print(f"{streams:>8} {cells[0]:>16} {cells[1]:>16} {totals[0] / totals[1]:6.2f}")
        for child in children.values():
            child.terminate()
            child.wait()


def main() -> None:
    os.environ["XINFER_CLUSTER_TOKEN"] = TOKEN
    prepare(Settings.from_env())
    uvloop.run(produce(*sys.argv[1:]) if len(sys.argv) > 1 else compare())


if __name__ == "__main__":
    main()
