"""The Whisper engine on a tiny model that tells tones from each other, and on a random one beside the library's own."""

import asyncio
import io
import json
import struct
import wave

import pytest

av = pytest.importorskip("av")
np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fakes.forms import CONTENT_TYPE, form  # noqa: E402
from fakes.tiny_whisper import LANGUAGE, POSITIONS, RATE, TONES, said, tone, write_whisper  # noqa: E402

from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import SSE_HEAD, Call, Load  # noqa: E402
from xinfer.engines.whisper import ENGINE  # noqa: E402
from xinfer.engines.whisper.model import WhisperModel, chooser  # noqa: E402
from xinfer.engines.whisper.recordings import Recording  # noqa: E402
from xinfer.errors import InvalidRequest, LoadFailed, UnsupportedParameter  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402
from xinfer.spec import Format, ModelSpec  # noqa: E402

pytestmark = [
    pytest.mark.engine("whisper"),
    # The library's own use of things that other libraries have deprecated is not ours to fix.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("models") / "whisper")


def spec(folder, **more):
    told = {"kind": Kind.SPEECH_RECOGNITION, "format": Format.SAFETENSORS, "family": "whisper"} | more
    return ModelSpec(name="w", source=str(folder), **told)


def with_engine(folder, scenario):
    async def run():
        engine = ENGINE()
        await engine.load(spec(folder), {}, GRANT, lambda *_: None)
        try:
            return await scenario(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def call(data, *fields, op=Op.TRANSCRIPTION):
    body = form([("model", "w"), *fields], {"file": data})
    return Call("r-1", op, body, "w", (("content-type", CONTENT_TYPE),))


async def answer(engine, data, *fields, op=Op.TRANSCRIPTION):
    head, *body = [frame async for frame in engine.serve(call(data, *fields, op=op))]
    return head, b"".join(body)


def joined(*recordings):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for data in recordings:
            with wave.open(io.BytesIO(data)) as piece:
                file.writeframes(piece.readframes(piece.getnframes()))
    return out.getvalue()


def encoded(data, container, codec):
    """A WAV file in another format."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format=container) as target:
        stream = target.add_stream(codec, rate=48_000)
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48_000)
        for frame in [*source.decode(audio=0), None]:
            for piece in resampler.resample(frame):
                target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    return out.getvalue()


def test_many_at_once_in_every_format_each_get_their_own(folder):
    async def scenario(engine):
        words = [*TONES, ""] * 3
        plain = await asyncio.gather(*[answer(engine, tone(word)) for word in words])
        assert [json.loads(body)["text"] for _, body in plain] == [said(word) if word else "" for word in words]
        assert engine.load_report() == Load()
        return {
            name: await answer(engine, tone(" beta"), ("response_format", name))
            for name in ("text", "srt", "vtt", "verbose_json")
        }

    answers = with_engine(folder, scenario)
    types = {name: dict(head.headers)[b"content-type"].partition(b";")[0] for name, (head, _) in answers.items()}
    assert types == {
        "text": b"text/plain",
        "srt": b"text/plain",
        "vtt": b"text/vtt",
        "verbose_json": b"application/json",
    }
    assert answers["text"][1] == b"beta was heard.\n"
    assert answers["srt"][1] == b"1\n00:00:00,000 --> 00:00:01,500\nbeta was heard.\n\n"
    assert answers["vtt"][1].startswith(b"WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nbeta")
    verbose = json.loads(answers["verbose_json"][1])
    assert (verbose["language"], verbose["duration"], len(verbose["segments"])) == (LANGUAGE, 1.5, 1)
    assert verbose["segments"][0]["avg_logprob"] > -0.1


def test_a_long_recording_is_heard_window_by_window_and_its_times_go_on(folder):
    silence = tone("", 28.5)
    data = joined(tone(" alpha"), silence, tone(" gamma"), silence, tone(" beta"))

    async def scenario(engine):
        _, whole = await answer(engine, data, ("response_format", "verbose_json"))
        head, streamed = await answer(engine, data, ("stream", "true"))
        return json.loads(whole), head, streamed

    whole, head, streamed = with_engine(folder, scenario)
    text = "alpha was heard. gamma was heard. beta was heard."
    assert (whole["text"], whole["duration"]) == (text, 61.5)
    assert [(item["start"], item["end"]) for item in whole["segments"]] == [(0, 1.5), (30, 31.5), (60, 61.5)]
    assert head == SSE_HEAD
    *deltas, done = [json.loads(event.removeprefix("data: ")) for event in streamed.decode().split("\n\n")[:-1]]
    assert [delta["type"] for delta in deltas] == ["transcript.text.delta"] * 3
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == text
    assert (done["type"], done["usage"]) == ("transcript.text.done", {"type": "duration", "seconds": 62})


@pytest.mark.parametrize(
    ("container", "codec"), [("flac", "flac"), ("mp3", "mp3"), ("ogg", "libopus"), ("mp4", "aac"), ("webm", "libopus")]
)
def test_recordings_of_every_format(container, codec):
    data = encoded(tone(" beta", 1.5), container, codec)
    recording = Recording(memoryview(data))
    samples = recording.window(0, 10 * RATE)
    assert len(samples) == pytest.approx(1.5 * RATE, abs=0.1 * RATE)
    spectrum = np.abs(np.fft.rfft(samples[RATE // 2 : RATE]))
    assert 2 * spectrum.argmax() == pytest.approx(TONES[" beta"], abs=4)


def test_a_recording_in_stereo_at_another_rate_is_the_same(folder):
    async def scenario(engine):
        return await answer(engine, tone(" gamma", rate=44_100, channels=2))

    assert json.loads(with_engine(folder, scenario)[1])["text"] == said(" gamma")


def test_windows_are_cut_anywhere_and_what_is_behind_is_dropped():
    recording = Recording(memoryview(joined(tone(" alpha", 3.0), tone(" beta", 3.0))))
    whole = Recording(memoryview(joined(tone(" alpha", 3.0), tone(" beta", 3.0)))).window(0, 10 * RATE)
    for start in (0, RATE, RATE + 1, 4 * RATE, 6 * RATE - 5, 7 * RATE):
        assert np.array_equal(recording.window(start, RATE), whole[start : start + RATE])
    assert recording.seconds == 6.0


@pytest.mark.parametrize("data", [b"no sound at all", tone(" alpha")[:20], b"RIFF" + bytes(2000)])
def test_what_is_no_recording_is_refused(folder, data):
    async def scenario(engine):
        with pytest.raises(InvalidRequest, match=r"recording|sound") as refused:
            await answer(engine, data)
        return refused.value.param

    assert with_engine(folder, scenario) == "file"


def floats(value: float, rate: int = RATE) -> bytes:
    """A WAV file with this as every sample; of a second, unless it says another rate."""
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + 4 * RATE, b"WAVE", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    return head + struct.pack("<4sI", b"data", 4 * RATE) + struct.pack("<f", value) * RATE


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(value):
    with pytest.raises(InvalidRequest, match="no numbers"):
        Recording(memoryview(floats(value))).window(0, RATE)


def test_a_small_file_cannot_claim_to_last_for_hours():
    with pytest.raises(InvalidRequest, match="1 samples per second"):
        Recording(memoryview(floats(0.5, rate=1)))


def test_what_is_louder_than_a_player_plays_is_cut():
    assert set(Recording(memoryview(floats(-1e30))).window(0, RATE).tolist()) == {-1.0}
    assert Recording(memoryview(floats(0.5))).window(0, RATE).tolist() == [0.5] * RATE


def test_wrong_fields_are_refused_and_the_rest_goes_on(folder):
    async def scenario(engine):
        with pytest.raises(InvalidRequest, match="it knows de, en, zh"):
            await answer(engine, tone(" alpha"), ("language", "xx"))
        with pytest.raises(UnsupportedParameter, match="'hotwords'"):
            await answer(engine, tone(" alpha"), ("hotwords", "goose"))
        _, body = await answer(engine, tone(" alpha"), ("language", "en"), op=Op.TRANSLATION)
        assert json.loads(body) == {"text": said(" alpha")}

    with_engine(folder, scenario)


def test_who_leaves_is_listened_to_no_longer(folder):
    hours = joined(*[tone(" alpha", 30.0)] * 4)

    async def scenario(engine):
        frames = engine.serve(call(hours, ("stream", "true"), ("language", "en")))
        beginning = asyncio.ensure_future(anext(frames))
        while engine.load_report() == Load():  # noqa: ASYNC110  it begins in a few turns of this loop
            await asyncio.sleep(0)
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        await frames.aclose()
        assert engine.load_report() == Load()
        _, body = await answer(engine, tone(" beta"))
        assert json.loads(body)["text"] == said(" beta")

    with_engine(folder, scenario)


def test_it_says_what_it_takes():
    assert ENGINE.accepts(spec("x")).ok
    assert "LLM" in ENGINE.accepts(spec("x", kind=Kind.LLM)).reason
    assert "wav2vec2" in ENGINE.accepts(spec("x", family="wav2vec2")).reason
    assert "gguf" in ENGINE.accepts(spec("x", format=Format.GGUF)).reason


def test_another_model_is_no_whisper(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    config["added_tokens"] = [token for token in config["added_tokens"] if token["content"] != "<|notimestamps|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(LoadFailed, match="lacks the marks of Whisper"):
        asyncio.run(ENGINE().load(spec(tmp_path), {}, GRANT, lambda *_: None))


def test_a_random_model_writes_what_the_librarys_own_loop_writes(folder, tmp_path):
    """Greedily, and under the rules of times. The library's loop stops at the same place."""
    torch.manual_seed(3)
    config = transformers.WhisperConfig.from_pretrained(folder, init_std=0.3)
    generation = transformers.GenerationConfig.from_pretrained(folder)
    generation.update(suppress_tokens=[260, 264], begin_suppress_tokens=[269])
    random = transformers.WhisperForConditionalGeneration(config).eval()
    random.generation_config = generation
    random.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model = WhisperModel(tmp_path, torch.device("cpu"), "auto")
    for word in TONES:
        samples = Recording(memoryview(tone(word))).window(0, RATE * 30)
        window = model.listen(samples)
        language, _ = window.first_impression()
        prompt = model.marks.prompt(language, translate=False, room=0)
        ours = [token for token, _ in window.write(prompt, chooser(0.0, None))]
        features = transformers.WhisperFeatureExtractor.from_pretrained(folder)(
            samples, sampling_rate=RATE, return_tensors="pt"
        ).input_features
        theirs = random.generate(
            encoder_outputs=random.model.encoder(features),
            return_timestamps=True,
            language=language,
            task="transcribe",
            max_new_tokens=POSITIONS // 2,
            force_unique_generate_call=True,
        )[0].tolist()
        ours = [token for token in ours if token != model.marks.end]
        assert ours == [token for token in theirs if token != model.marks.end][-len(ours) :]
        assert len(ours) > 3


def test_marks_in_the_prompt_of_a_client_are_text(folder):
    model = WhisperModel(folder, torch.device("cpu"), "auto")
    text = "hi <|endoftext|><|startoftranscript|><|de|> you"
    tokens = model.tokens_of(text)
    assert max(tokens) < model.marks.end
    assert model.text_of(tokens).strip() == text


def test_temperature_and_seed():
    logits = torch.tensor([0.0, 1.0, 0.5])
    assert chooser(0.0, None)(logits) == 1
    picks = [[chooser(1.0, seed)(logits) for _ in range(1)] for seed in range(40)]
    assert picks == [[chooser(1.0, seed)(logits)] for seed in range(40)]
    assert len({pick[0] for pick in picks}) == 3
