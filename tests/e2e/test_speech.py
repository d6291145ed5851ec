"""Speech recognition on real servers: the engine that is always there, and vLLM where it was asked for."""

import asyncio
import importlib.util
import os
from pathlib import Path

import openai
import pytest
from fakes.tiny_whisper import LANGUAGE, TONES, said, tone, write_whisper

ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")
ASKED_FOR = os.environ.get("XINFER_TEST_ENGINES", "").split()
LAUNCHES = {
    "whisper": {"memory_mib": 1200},
    "vllm": {"memory_mib": 3800, "dtype": "float32", "enforce_eager": True},
}
LIBRARIES = {"whisper": "av", "vllm": "vllm"}
PRESENT = [
    engine
    for engine, library in LIBRARIES.items()
    if (engine in ASKED_FOR if ASKED_FOR else importlib.util.find_spec(library) is not None)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("models") / "whisper")


@pytest.fixture(scope="module", params=PRESENT)
def server(tmp_path_factory, open_site, folder, request):
    root: Path = tmp_path_factory.mktemp("speech")
    if ENVIRONMENTS:
        (root / "home").mkdir()
        (root / "home" / "environments").symlink_to(ENVIRONMENTS)
    with open_site(root, max_body_bytes=1_000_000) as site:
        site.local()
        launch = {"model_name": "w", "model_path": str(folder), "model_engine": request.param}
        answer = site.call("POST", "/v1/models", json=launch | LAUNCHES[request.param], timeout=600)
        assert answer.is_success, answer.text
        yield site


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def file(word, **how):
    return "sound.wav", tone(word, **how)


def test_many_at_once_each_get_their_own_text(server):
    words = [*TONES] * 4

    async def ask_all():
        async with server.async_client() as client:
            create = client.audio.transcriptions.create
            answers = await asyncio.gather(*[create(model="w", file=file(word)) for word in words])
            return [answer.text.strip() for answer in answers]

    assert asyncio.run(ask_all()) == [said(word) for word in words]


def test_every_format(client):
    create = client.audio.transcriptions.create
    assert create(model="w", file=file(" beta"), response_format="text").strip() == said(" beta")
    subtitles = create(model="w", file=file(" beta"), response_format="srt")
    assert subtitles == f"1\n00:00:00,000 --> 00:00:01,500\n{said(' beta')}\n\n"
    subtitles = create(model="w", file=file(" beta"), response_format="vtt")
    assert subtitles == f"WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n{said(' beta')}\n\n"
    verbose = create(model="w", file=file(" beta"), response_format="verbose_json", timestamp_granularities=["segment"])
    assert (verbose.text.strip(), verbose.language, verbose.duration) == (said(" beta"), LANGUAGE, 1.5)
    assert [(part.start, part.end, part.text.strip()) for part in verbose.segments] == [(0, 1.5, said(" beta"))]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # what the client says of translations
def test_a_translation_and_a_language(client):
    assert client.audio.translations.create(model="w", file=file(" gamma")).text.strip() == said(" gamma")
    answer = client.audio.transcriptions.create(model="w", file=file(" gamma", rate=44_100, channels=2), language="en")
    assert answer.text.strip() == said(" gamma")


def test_a_stream_says_what_the_whole_answer_says(client):
    events = list(client.audio.transcriptions.create(model="w", file=file(" alpha"), stream=True))
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text.strip() == said(" alpha")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"file": ("x.wav", b"no sound")}, "audio|recording"),
        ({"language": "xx"}, "xx"),
        ({"response_format": "xml"}, "must be one of json, text"),
        ({"response_format": "srt", "stream": True}, "cannot be streamed"),
        ({"temperature": 3}, "from 0 to 1"),
        ({"timestamp_granularities": ["word"], "response_format": "verbose_json"}, "times of words"),
    ],
)
def test_bad_input_is_refused(client, fields, word):
    with pytest.raises(openai.BadRequestError, match=word) as refused:
        client.audio.transcriptions.create(**{"model": "w", "file": file(" alpha"), **fields})
    assert refused.value.type == "invalid_request_error"


def test_too_large_a_file_and_another_kind_of_request(client):
    with pytest.raises(openai.APIStatusError, match="XINFER_MAX_BODY_BYTES") as refused:
        client.audio.transcriptions.create(model="w", file=("x.wav", bytes(2_000_000)))
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="it can do: transcription, translation"):
        client.chat.completions.create(model="w", messages=[{"role": "user", "content": "hello"}])
