"""SGLang for real, on the CPU: its own server behind the engine, with the demo model.

Where its kernels are missing (any machine without a card), ``tests/fakes/sglang`` stands in for them.
"""

import asyncio
import importlib.util
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import xinfer.catalog
from xinfer.catalog import introspect
from xinfer.devices import Budget, Grant, Lease
from xinfer.engines.base import Call, Frame, Head
from xinfer.engines.sglang import ENGINE
from xinfer.errors import ContextOverflow, EndpointFailed, InvalidRequest, LoadFailed
from xinfer.ops import Op

if importlib.util.find_spec("sglang") is None:
    pytest.skip("sglang is not installed in this environment", allow_module_level=True)

pytestmark = pytest.mark.engine("sglang")

CATALOG = Path(xinfer.catalog.__file__).parent / "demo"
STAND_INS = Path(__file__).parents[1] / "fakes" / "sglang"
SPEC = introspect(str(CATALOG / "demo-chat"))
OPTIONS = {"attention_backend": "torch_native", "dtype": "float32", "max_running_requests": 32}
VOCABULARY = SPEC.shape.vocabulary
SLICE = Budget(device_id="cpu", kind="cpu", memory_mib=2_600, total_mib=8_000)
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()), budgets=(SLICE,), model_uid="demo", threads=1)


@pytest.fixture(scope="module", autouse=True)
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("sgl_kernel") is None:
            patch.setenv("PYTHONPATH", str(STAND_INS), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


class Loaded:
    """An engine and the loop that it lives on."""

    def __init__(self, **options: Any) -> None:
        self.others = children()
        self.runner = asyncio.Runner()
        self.stages: list[str] = []
        self.engine = ENGINE()
        load = self.engine.load(SPEC, OPTIONS | options, GRANT, lambda stage, _: self.stages.append(stage))
        try:
            self.runner.run(load)
        except BaseException:
            self.runner.close()
            raise

    def close(self) -> None:
        self.runner.run(self.engine.close())
        self.runner.close()
        assert children() == self.others


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "sglang" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    found = Loaded()
    yield found
    found.close()


async def frames(engine: Any, op: Op, **fields: Any) -> list[Frame]:
    body = json.dumps({"model": "demo", **fields}).encode()
    return [frame async for frame in engine.serve(Call("id", op, body, "demo"))]


async def chat(engine: Any, **fields: Any) -> dict[str, Any]:
    head, *body = await frames(engine, Op.CHAT, temperature=0, **fields)
    assert head == Head(200, ((b"content-type", b"application/json"),))
    return json.loads(b"".join(body))


def test_demo_chat_gives_its_golden_answers_to_32_at_once(loaded):
    golden = json.loads((CATALOG / "golden.json").read_text())["demo-chat"]
    gate = asyncio.Semaphore(32)

    async def ask(entry: dict[str, Any]) -> dict[str, Any]:
        fields = {"messages": entry["messages"]}
        if "tools" in entry:
            fields["tools"] = entry["tools"]
        if "enable_thinking" in entry:
            fields["chat_template_kwargs"] = {"enable_thinking": entry["enable_thinking"]}
        async with gate:
            return await chat(loaded.engine, **fields)

    async def all_of_them() -> list[dict[str, Any]]:
        return await asyncio.gather(*[ask(entry) for entry in golden])

    for entry, answer in zip(golden, loaded.runner.run(all_of_them()), strict=True):
        message = answer["choices"][0]["message"]
        called = [call["function"] for call in message.get("tool_calls") or ()]
        assert [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in called] == entry.get(
            "tool_calls", []
        ), entry
        # SGLang leaves the white space between thoughts and answer to the answer.
        assert (message["content"] or "").strip() == entry["answer"], entry
        assert (message["reasoning_content"] or "").strip() == entry.get("reasoning", ""), entry
        assert answer["usage"]["prompt_tokens"] == entry["prompt_tokens"]
        assert answer["model"] == "demo"
    assert loaded.engine.load_report().running == 0


def test_it_said_how_far_it_was(loaded):
    assert loaded.stages[0] == "starting SGLang"
    assert "reading weights" in loaded.stages
    assert loaded.stages[-1] == "ready"


HELLO = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_stream_says_the_same_in_pieces(loaded):
    async def both() -> tuple[dict[str, Any], list[Frame]]:
        whole = await chat(loaded.engine, messages=HELLO)
        return whole, await frames(loaded.engine, Op.CHAT, messages=HELLO, temperature=0, stream=True)

    whole, (head, *pieces) = loaded.runner.run(both())
    assert isinstance(head, Head)
    assert dict(head.headers)[b"content-type"].startswith(b"text/event-stream")
    events = b"".join(pieces).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 2


def test_a_json_schema_holds(loaded):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = loaded.runner.run(chat(loaded.engine, messages=HELLO, response_format=wanted, max_tokens=100))
    if answer["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["n"], int)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"guided_regex": "[ab]{4}"}, r"[ab]{4}"),
        ({"guided_choice": ["größer", 'say "no"', "😀"]}, r"größer|say \"no\"|😀"),
        ({"guided_json": {"enum": [17, 18]}}, r"\s*1[78]\s*"),
        ({"structured_outputs": {"grammar": 'root ::= "x" [0-9] [0-9]'}}, r"x\d\d"),
    ],
)
def test_an_answer_has_the_form_that_is_asked_for_in_the_words_of_the_other_engines(loaded, asked, expected):
    answer = loaded.runner.run(chat(loaded.engine, messages=HELLO, max_tokens=40, enable_thinking=False, **asked))
    assert re.fullmatch(expected, answer["choices"][0]["message"]["content"])
    _, *body = loaded.runner.run(frames(loaded.engine, Op.COMPLETION, prompt="a", max_tokens=40, **asked))
    assert re.fullmatch(expected, json.loads(b"".join(body))["choices"][0]["text"])


