"""Every switch of the echo engine, since so many other tests and the benchmarks rely on them."""

import asyncio
import base64
import json
import math
import os
import signal
import subprocess
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer import plugins
from xinfer.devices import Grant, Lease
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Call, Load
from xinfer.engines.echo import ENGINE, EchoEngine
from xinfer.engines.echo.hashing import hashed_vector
from xinfer.engines.echo.pace import Metronome
from xinfer.engines.echo.text import Answer, last_user_text, tokens_of
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, UnsupportedParameter
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

SPEC = ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE)
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))


class InstantLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer, so that waiting takes no time and can be measured exactly."""

    _now = 1000.0

    def time(self):
        return self._now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()


def run(main):
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        return runner.run(main)


async def loaded(progress=lambda *_: None, **options) -> EchoEngine:
    engine = EchoEngine()
    await engine.load(SPEC, options, GRANT, progress)
    return engine


def call(op: Op, **body) -> Call:
    return Call("r1", op, json.dumps({"model": "m"} | body).encode(), "m")


def chat(text="one two three", **more) -> Call:
    return call(Op.CHAT, messages=[{"role": "user", "content": text}], **more)


async def frames(engine, request):
    return [frame async for frame in engine.serve(request)]


def answer(request, **options):
    """The JSON of an answer that is not streamed."""

    async def main():
        head, *body = await frames(await loaded(**options), request)
        assert head == JSON_HEAD
        return json.loads(b"".join(body))

    return run(main())


def events(request, **options):
    """The events of a stream; each frame is one or more whole events."""

    async def main():
        head, *body = await frames(await loaded(**options), request)
        assert head == SSE_HEAD
        assert all(frame.startswith(b"data: ") and frame.endswith(b"\n\n") for frame in body)
        texts = [event.removeprefix("data: ") for event in b"".join(body).decode().split("\n\n")[:-1]]
        assert texts.pop() == "[DONE]"
        return [json.loads(text) for text in texts]

    return run(main())


def test_it_is_found_needs_nothing_and_takes_only_models_without_weights():
    assert plugins.engines()["echo"] is ENGINE is EchoEngine
    assert EchoEngine.available().ok
    assert EchoEngine.accepts(SPEC).ok
    other = ModelSpec(name="m", kind=Kind.LLM, source="/m", format=Format.SAFETENSORS)
    assert not EchoEngine.accepts(other).ok
    assert "named 'echo'" in EchoEngine.accepts(other).reason


# --- what it says -----------------------------------------------------------------------------------------------------


@given(st.text())
def test_tokens_joined_are_the_text_again(text):
    assert "".join(tokens_of(text)) == text


@given(text=st.text(alphabet="ab ", max_size=30), limit=st.none() | st.integers(1, 5), stop=st.text("ab ", min_size=1))
def test_an_answer_keeps_its_limit_and_ends_before_its_stop_string(text, limit, stop):
    answer = Answer(text, limit, [stop])
    assert text.startswith(answer.text)
    assert "".join(answer) == answer.text
    assert stop not in answer.text
    assert limit is None or answer.completion_tokens <= limit
    assert (answer.finish_reason == "length") <= (answer.completion_tokens == limit)


def test_it_repeats_the_last_user_message():
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "sec"}, {"type": "text", "text": "ond"}]},
        {"role": "assistant", "content": None, "refusal": "no"},
    ]
    assert last_user_text(messages) == "second"
    assert last_user_text([{"role": "system", "content": "alone"}]) == "alone"
    assert last_user_text([{"role": "assistant", "content": None}]) == ""
    assert answer(call(Op.CHAT, messages=messages))["choices"][0]["message"]["content"] == "second"


def test_chat():
    got = answer(chat(n=2, max_tokens=2))
    assert got["id"] == "chatcmpl-r1"
    assert [choice["message"]["content"] for choice in got["choices"]] == ["one two"] * 2
    assert [choice["finish_reason"] for choice in got["choices"]] == ["length"] * 2
    assert got["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_chat_as_a_stream():
    *chunks, usage = events(chat(stream=True, n=2, stop="three", stream_options={"include_usage": True}))
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["one two "] * 2
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == ["stop"] * 2
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}


@pytest.mark.parametrize("stream", [False, True])
def test_completions(stream):
    request = call(Op.COMPLETION, prompt=["a b", "c"], n=2, stream=stream)
    parts = events(request) if stream else [answer(request)]
    texts = {}
    for part in parts:
        for choice in part["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "a b", 1: "a b", 2: "c", 3: "c"}


def test_completions_of_token_ids():
    assert answer(call(Op.COMPLETION, prompt=[7, 8]))["choices"][0]["text"] == "7 8"


def test_embeddings_are_near_each_other_where_texts_share_words():
    got = answer(call(Op.EMBEDDING, input=["the red fox", "the red  FOX", "a red fox", "tax law"]))
    vectors = [item["embedding"] for item in got["data"]]
    assert [len(vector) for vector in vectors] == [64] * 4
    for vector in vectors:
        assert math.isclose(sum(value * value for value in vector), 1.0, rel_tol=1e-5)
    near, far = (sum(a * b for a, b in zip(vectors[0], vectors[i], strict=True)) for i in (2, 3))
    assert vectors[0] == vectors[1]
    assert near > far
    assert got["usage"]["prompt_tokens"] == 11


def test_embeddings_as_base64_and_of_token_ids():
    coded = answer(call(Op.EMBEDDING, input=[[1, 2]], encoding_format="base64"), dimensions=8)["data"][0]["embedding"]
    plain = answer(call(Op.EMBEDDING, input=[1, 2], dimensions=8), dimensions=8)["data"][0]["embedding"]
    assert array("f", base64.b64decode(coded)).tolist() == pytest.approx(plain)
    with pytest.raises(UnsupportedParameter) as caught:
        answer(call(Op.EMBEDDING, input="x", dimensions=4), dimensions=8)
    assert caught.value.param == "dimensions"


def test_the_vector_of_nothing_is_zero():
    assert hashed_vector([], 4).tolist() == [0.0] * 4


def test_rerank_puts_the_document_with_the_words_of_the_query_first():
    got = answer(call(Op.RERANK, query="red fox", documents=["tax law", "a blue fox", "the red fox"], top_n=2))
    assert [result["index"] for result in got["results"]] == [2, 1]
    assert got["id"] == "rerank-r1"


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "param", "counts"),
    [
        (chat("a b c d e"), "messages", "asked for 5"),
        (chat("a b", max_tokens=3), "messages", "asked for 5"),
        (call(Op.COMPLETION, prompt=["a", "a b c d e"]), "prompt", "asked for 5"),
    ],
)
def test_what_does_not_fit_into_the_context_is_refused_with_both_numbers(request_, param, counts):
    with pytest.raises(ContextOverflow, match="context has 4 tokens") as caught:
        answer(request_, context_length=4)
    assert counts in caught.value.message
    assert caught.value.param == param


@pytest.mark.parametrize("field", [{"logit_bias": {"1": 1.0}}, {"presence_penalty": 1.0}, {"logprobs": True}])
def test_what_it_cannot_honour_is_refused_by_its_name(field):
    with pytest.raises(UnsupportedParameter) as caught:
        answer(chat(**field))
    assert caught.value.param == next(iter(field))


@pytest.mark.parametrize("request_", [call(Op.EMBEDDING, input=""), call(Op.RERANK, query="q", documents=[])])
def test_what_is_wrong_is_refused_before_the_answer_begins(request_):
    async def main():
        with pytest.raises(InvalidRequest):
            await anext((await loaded()).serve(request_))

    run(main())


@pytest.mark.parametrize(
    "options",
    [{"speed": 1}, {"rate": "fast"}, {"rate": -1}, {"dimensions": 0}, {"context_length": 0}, {"die_after": -1}],
)
def test_an_option_that_is_unknown_or_wrong_is_refused_by_its_name(options):
    with pytest.raises(InvalidRequest) as caught:
        run(loaded(**options))
    assert caught.value.param == next(iter(options))


# --- pace -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_rate_is_kept_by_each_stream_and_not_shared_between_them(stream):
    """Ten answers of three tokens at two tokens per second take 1.0 s together: 0, 0.5 and 1.0 s."""

    async def main():
        engine = await loaded(rate=2)
        await asyncio.gather(*[frames(engine, chat(stream=stream)) for _ in range(10)])
        return asyncio.get_running_loop().time()

    assert run(main()) - InstantLoop._now == pytest.approx(1.0)


def test_without_a_rate_no_time_passes():
    async def main():
        engine = await loaded()
        await asyncio.gather(*[frames(engine, chat(stream=stream)) for stream in (False, True)])
        return asyncio.get_running_loop().time()

    assert run(main()) == InstantLoop._now


def test_a_metronome_does_not_hurry_after_a_rest():
    async def main():
        loop, metronome, beats = asyncio.get_running_loop(), Metronome(2), []
        for pause in (0, 0, 10, 0):
            await asyncio.sleep(pause)
            await metronome.beat()
            beats.append(loop.time())
        return beats

    assert [beat - InstantLoop._now for beat in run(main())] == pytest.approx([0.0, 0.5, 10.5, 11.0])


def test_closing_lets_go_of_whoever_waits():
    async def main():
        engine = await loaded(rate=0.001)
        await frames(engine, chat("x"))
        waiting = asyncio.ensure_future(frames(engine, chat("x")))
        await asyncio.sleep(1)
        assert engine.load_report() == Load(running=1)
        await engine.close()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert engine.load_report() == Load()

    run(main())


def test_a_stream_that_is_closed_counts_no_longer():
    async def main():
        engine = await loaded()
        stream = engine.serve(chat(stream=True))
        assert await anext(stream) == SSE_HEAD
        assert engine.load_report() == Load(running=1)
        await stream.aclose()
        assert engine.load_report() == Load()

    run(main())


# --- misbehaving ------------------------------------------------------------------------------------------------------


def test_a_slow_start_tells_how_far_it_is():
    async def main():
        told = []
        await loaded(lambda stage, fraction: told.append((stage, fraction)), load_delay_s=5)
        return told, asyncio.get_running_loop().time()

    told, seconds = run(main())
    assert seconds - InstantLoop._now == pytest.approx(5.0)
    assert [stage for stage, _ in told] == ["loading"] * 21
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)
    assert told[-1] == ("loading", 1.0)


def test_a_load_can_fail_with_a_reason():
    with pytest.raises(EngineFailed, match="the weights are cut off"):
        run(loaded(fail_load="the weights are cut off"))


def test_it_can_answer_some_requests_and_then_hang():
    async def main():
        engine = await loaded(hang_after=2)
        for _ in range(2):
            assert len(await frames(engine, chat())) == 2
        hanging = asyncio.ensure_future(frames(engine, chat()))
        await asyncio.wait({hanging}, timeout=1000)
        assert not hanging.done()
        hanging.cancel()
        await asyncio.wait({hanging})
        assert engine.load_report() == Load()

    run(main())


def test_it_can_answer_some_requests_and_then_fail():
    async def main():
        engine = await loaded(fail_after=1)
        assert len(await frames(engine, chat())) == 2
        for _ in range(2):
            with pytest.raises(RuntimeError, match="told to fail"):
                await frames(engine, chat())
        assert not engine.failure()

    run(main())


def test_it_can_answer_some_requests_and_then_be_broken_for_good():
    async def main():
        engine = await loaded(break_after=1)
        assert len(await frames(engine, chat())) == 2
        assert not engine.failure()
        with pytest.raises(RuntimeError):
            await frames(engine, chat())
        assert engine.failure()

    run(main())


IN_A_PROCESS = """
import asyncio, json, sys
from xinfer.devices import Grant, Lease
from xinfer.engines.base import Call
from xinfer.engines.echo import EchoEngine
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

