"""Replicas that die, drain, are full or break, seen by clients: what is retried, what is told, and when it ends."""

import asyncio
import json

import pytest

from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Load
from xinfer.errors import ContextOverflow, EngineFailed, NotFound, NotReady, TooManyRequests
from xinfer.routes import Availability

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
STREAM = CHAT | {"stream": True}


class Engine:
    """Does what a test says, step by step: yields each frame of ``script``, then waits for ever, raises or ends."""

    def __init__(self, *script, ended=""):
        self.script = script
        self.ended = ended
        self.begun = 0
        self.running = 0

    def load_report(self):
        return Load(running=self.running)

    def failure(self):
        return self.ended

    async def serve(self, call):
        self.begun += 1
        self.running += 1
        try:
            for step in self.script:
                if step == "wait":
                    await asyncio.get_running_loop().create_future()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.running -= 1


def heads(stage) -> int:
    """Answers that have begun to reach the gateway."""
    return sum(call.head is not None for link in stage.gateway._links.values() for call in link._calls.values())


async def pair(stage, first, second=None, **options):
    """Two replicas of "m", of which the gateway tries the first one first."""
    one = await stage.replica("m", first)
    two = await stage.replica("m", second, **options)
    stage.publish("m", one, two)
    await stage.connected()
    # As if the second one had reported that it is busy.
    stage.gateway._links[two.endpoint.instance].load = Load(running=1)
    return one, two


# --- before the first byte --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_replica_that_dies_before_the_first_byte_is_replaced(play, body):
    async def scenario(stage):
        engine = Engine("wait")
        dies, _ = await pair(stage, engine)
        asked = stage.open("POST", "/v1/chat/completions", body)
        await stage.until(lambda: engine.begun)
        dies.die()
        reply = await asked.reply()
        assert reply.status == 200
        text = reply.body if body is STREAM else reply.json["choices"][0]["message"]["content"].encode()
        assert b"three" in text

    play(scenario)


def test_a_whole_answer_that_was_cut_off_is_asked_for_again(play):
    async def scenario(stage):
        dies, _ = await pair(stage, Engine(JSON_HEAD, b'{"half": "an ', "wait"))
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        await stage.until(lambda: heads(stage) == 1)
        dies.die()
        reply = await asked.reply()
        assert reply.status == 200
        assert reply.json["choices"][0]["message"]["content"] == "one two three"

    play(scenario)


def test_a_stream_of_which_only_the_head_came_is_asked_for_again(play):
    async def scenario(stage):
        dies, _ = await pair(stage, Engine(SSE_HEAD, "wait"))
        asked = stage.open("POST", "/v1/chat/completions", STREAM)
        await stage.until(lambda: heads(stage) == 1)
        dies.die()
        reply = await asked.reply()
        assert reply.status == 200
        assert reply.events[-1] == "[DONE]"

    play(scenario)


def test_an_error_after_the_head_but_before_a_byte_keeps_its_status(play):
    async def scenario(stage):
        stage.publish("m", await stage.replica("m", Engine(SSE_HEAD, TooManyRequests("enough", retry_after=7))))
        reply = await stage.post("/v1/chat/completions", STREAM)
        assert (reply.status, reply.error["message"], reply.headers["retry-after"]) == (429, "enough", "7")

    play(scenario)


@pytest.mark.parametrize("script", [["wait"], [JSON_HEAD, b"half", "wait"]], ids=["before the head", "half an answer"])
@pytest.mark.parametrize("spare", [3, 5])
def test_a_request_that_kills_replicas_is_stopped(play, script, spare):
    async def scenario(stage):
        engines = [Engine(*script) for _ in range(spare)]
        replicas = [await stage.replica("m", engine) for engine in engines]
        stage.publish("m", *replicas)
        await stage.connected()
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        for victims in range(1, 4):
            await stage.until(lambda victims=victims: sum(engine.begun for engine in engines) == victims)
            await stage.until(lambda: heads(stage) == (script[0] is JSON_HEAD))
            next(r for r in replicas if r.engine.begun and not r.dead).die()
        reply = await asked.reply()
        assert (reply.status, reply.error["code"]) == (502, "replica_lost")
        assert "3 replicas of 'm' died" in reply.error["message"]
        assert sum(engine.begun for engine in engines) == 3
        assert await stage.counted(op="chat", model="m", status="502") == 1

    play(scenario)