def test_the_tokens_of_a_chat_in_anthropics_form_are_counted(loaded):
    _, *body = loaded.runner.run(frames(loaded.engine, Op.COUNT_TOKENS, messages=HELLO))
    whole = loaded.runner.run(chat(loaded.engine, messages=HELLO, max_tokens=1))
    assert json.loads(b"".join(body))["input_tokens"] == whole["usage"]["prompt_tokens"]


def test_an_abort_ends_the_work(loaded):
    """The server, not only our counter, has nothing left to do."""

    async def leave_early() -> None:
        stream = loaded.engine.serve(
            Call(
                "id",
                Op.COMPLETION,
                json.dumps(
                    {"model": "demo", "prompt": "a", "max_tokens": 1900, "stream": True, "ignore_eos": True}
                ).encode(),
            )
        )
        assert isinstance(await anext(stream), Head)
        await anext(stream)
        assert loaded.engine.load_report().running == 1
        await stream.aclose()
        assert loaded.engine.load_report().running == 0
        server = loaded.engine._server
        while json.loads((await server._client.get("/v1/loads?include=core"))[1])["loads"][0]["num_running_reqs"]:
            pass

    loaded.runner.run(asyncio.wait_for(leave_early(), 20))


def test_its_refusals_keep_their_meaning(loaded):
    with pytest.raises(InvalidRequest, match="temperature"):
        loaded.runner.run(frames(loaded.engine, Op.CHAT, messages=HELLO, temperature=-3))
    with pytest.raises(ContextOverflow):
        loaded.runner.run(frames(loaded.engine, Op.COMPLETION, prompt="word " * 4000, max_tokens=5))


def test_nobody_else_on_the_machine_gets_an_answer(loaded):
    """Its server asks for a key that only its replica knows, and that no command line shows."""

    async def ask_without_the_key() -> int:
        origin = loaded.engine._server._client._origin
        reader, writer = await asyncio.open_connection(origin.host, origin.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        writer.close()
        await writer.wait_closed()
        return status

    assert loaded.runner.run(ask_without_the_key()) == 401
    key = loaded.engine._server._client._common.split("Bearer ")[1].split()[0]
    assert not [child for child in children() if key in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    "fields", [{"prompt": [VOCABULARY]}, {"prompt": "a", "stop_token_ids": [VOCABULARY], "min_tokens": 2}]
)
def test_a_token_that_would_end_its_server_is_refused_and_the_last_one_is_not(loaded, fields):
    with pytest.raises(InvalidRequest, match=f"has the token {VOCABULARY}"):
        loaded.runner.run(frames(loaded.engine, Op.COMPLETION, max_tokens=3, **fields))
    last = {"prompt": "a", "stop_token_ids": [VOCABULARY - 1], "min_tokens": 2}
    for fine in ({"prompt": [VOCABULARY - 1]}, last):
        head, *_ = loaded.runner.run(frames(loaded.engine, Op.COMPLETION, max_tokens=3, **fine))
        assert head.status == 200


def test_a_stream_that_cannot_begin_is_refused_like_a_whole_answer(loaded):
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "wizard"}}}
    for stream in (False, True):
        with pytest.raises(InvalidRequest, match="wizard"):
            loaded.runner.run(chat(loaded.engine, messages=HELLO, response_format=wrong, stream=stream))


def test_usage_says_how_much_of_a_prompt_was_there_already(loaded):
    messages = [{"role": "user", "content": "one two three " * 40}]
    loaded.runner.run(chat(loaded.engine, messages=messages, max_tokens=1))
    usage = loaded.runner.run(chat(loaded.engine, messages=messages, max_tokens=1))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 100


def test_a_wrong_argument_is_the_reason_why_it_does_not_load():
    before = children()
    with pytest.raises(LoadFailed, match="no-such-argument") as refusal:
        Loaded(no_such_argument=1)
    assert "[--" not in refusal.value.message  # hundreds of lines about its usage
    assert children() == before


def test_a_scheduler_that_dies_is_noticed_with_its_last_words():
    """The replica ends then, and is started again. Who hears of it first is a request that it does not answer."""
    loaded = Loaded()

    async def until_it_is_noticed() -> None:
        own = set(children()) - set(loaded.others)
        scheduler = next(child for child in own if "scheduler" in " ".join(child.cmdline()))
        scheduler.send_signal(signal.SIGKILL)
        with pytest.raises(EndpointFailed):
            await chat(loaded.engine, messages=HELLO)

    try:
        loaded.runner.run(asyncio.wait_for(until_it_is_noticed(), 30))
        assert loaded.engine.failure().startswith("SGLang's server ended with ")
        with pytest.raises(EndpointFailed, match="cannot be reached"):
            loaded.runner.run(chat(loaded.engine, messages=HELLO))
    finally:
        loaded.close()
