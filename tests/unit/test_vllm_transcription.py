"""Speech recognition between OpenAI's clients and vLLM's application, which is played here."""

import asyncio
import json

import pytest
from fakes.forms import CONTENT_TYPE, form

from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Call
from xinfer.engines.vllm.transcription import serve_speech
from xinfer.errors import EngineFailed, InvalidRequest
from xinfer.ops import Op
from xinfer.protocols.multipart import read_form

VERBOSE = {
    "text": " Hello there",
    "language": "en",
    "duration": 3.0,
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.5, "text": " Hello"},
        {"id": 1, "start": 1.5, "end": 3, "text": " there"},
    ],
}


class Played:
    """Answers with given bytes, and keeps what it was asked."""

    def __init__(self, *pieces, head=JSON_HEAD):
        self.pieces = pieces
        self.head = head
        self.asked = None

    async def serve(self, call):
        self.asked = call
        yield self.head
        for piece in self.pieces:
            yield piece


def answer(played, *fields, op=Op.TRANSCRIPTION):
    body = form([("model", "m"), *fields], {"file": b"RIFF"})

    async def collect():
        call = Call("r", op, body, "m", (("content-type", CONTENT_TYPE),))
        return [frame async for frame in serve_speech(played, call)]

    head, *pieces = asyncio.run(collect())
    return head, b"".join(pieces)


def chunk(text=None, **more):
    choices = [] if text is None else [{"delta": {"content": text}}]
    return f"data: {json.dumps({'object': 'transcription.chunk', 'choices': choices, **more})}\n\n".encode()


def test_json_goes_both_ways_as_it_is():
    for name in ("json", "verbose_json"):
        played = Played(json.dumps(VERBOSE).encode())
        fields = [("response_format", name), ("hotwords", "goose")]
        assert answer(played, *fields) == (JSON_HEAD, json.dumps(VERBOSE).encode())
        assert played.asked.body == form([("model", "m"), *fields], {"file": b"RIFF"})


def test_text_is_taken_out_of_its_json():
    head, body = answer(Played(b'{"text": "Hel', b'lo", "usage": {}}'), ("response_format", "text"))
    assert (dict(head.headers)[b"content-type"], body) == (b"text/plain; charset=utf-8", b"Hello\n")


@pytest.mark.parametrize(("name", "mark"), [("srt", "00:00:01,500 --> 00:00:03,000\nthere\n"), ("vtt", "WEBVTT\n\n")])
def test_subtitles_are_made_of_segments(name, mark):
    played = Played(json.dumps(VERBOSE).encode())
    _, body = answer(played, ("response_format", name), ("language", "en"), op=Op.TRANSLATION)
    assert mark in body.decode()
    asked = read_form(CONTENT_TYPE, played.asked.body)
    assert (asked.value("response_format"), asked.value("language")) == ("verbose_json", "en")
    assert bytes(asked.files["file"].place.of(played.asked.body)) == b"RIFF"


def test_a_stream_becomes_openais_events_however_it_is_cut():
    told = chunk(" Hel") + chunk("") + chunk("lo") + chunk(usage={"prompt_tokens": 4, "completion_tokens": 2})
    told += b"data: [DONE]\n\n"
    for size in (1, 7, 1000):
        pieces = [told[start : start + size] for start in range(0, len(told), size)]
        head, body = answer(Played(*pieces, head=SSE_HEAD), ("stream", "true"))
        assert head == SSE_HEAD
        *deltas, done = [json.loads(event.removeprefix("data: ")) for event in body.decode().split("\n\n")[:-1]]
        assert {delta["type"] for delta in deltas} == {"transcript.text.delta"}
        assert "".join(delta["delta"] for delta in deltas) == done["text"] == " Hello"
        usage = {"type": "tokens", "input_tokens": 4, "output_tokens": 2, "total_tokens": 6}
        assert (done["type"], done["usage"]) == ("transcript.text.done", usage)


def test_a_stream_that_fails_is_a_failure():
    with pytest.raises(EngineFailed, match="out of memory"):
        answer(Played(b'data: {"error": {"message": "out of memory"}}\n\n', head=SSE_HEAD), ("stream", "true"))


def test_a_wrong_request_does_not_reach_vllm():
    played = Played()
    with pytest.raises(InvalidRequest):
        answer(played, ("temperature", "hot"))
    assert played.asked is None