def test_a_connection_that_broke_is_made_again_and_the_request_with_it(play):
    """The only replica lives, only the connection to it broke."""

    async def scenario(stage):
        engine = Engine("wait")
        replica = await stage.replica("m", engine)
        stage.publish("m", replica)
        await stage.connected()
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        await stage.until(lambda: engine.begun)
        engine.script = (JSON_HEAD, b'"answered"')
        for connection in list(replica.server._connections):
            connection.abort()
        reply = await asked.reply()
        assert (reply.status, reply.json) == (200, "answered")

    play(scenario)


@pytest.mark.parametrize("error", [EngineFailed("its core died"), NotReady("it has ended"), ValueError("no socket")])
@pytest.mark.parametrize("script", [[], [SSE_HEAD], [JSON_HEAD, b'{"half']], ids=["nothing", "a head", "half"])
def test_an_engine_that_has_ended_is_a_replica_that_has_died(play, script, error):
    """Its own words about that are no answer: what computes can be killed while the process beside it lives."""

    async def scenario(stage):
        engine = Engine(*script, error, ended="its core died")
        first, other = await pair(stage, engine)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.json["choices"][0]["message"]["content"]) == (200, "one two three")
        assert (engine.begun, first.server.draining, other.server.draining) == (1, True, False)

    play(scenario)


def test_a_request_waits_for_the_successor_of_an_engine_that_has_ended(play):
    async def scenario(stage):
        engine = Engine(EngineFailed("its core died"), ended="its core died")
        ends = await stage.replica("m", engine)
        stage.publish("m", ends)
        await stage.connected()
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        await stage.until(lambda: ends.server.draining)
        stage.publish("m", await stage.replica("m"))
        assert ((await asked.reply()).status, engine.begun) == (200, 1)

    play(scenario)


def test_what_is_wrong_with_a_request_is_said_also_by_an_engine_that_ends(play):
    async def scenario(stage):
        engine = Engine(ContextOverflow("too long", param="messages"), ended="its core died")
        stage.publish("m", await stage.replica("m", engine))
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["message"], reply.error["param"]) == (400, "too long", "messages")

    play(scenario)


def test_an_error_keeps_its_parameter_whatever_its_kind(play):
    async def scenario(stage):
        engine = Engine(NotFound("there is no response 'r'", param="previous_response_id"))
        stage.publish("m", await stage.replica("m", engine))
        reply = await stage.post("/v1/responses", {"model": "m", "input": "one"})
        assert (reply.status, reply.error["param"]) == (404, "previous_response_id")

    play(scenario)


# --- after the first byte ---------------------------------------------------------------------------------------------


def test_a_stream_whose_replica_dies_ends_with_an_error_event(play):
    async def scenario(stage):
        dies, _ = await pair(stage, Engine(SSE_HEAD, b'data: {"n": 1}\n\n', "wait"))
        asked = stage.open("POST", "/v1/chat/completions", STREAM)
        start, first = await asked.message(), await asked.message()
        assert (start["status"], first["body"]) == (200, b'data: {"n": 1}\n\n')
        dies.die()
        last = await asked.message()
        assert last["more_body"] is False
        assert last["body"].startswith(b'data: {"error":{"message":')
        assert b'"code":"replica_lost"' in last["body"]
        assert last["body"].endswith(b"\n\n")
        assert await asked.message() is None
        await asked.task
        assert await stage.counted(op="chat", model="m", status="502") == 1

    play(scenario)


