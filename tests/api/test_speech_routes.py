"""Forms with recordings through the gateway: routed by their model, handed on as they came, refused in words."""

import json

import pytest
from fakes.forms import CONTENT_TYPE, form

from xinfer.engines.base import SSE_HEAD, Head, Load
from xinfer.errors import EngineFailed
from xinfer.ops import Op
from xinfer.routes import Availability

PATH = "/v1/audio/transcriptions"
FORM = {"content-type": CONTENT_TYPE}


class Recorder:
    """Answers with a text, and keeps what it was asked."""

    def __init__(self, head=None, fail=False):
        self.calls = []
        self._head = head or Head(200, ((b"content-type", b"text/plain; charset=utf-8"),))
        self._fail = fail

    def load_report(self):
        return Load()

    def failure(self):
        return ""

    async def serve(self, call):
        self.calls.append(call)
        yield self._head
        yield b"one"
        if self._fail:
            raise EngineFailed("broken")
        yield b"two"


async def recording(stage, uid="w", **how):
    engine = Recorder(**how)
    stage.publish(uid, await stage.replica(uid, engine))
    await stage.connected()
    return engine


@pytest.mark.parametrize(("path", "op"), [(PATH, Op.TRANSCRIPTION), ("/v1/audio/translations", Op.TRANSLATION)])
def test_a_form_reaches_the_model_that_it_names_as_it_came(play, path, op):
    async def scenario(stage):
        engine = await recording(stage)
        for size in (10, 3_000_000):  # within one frame's copy, and beyond it
            body = form([("model", "w"), ("prompt", "p")], {"file": bytes(range(250)) * (size // 250)})
            pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
            reply = await stage.post(path, pieces, headers=FORM)
            assert (reply.status, reply.body) == (200, b"onetwo")
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
            sent = engine.calls[-1]
            assert (sent.op, sent.body, dict(sent.headers)["content-type"]) == (op, body, CONTENT_TYPE)
        assert await stage.counted(op=op, model="w", status="200") == 2

    play(scenario)


def test_a_text_that_breaks_off_is_an_error_and_no_text(play):
    async def scenario(stage):
        await recording(stage, fail=True)
        reply = await stage.post(PATH, form([("model", "w")], {"file": b"x"}), headers=FORM)
        assert (reply.status, reply.error["message"]) == (500, "broken")

    play(scenario)


def test_a_stream_is_handed_on_as_it_comes(play):
    async def scenario(stage):
        await recording(stage, head=SSE_HEAD)
        reply = await stage.post(PATH, form([("model", "w"), ("stream", "true")], {"file": b"x"}), headers=FORM)
        assert (reply.status, reply.body) == (200, b"onetwo")
        assert "content-length" not in reply.headers

    play(scenario)


@pytest.mark.parametrize(
    ("body", "headers", "param", "word"),
    [
        (form([], {"file": b"x"}), FORM, "model", "'model' is required"),
        (form([("model", "")], {"file": b"x"}), FORM, "model", "'model' is required"),
        (json.dumps({"model": "w"}).encode(), {}, None, "must be a form"),
        (form([("model", "w")], {"file": b"x"})[:-9], FORM, None, "last boundary is missing"),
        (b"", FORM, None, "last boundary is missing"),
    ],
)
def test_what_is_no_form_with_a_model_is_refused(play, body, headers, param, word):
    async def scenario(stage):
        engine = await recording(stage)
        reply = await stage.post(PATH, body, headers=headers)
        assert (reply.status, reply.error["param"]) == (400, param)
        assert word in reply.error["message"]
        assert not engine.calls

    play(scenario)


def test_a_model_that_does_something_else_says_what(play):
    async def scenario(stage):
        stage.publish("m", await stage.replica("m"), ops=[Op.CHAT])
        await stage.connected()
        reply = await stage.post(PATH, form([("model", "m")], {"file": b"x"}), headers=FORM)
        assert (reply.status, reply.error["message"]) == (
            400,
            "the model 'm' cannot do transcription; it can do: chat",
        )
        reply = await stage.post(PATH, form([("model", "x")], {"file": b"x"}), headers=FORM)
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")

    play(scenario)


def test_a_recording_over_the_limit_is_refused_before_it_is_read(play):
    async def scenario(stage):
        engine = await recording(stage)
        body = form([("model", "w")], {"file": bytes(2000)})
        for headers in (FORM, {**FORM, "content-length": str(len(body))}):
            reply = await stage.post(PATH, [body[:500], body[500:]], headers=headers)
            assert (reply.status, reply.error["code"]) == (413, "payload_too_large")
            assert "1000" in reply.error["message"]
        assert not engine.calls

    play(scenario, max_body_bytes=1000)


def test_another_model_stands_in_under_its_own_name(play):
    async def scenario(stage):
        engine = await recording(stage, "other")
        stage.publish("w", availability=Availability.LOADING, fallback="other")
        reply = await stage.post(PATH, form([("model", "w")], {"file": b"x"}), headers=FORM)
        assert (reply.status, reply.headers["x-xinfer-model"]) == (200, "other")
        assert engine.calls[0].body == form([("model", "other")], {"file": b"x"})

    play(scenario)


def test_the_schema_has_the_forms(play):
    async def scenario(stage):
        schema = (await stage.get("/openapi.json")).json
        body = schema["paths"][PATH]["post"]["requestBody"]["content"]
        assert list(body) == ["multipart/form-data"]
        fields = schema["components"]["schemas"]["TranscriptionBody"]
        assert {"file", "model", "timestamp_granularities[]"} <= fields["properties"].keys()
        assert fields["required"] == ["file", "model"]

    play(scenario)
