"""The wire format of transcriptions."""

import json

import pytest
from fakes.forms import CONTENT_TYPE, form

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.ops import Op
from xinfer.protocols.transcriptions import (
    Segment,
    Transcript,
    TranscriptFormat,
    encode_transcript,
    parse_transcription,
    refuse_others,
)

TRANSCRIPT = Transcript(
    text="Hello. --> there",
    language="en",
    duration=3661.2,
    segments=[
        Segment(start=0.0, end=1.5, text=" Hello."),
        Segment(start=3660.0, end=3661.2, text=" --> \n there"),
    ],
)


def parse(*fields, op=Op.TRANSCRIPTION, files=None):
    given = {"file": b"RIFF"} if files is None else files
    return parse_transcription(op, CONTENT_TYPE, form([("model", "m"), *fields], given))


def test_what_is_not_said_is_as_openai_has_it():
    request = parse()
    assert (request.format, request.language, request.prompt, request.temperature) == (
        TranscriptFormat.JSON,
        None,
        "",
        0,
    )
    assert (request.stream, request.translate, request.others) == (False, False, ())
    assert parse(op=Op.TRANSLATION).translate


def test_every_field_is_read():
    request = parse(
        ("language", " DE "),
        ("prompt", "names"),
        ("response_format", "verbose_json"),
        ("temperature", "0.5"),
        ("seed", "7"),
        ("stream", "false"),
        ("timestamp_granularities[]", "segment"),
        ("chunking_strategy", "auto"),
        ("user", "me"),
    )
    assert (request.language, request.prompt, request.format) == ("de", "names", TranscriptFormat.VERBOSE_JSON)
    assert (request.temperature, request.seed, request.others) == (0.5, 7, ())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("response_format", "xml")], "response_format"),
        ([("temperature", "hot")], "temperature"),
        ([("temperature", "1.5")], "temperature"),
        ([("temperature", "nan")], "temperature"),
        ([("stream", "maybe")], "stream"),
        ([("stream", "true"), ("response_format", "srt")], "stream"),
        ([("seed", "1.5")], "seed"),
        ([("timestamp_granularities[]", "segment")], "timestamp_granularities"),
        ([("timestamp_granularities[]", "hour"), ("response_format", "verbose_json")], "timestamp_granularities"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(fields, param):
    with pytest.raises(InvalidRequest) as refused:
        parse(*fields)
    assert refused.value.param == param


@pytest.mark.parametrize(("files", "param"), [({}, "file"), ({"file": b""}, "file"), ({"file": b"1", "b": b"2"}, "b")])
def test_there_is_one_recording(files, param):
    with pytest.raises(InvalidRequest) as refused:
        parse(files=files)
    assert refused.value.param == param


def test_what_is_not_done_is_refused_rather_than_ignored():
    with pytest.raises(UnsupportedParameter, match="times of words"):
        parse(("timestamp_granularities[]", "word"), ("response_format", "verbose_json"))
    request = parse(("include[]", "logprobs"), ("hotwords", "x"))
    with pytest.raises(UnsupportedParameter) as refused:
        refuse_others(request, "whisper")
    assert refused.value.param == "hotwords"
    assert request.others == ("hotwords", "include[]")


def test_answers_in_every_format():
    def written(name, translate=False):
        return encode_transcript(TRANSCRIPT, TranscriptFormat(name), translate=translate)

    usage = {"type": "duration", "seconds": 3662}
    assert json.loads(written("json")) == {"text": TRANSCRIPT.text, "usage": usage}
    assert json.loads(written("json", translate=True)) == {"text": TRANSCRIPT.text}
    assert written("text") == b"Hello. --> there\n"
    assert written("srt").decode() == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n2\n01:01:00,000 --> 01:01:01,200\n-> there\n\n"
    )
    assert written("vtt").decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello.\n\n01:01:00.000 --> 01:01:01.200\n-> there\n\n"
    )
    verbose = json.loads(written("verbose_json", translate=True))
    assert (verbose["task"], verbose["language"], verbose["duration"]) == ("translate", "en", 3661.2)
    assert [segment["id"] for segment in verbose["segments"]] == [0, 1]
