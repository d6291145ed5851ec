"""Clients that leave, or that do not read: within a turn of the loop nobody works for them any more."""

import asyncio

import pytest

from xinfer.channel import wire
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Load

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
STREAM = CHAT | {"stream": True}
PIECE = b"data: " + bytes(64 * 1024) + b"\n\n"


class Engine:
    """Knows how many requests it works on; ``kind`` says how it keeps them waiting."""

    def __init__(self, kind):
        self.kind = kind
        self.begun = 0
        self.running = 0
        self.produced = 0

    def load_report(self):
        return Load(running=self.running)

    def failure(self):
        return ""

    async def serve(self, call):
        self.begun += 1
        self.running += 1
        try:
            if self.kind == "before the head":
                await asyncio.get_running_loop().create_future()
            yield SSE_HEAD if self.kind != "half an answer" else JSON_HEAD
            while self.kind == "flood":
                self.produced += 1
                yield PIECE
            yield b"begun"
            await asyncio.get_running_loop().create_future()
        finally:
            self.running -= 1


async def serving(stage, kind):
    replica = await stage.replica("m", Engine(kind))
    stage.publish("m", replica)
    await stage.connected()
    return replica.engine


@pytest.mark.parametrize("kind", ["before the head", "half an answer", "a stream", "flood"])
def test_when_the_client_leaves_the_engine_stops(play, kind):
    async def scenario(stage):
        engine = await serving(stage, kind)
        asked = [stage.open("POST", "/v1/chat/completions", CHAT) for _ in range(5)]
        await stage.until(lambda: engine.running == 5)
        for one in asked[:3]:
            one.disconnect()
        await stage.until(lambda: engine.running == 2)
        for one in asked[:3]:
            await one.task
        assert stage.gateway.in_flight == 2
        for one in asked[3:]:
            one.disconnect()
            await one.task
        await stage.until(lambda: engine.running == 0)
        assert stage.gateway.in_flight == 0
        assert engine.begun == 5
        assert await stage.counted(op="chat", model="m", status="499") == 5

    play(scenario)


def test_a_client_that_leaves_with_its_answer_on_the_way_harms_nobody(play):
    """Both happen in one turn of the loop, in either order."""

    async def scenario(stage):
        await stage.serve("m")
        for turns in range(30):
            asked = stage.open("POST", "/v1/chat/completions", CHAT)
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.disconnect()
            await asked.task
        assert (await stage.post("/v1/chat/completions", CHAT)).status == 200
        assert stage.gateway.in_flight == 0

    play(scenario)


def test_a_client_that_leaves_while_it_sends_is_no_request(play):
    async def scenario(stage):
        engine = await serving(stage, "a stream")
        asked = stage.open("POST", "/v1/chat/completions", [b'{"model": "m", '], complete=False)
        asked.disconnect()
        await asked.task
        assert await asked.message() is None
        assert engine.begun == 0
        assert await stage.counted(op="chat", model="", status="499") == 1

    play(scenario)


def test_a_client_that_leaves_while_its_request_waits_for_a_replica_is_forgotten(play):
    async def scenario(stage):
        asked = stage.open("POST", "/v1/chat/completions", CHAT | {"model": "made-up"})
        await asyncio.wait({asked.task}, timeout=0.02)
        asked.disconnect()
        await asked.task
        assert await stage.counted(op="chat", status="499") == await stage.counted(op="chat", model="") == 1

    play(scenario)


def test_when_the_gateway_is_stopped_its_requests_are_cancelled(play):
    async def scenario(stage):
        engine = await serving(stage, "a stream")
        asked = stage.open("POST", "/v1/chat/completions", STREAM)
        await stage.until(lambda: engine.running == 1)
        asked.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked.task
        await stage.until(lambda: engine.running == 0)

    play(scenario)


def test_a_client_that_does_not_read_stops_its_own_stream_only(play):
    async def scenario(stage):
        engine = await serving(stage, "flood")
        asked = stage.open("POST", "/v1/chat/completions", STREAM)
        asked.reading.clear()
        window = -(-wire.WINDOW // len(PIECE))
        await stage.until(lambda: engine.produced == window)
        await stage.serve("other")
        for _ in range(10):
            assert (await stage.post("/v1/chat/completions", CHAT | {"model": "other"})).status == 200
        assert engine.produced == window
        asked.reading.set()
        await stage.until(lambda: engine.produced > 4 * window)
        asked.disconnect()
        await asked.task
        await stage.until(lambda: engine.running == 0)

    play(scenario)