def test_a_stream_that_breaks_ends_with_an_error_event(play):
    async def scenario(stage):
        engine = Engine(SSE_HEAD, b'data: {"n": 1}\n\n', ValueError("a shape does not fit"))
        stage.publish("m", await stage.replica("m", engine))
        reply = await stage.post("/v1/chat/completions", STREAM)
        one, error = reply.events
        assert (reply.status, one) == (200, {"n": 1})
        assert error["error"]["code"] == "engine_error"
        assert "a shape does not fit" in error["error"]["message"]
        assert engine.begun == 1

    play(scenario)


def test_other_streams_of_an_engine_that_has_ended_end_with_an_error_event(play):
    async def scenario(stage):
        engine = Engine(SSE_HEAD, b'data: {"n": 1}\n\n', "wait")
        stage.publish("m", await stage.replica("m", engine))
        asked = stage.open("POST", "/v1/chat/completions", STREAM)
        await asked.message()
        await asked.message()
        engine.script, engine.ended = (EngineFailed("its core died"),), "its core died"
        other = stage.open("POST", "/v1/chat/completions", CHAT)
        assert b'"code":"replica_lost"' in (await asked.message())["body"]
        other.disconnect()
        await asyncio.gather(asked.task, other.task)

    play(scenario)


def test_an_event_that_was_cut_off_does_not_take_the_error_with_it(play):
    """Servers behind a proxy send what fits, not whole events."""

    async def scenario(stage):
        engine = Engine(SSE_HEAD, b'data: {"n": 1}\n\ndata: {"n": ', EngineFailed("the endpoint broke off its answer"))
        stage.publish("m", await stage.replica("m", engine))
        reply = await stage.post("/v1/chat/completions", STREAM)
        whole, cut, error, _ = reply.body.decode().split("\n\n")
        assert (whole, cut) == ('data: {"n": 1}', 'data: {"n": ')
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_error"

    play(scenario)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_where_events_have_names_the_error_has_one(play, path):
    """Anthropic's client reads over events without: it would take the answer for complete."""

    async def scenario(stage):
        engine = Engine(SSE_HEAD, b'event: ping\ndata: {"type": "ping"}\n\n', ValueError("a shape does not fit"))
        stage.publish("m", await stage.replica("m", engine))
        reply = await stage.post(path, {"model": "m", "stream": True})
        name, data = reply.chunks[-1].decode().splitlines()[:2]
        event = json.loads(data.removeprefix("data: "))
        assert (name, event["type"], event["error"]["code"]) == ("event: error", "error", "engine_error")

    play(scenario)


def test_an_engine_that_breaks_is_not_asked_twice(play):
    async def scenario(stage):
        engine = Engine(JSON_HEAD, b'{"half', ValueError("a shape does not fit"))
        _, other = await pair(stage, engine)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["code"]) == (500, "engine_error")
        assert other.engine._requests == 0

    play(scenario)


# --- full, draining, away ---------------------------------------------------------------------------------------------


def test_a_full_replica_passes_the_request_on_and_when_all_are_full_says_so(play):
    async def scenario(stage):
        engine = Engine("wait")
        full = await stage.replica("m", engine, max_queued=1)
        spare = await stage.replica("m", Engine("wait"), max_queued=1)
        stage.publish("m", full)
        await stage.connected()
        first = stage.open("POST", "/v1/chat/completions", CHAT)
        await stage.until(lambda: engine.begun)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")

        stage.publish("m", full, spare)
        await stage.connected()
        second = stage.open("POST", "/v1/chat/completions", CHAT)
        await stage.until(lambda: spare.engine.begun)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert reply.status == 429
        for asked in (first, second):
            asked.disconnect()
            await asked.task

    play(scenario)


def test_a_draining_replica_passes_the_request_on(play):
    async def scenario(stage):
        drains, _ = await pair(stage, Engine("wait"))
        drains.server.begin_drain()
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert reply.status == 200
        assert drains.engine.begun == 0

    play(scenario)