async def main():
    engine = EchoEngine()
    spec = ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE)
    grant = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
    await engine.load(spec, json.loads(sys.argv[1]), grant, lambda *_: None)
    body = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "stream": sys.argv[2] == "stream"}
    for _ in range(3):
        print("request", flush=True)
        async for frame in engine.serve(Call("r", Op.CHAT, json.dumps(body).encode(), "m")):
            if type(frame) is bytes:
                print("piece", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("options", "mode", "status", "printed"),
    [
        ({}, "whole", 0, ["request", "piece"] * 3),
        ({"exit_on_load": 3}, "whole", 3, []),
        ({"die_after": 0}, "whole", -signal.SIGKILL, ["request"]),
        ({"die_after": 2}, "whole", -signal.SIGKILL, ["request", "piece", "request", "piece", "request"]),
        ({"die_after_tokens": 2}, "whole", -signal.SIGKILL, ["request"]),
        ({"die_after_tokens": 4}, "whole", -signal.SIGKILL, ["request", "piece", "request"]),
        # The first piece of a stream says who speaks, then come the tokens.
        ({"die_after_tokens": 2}, "stream", -signal.SIGKILL, ["request", "piece", "piece", "piece"]),
    ],
)
def test_it_can_end_its_process(options, mode, status, printed):
    command = [sys.executable, "-c", IN_A_PROCESS, json.dumps(options), mode]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (status, printed), done.stderr
