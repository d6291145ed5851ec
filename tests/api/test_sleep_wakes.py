"""A gateway and models that sleep: who has them woken, and how long requests wait."""

import asyncio

from xinfer.errors import SupervisorAway
from xinfer.routes import Availability

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}


class Waker:
    """Stands for the supervisor."""

    def __init__(self):
        self.asked = []
        self.asked_once = asyncio.Event()

    async def __call__(self, uid):
        self.asked.append(uid)
        self.asked_once.set()


def put_to_sleep(stage, wait_s=20.0):
    waker = Waker()
    stage.gateway._wake, stage.gateway._wake_wait_s = waker, wait_s
    stage.publish("m", availability=Availability.ASLEEP)
    return waker


def test_requests_have_a_model_woken_once_and_wait_for_it(play):
    async def scenario(stage):
        (replica,) = await stage.serve("m")
        waker = put_to_sleep(stage)
        asking = [asyncio.ensure_future(stage.post("/v1/chat/completions", CHAT)) for _ in range(5)]
        await waker.asked_once.wait()
        stage.publish("m", replica)
        replies = await asyncio.gather(*asking)
        assert {reply.status for reply in replies} == {200}
        assert waker.asked == ["m"]

    play(scenario)


def test_a_request_that_reached_a_replica_as_it_fell_asleep_is_answered_once_it_is_awake(play):
    async def scenario(stage):
        (replica,) = await stage.serve("m")
        replica.server.resting = True
        asking = asyncio.ensure_future(stage.post("/v1/chat/completions", CHAT))
        await stage.until(lambda: stage.gateway._links[replica.endpoint.instance].in_flight == 0 and not asking.done())
        waker = put_to_sleep(stage)
        await waker.asked_once.wait()
        replica.server.resting = False
        stage.publish("m", replica)
        assert (await asking).status == 200

    play(scenario)


def test_a_request_waits_no_longer_than_it_may(play):
    async def scenario(stage):
        put_to_sleep(stage, wait_s=0.01)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "not_ready", "5")

    play(scenario)


def test_where_requests_do_not_wake_models_they_are_told_how(play):
    async def scenario(stage):
        waker = put_to_sleep(stage, wait_s=0.0)
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.headers["retry-after"]) == (503, "30")
        assert "xinfer wake m" in reply.error["message"]
        assert waker.asked == []

    play(scenario)


def test_nobody_to_ask_costs_no_more_than_the_wait(play):
    async def scenario(stage):
        put_to_sleep(stage, wait_s=0.01)

        async def away(_uid):
            raise SupervisorAway("the supervisor does not answer")

        stage.gateway._wake = away
        assert (await stage.post("/v1/chat/completions", CHAT)).status == 503

    play(scenario)


def test_the_fallback_answers_at_once_and_the_model_is_woken_all_the_same(play):
    async def scenario(stage):
        await stage.serve("other")
        waker = put_to_sleep(stage)
        stage.publish("m", availability=Availability.ASLEEP, fallback="other")
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.headers["x-xinfer-model"]) == (200, "other")
        await waker.asked_once.wait()
        assert waker.asked == ["m"]

    play(scenario)