def test_a_request_waits_out_the_change_from_a_draining_replica_to_its_successor(play):
    async def scenario(stage):
        drains = await stage.replica("m", Engine("wait"))
        stage.publish("m", drains)
        await stage.connected()
        drains.server.begin_drain()
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        assert not (await asyncio.wait({asked.task}, timeout=0.05))[0]
        stage.publish("m", availability=Availability.RECOVERING)
        assert not (await asyncio.wait({asked.task}, timeout=0.05))[0]
        stage.publish("m", await stage.replica("m"))
        assert (await asked.reply()).status == 200

    play(scenario)


def test_a_request_for_a_recovering_model_waits_until_it_is_back(play):
    async def scenario(stage):
        stage.publish("m", availability=Availability.RECOVERING)
        asked = [stage.open("POST", "/v1/chat/completions", body) for body in (CHAT, STREAM)]
        assert not (await asyncio.wait([one.task for one in asked], timeout=0.05))[0]
        stage.publish("m", await stage.replica("m"))
        assert [(await one.reply()).status for one in asked] == [200, 200]

    play(scenario)


def test_a_model_that_does_not_come_back_is_told_after_the_wait(play):
    async def scenario(stage):
        stage.publish("m", availability=Availability.RECOVERING)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["code"]) == (503, "not_ready")
        assert "within 0.05 s" in reply.error["message"]
        assert int(reply.headers["retry-after"]) > 0

    play(scenario, recover_wait_s=0.05)


@pytest.mark.parametrize("status", [404, 503])
def test_one_that_is_given_up_while_requests_wait_is_told_at_once(play, status):
    async def scenario(stage):
        stage.publish("m", availability=Availability.RECOVERING)
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        assert not (await asyncio.wait({asked.task}, timeout=0.05))[0]
        if status == 404:
            stage.withdraw("m")
        else:
            stage.publish("m", availability=Availability.FAILED, message="no memory is left")
        assert (await asked.reply()).status == status

    play(scenario)


def test_a_request_that_comes_before_the_first_table_waits_for_it(play):
    async def scenario(stage):
        asked = stage.open("POST", "/v1/chat/completions", CHAT)
        assert (await stage.get("/ready")).status == 503
        assert not (await asyncio.wait({asked.task}, timeout=0.05))[0]
        await stage.serve("m")
        assert (await asked.reply()).status == 200
        assert (await stage.get("/ready")).status == 200

    play(scenario)


def test_a_replica_that_was_away_for_a_moment_is_found_again(play):
    async def scenario(stage):
        [replica] = await stage.serve("m")
        links = stage.gateway._links
        for _ in range(3):
            before = links[replica.endpoint.instance]
            for connection in list(replica.server._connections):
                connection.abort()
            await stage.until(lambda old=before: links.get(replica.endpoint.instance) not in (None, old))
            assert (await stage.post("/v1/chat/completions", CHAT)).status == 200

    play(scenario)


def test_a_replica_that_is_withdrawn_finishes_what_it_does(play):
    async def scenario(stage):
        [replica] = await stage.serve("m", rate=100.0)
        asked = stage.open("POST", "/v1/chat/completions", STREAM)
        assert (await asked.message())["status"] == 200
        stage.withdraw("m")
        assert (await stage.post("/v1/chat/completions", CHAT)).status == 404
        rest = b""
        while (message := await asked.message()) is not None:
            rest += message["body"]
        assert rest.endswith(b"data: [DONE]\n\n")
        assert replica.engine._requests == 1

    play(scenario)


def test_a_burst_is_spread_evenly(play):
    async def scenario(stage):
        engines = [Engine("wait") for _ in range(4)]
        stage.publish("m", *[await stage.replica("m", engine) for engine in engines])
        await stage.connected()
        asked = [stage.open("POST", "/v1/chat/completions", CHAT) for _ in range(40)]
        await stage.until(lambda: sum(engine.begun for engine in engines) == 40)
        assert [engine.begun for engine in engines] == [10] * 4
        for one in asked:
            one.disconnect()
            await one.task

    play(scenario)
