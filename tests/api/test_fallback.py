"""A model that stands in for another: when, for what, and how it is told."""

import json

import pytest

from xinfer.engines.base import JSON_HEAD, Call, Load
from xinfer.errors import EndpointFailed, EndpointTimeout, EngineFailed, TooManyRequests
from xinfer.ops import Op
from xinfer.routes import Availability

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "seed": 7}


class Recorder:
    """Answers with what it was asked."""

    def __init__(self):
        self.calls: list[Call] = []

    def load_report(self):
        return Load()

    def failure(self):
        return ""

    async def serve(self, call):
        self.calls.append(call)
        yield JSON_HEAD
        yield call.body


class Failing(Recorder):
    """Raises instead."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    async def serve(self, call):
        self.calls.append(call)
        raise self.error
        yield  # a generator that yields nothing


async def other(stage, uid="other", **route):
    engine = Recorder()
    stage.publish(uid, await stage.replica(uid, engine), **route)
    await stage.connected()
    return engine


async def fallbacks(stage) -> str:
    text = (await stage.get("/metrics")).body.decode()
    return " ".join(line for line in text.splitlines() if line.startswith("xinfer_fallbacks_total{"))


@pytest.mark.parametrize("availability", [Availability.LOADING, Availability.RECOVERING, Availability.FAILED])
def test_where_nothing_serves_a_model_the_other_answers_at_once(play, availability):
    async def scenario(stage):
        engine = await other(stage)
        stage.publish("m", availability=availability, fallback="other")
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert reply.status == 200
        assert reply.headers["x-xinfer-model"] == "other"
        (call,) = engine.calls
        assert call.model == "other"
        assert json.loads(call.body) == CHAT | {"model": "other"}
        assert await fallbacks(stage) == 'xinfer_fallbacks_total{fallback="other",model="m"} 1.0'
        assert await stage.counted(model="m", status="200") == 1

    play(scenario)


def test_a_stream_falls_back_too(play):
    async def scenario(stage):
        await stage.serve("other")
        stage.publish("m", availability=Availability.LOADING, fallback="other")
        reply = await stage.post("/v1/chat/completions", {**CHAT, "seed": None, "stream": True})
        assert reply.headers["x-xinfer-model"] == "other"
        assert reply.events[-1] == "[DONE]"

    play(scenario)


def test_where_the_queues_are_full_the_other_answers(play):
    async def scenario(stage):
        engine = await other(stage)
        full = await stage.replica("m", Recorder(), max_queued=0)
        stage.publish("m", full, fallback="other")
        await stage.connected()
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.headers["x-xinfer-model"], len(engine.calls)) == (200, "other", 1)

    play(scenario)


@pytest.mark.parametrize("error", [TooManyRequests("full"), EndpointFailed("it is away"), EndpointTimeout("silent")])
def test_an_engine_that_is_full_or_has_lost_its_server_lets_the_other_answer(play, error):
    async def scenario(stage):
        engine = await other(stage)
        stage.publish("m", await stage.replica("m", Failing(error)), fallback="other")
        await stage.connected()
        assert (await stage.post("/v1/chat/completions", CHAT)).status == 200
        assert len(engine.calls) == 1

    play(scenario)


def test_a_model_that_serves_is_not_stood_in_for(play):
    async def scenario(stage):
        engine = await other(stage)
        own = Recorder()
        stage.publish("m", await stage.replica("m", own), fallback="other")
        await stage.connected()
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert "x-xinfer-model" not in reply.headers
        assert (len(own.calls), len(engine.calls)) == (1, 0)
        assert await fallbacks(stage) == ""

    play(scenario)


def test_other_errors_are_told(play):
    async def scenario(stage):
        engine = await other(stage)
        stage.publish("m", await stage.replica("m", Failing(EngineFailed("broken"))), fallback="other")
        await stage.connected()
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["message"]) == (500, "broken")
        assert engine.calls == []

    play(scenario)


def test_one_that_cannot_do_it_or_is_not_there_does_not_stand_in(play):
    async def scenario(stage):
        engine = await other(stage, ops={Op.EMBEDDING})
        for fallback in ("other", "nobody"):
            stage.publish("m", availability=Availability.LOADING, message="still loading", fallback=fallback)
            reply = await stage.post("/v1/chat/completions", CHAT)
            assert (reply.status, reply.error["message"]) == (503, "still loading")
            assert "x-xinfer-model" not in reply.headers
        assert engine.calls == []

    play(scenario)


def test_a_chain_is_followed_and_a_ring_ends(play):
    async def scenario(stage):
        stage.publish("m", availability=Availability.LOADING, fallback="second")
        stage.publish("second", availability=Availability.LOADING, fallback="third")
        engine = await other(stage, "third", fallback="m")
        assert (await stage.post("/v1/chat/completions", CHAT)).headers["x-xinfer-model"] == "third"
        stage.publish("third", availability=Availability.FAILED, message="all are gone", fallback="m")
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["message"]) == (503, "all are gone")
        assert len(engine.calls) == 1

    play(scenario)
