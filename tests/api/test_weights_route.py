"""``/v1/weights``, and pausing launches, in front of a supervisor that is played."""

import pytest

from xinfer.catalog.weight_sets import CachedWeights, Pull, WeightsHere
from xinfer.errors import Conflict, NotFound
from xinfer.protocol import FileProgress, LaunchRequest, ModelProgress
from xinfer.spec import Format

FILES = (FileProgress(name="w", done=3, total=4),)
PULL = Pull(name="hf--me--mine--1", source="hf:me/mine", done=3, total=4, files=FILES)
READY = Pull(name="hf--me--mine--1", source="hf:me/mine", state="ready", done=4, total=4, path="/there")
CACHED = CachedWeights(name="n", source="hf:me/mine", format=Format.GGUF, size=4, complete=True, used_by=("q-0",))


def test_weights_are_pulled_in_the_words_of_a_launch(play, supervisor):
    async def scenario(stage):
        supervisor.answer = {"one": PULL, "two": READY}
        body = {"model_name": "qwen3", "model_size_in_billions": "0.6", "workers": ["one", "two"], "verify": True}
        reply = await stage.post("/v1/weights", body)
        assert reply.status == 202
        asked = LaunchRequest(model_name="qwen3", model_size_in_billions="0.6")
        assert supervisor.asked[-1] == ("pull", asked, True, ("one", "two"))
        found = reply.json
        assert (found["name"], found["done"], found["downloaded"], found["total"]) == ("hf--me--mine--1", False, 7, 8)
        assert found["progress"] == 0.875
        assert found["workers"]["one"]["files"] == [{"name": "w", "done": 3, "total": 4}]
        assert found["workers"]["two"]["state"] == "ready"
        reply = await stage.get("/v1/weights/hf--me--mine--1/progress")
        assert supervisor.asked[-1] == ("pull_progress", "hf--me--mine--1")
        assert reply.json == found

    play(scenario)


def test_what_went_wrong_on_one_worker_is_the_reason(play, supervisor):
    async def scenario(stage):
        failed = Pull(name="n", source="s", state="failed", reason="the disk is full")
        supervisor.answer = {"one": READY, "two": failed}
        reply = await stage.get("/v1/weights/n/progress")
        assert (reply.json["done"], reply.json["reason"]) == (True, "the disk is full")

    play(scenario)


def test_what_is_there_and_removing_it(play, supervisor):
    async def scenario(stage):
        supervisor.answer = {"one": WeightsHere(cached=(CACHED,), pulls=(READY,))}
        reply = await stage.get("/v1/weights?worker=one&worker=two")
        assert supervisor.asked[-1] == ("weights", ("one", "two"))
        (cached,) = reply.json["workers"]["one"]["cached"]
        assert (cached["size"], cached["used_by"], cached["format"]) == (4, ["q-0"], "gguf")
        supervisor.answer = {"one": {"hf:me/mine": 4}, "two": {"hf:me/mine": 0}}
        reply = await stage.request("DELETE", "/v1/weights/hf:me/mine#*Q4*.gguf?worker=one")
        assert supervisor.asked[-1] == ("remove_weights", "hf:me/mine#*Q4*.gguf", ("one",))
        assert reply.json["freed_bytes"] == 4
        supervisor.answer = Conflict("hf:me/mine is used by q-0")
        reply = await stage.request("DELETE", "/v1/weights/me/mine")
        assert (reply.status, reply.error["message"]) == (409, "hf:me/mine is used by q-0")

    play(scenario)


def test_a_pull_is_followed_until_it_is_done(play, supervisor):
    async def scenario(stage):
        supervisor.answer = {"one": READY}
        reply = await stage.get("/v1/weights/n/events")
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert [event if event == "[DONE]" else event["done"] for event in reply.events] == [True, "[DONE]"]
        supervisor.answer = NotFound("no worker pulls 'n'")
        reply = await stage.get("/v1/weights/n/events")
        assert reply.status == 404

    play(scenario)


def test_a_launch_is_followed_paused_and_resumed(play, supervisor):
    async def scenario(stage):
        supervisor.answer = ModelProgress(model_uid="q", progress=1.0, stage="ready", replicas=(), done=True)
        reply = await stage.get("/v1/models/q/events")
        assert reply.events[0]["stage"] == "ready"
        for verb, paused in (("pause", True), ("resume", False)):
            reply = await stage.post(f"/v1/models/a/b/{verb}", {})
            assert supervisor.asked[-1] == (verb, "a/b")
            assert reply.json == {"model_uid": "a/b", "paused": paused}

    play(scenario)


@pytest.mark.parametrize(
    ("body", "param"), [({}, "model_name"), ({"model_name": ""}, "model_name"), ({"model_name": "x", "a": 1}, "a")]
)
def test_what_is_wrong_is_named(play, supervisor, body, param):
    async def scenario(stage):
        reply = await stage.post("/v1/weights", body)
        assert (reply.status, reply.error["param"]) == (400, param)

    play(scenario)
