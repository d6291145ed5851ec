"""One contract for every engine that serves language models: the same demo model, the same questions, real processes.

By default the engines that are importable here. ``make test-engines`` builds the environments of the others first.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

import xinfer.catalog

DEMO = Path(xinfer.catalog.__file__).parent / "demo"
FOLDER = DEMO / "demo-chat"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Case:
    """An engine, and how the demo model is launched with it."""

    name: str
    library: str
    """Where it is importable, the engine can be used without an environment of its own."""
    source: Path = FOLDER
    options: dict[str, Any] = field(default_factory=dict)

    def launch(self, source: Path | None = None) -> dict[str, Any]:
        return {"model_engine": self.name, "model_path": str(source or self.source), **self.options}


COMPACT_JSON = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}
"""A model as small as this one writes blanks for ever where the grammar lets it."""
COMPACT_SGLANG = {"constrained_json_disable_any_whitespace": True}
SGLANG_STAND_INS = {"PYTHONPATH": str(Path(__file__).parents[1] / "fakes" / "sglang")}
"""Its kernels for CPUs are in no package registry; the demo model calls none of them."""
CASES = (
    Case("transformers", "transformers"),
    Case("llama.cpp", "llama_cpp", FOLDER / "demo-chat.gguf"),
    Case("vllm", "vllm", options={"memory_mib": 3500, "dtype": "float32", "enforce_eager": True, **COMPACT_JSON}),
    Case(
        "sglang", "sglang", options={"memory_mib": 4000, "dtype": "float32", "envs": SGLANG_STAND_INS, **COMPACT_SGLANG}
    ),
    Case("mlx", "mlx_lm"),
)
ASKED_FOR = os.environ.get("XINFER_TEST_ENGINES", "").split()
"""Engines that must be there: with an environment of their own under XINFER_TEST_ENVIRONMENTS, or importable."""
ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")


def present() -> list[Case]:
    if ASKED_FOR:
        return [case for case in CASES if case.name in ASKED_FOR]
    return [case for case in CASES if importlib.util.find_spec(case.library) is not None]


@pytest.fixture(scope="module", params=present(), ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site, case):
    root = tmp_path_factory.mktemp("contract")
    if ENVIRONMENTS:
        (root / "home").mkdir()
        (root / "home" / "environments").symlink_to(ENVIRONMENTS)
    with open_site(root) as site:
        site.local()
        answer = site.call("POST", "/v1/models", json={"model_name": "demo", **case.launch()}, timeout=600)
        assert answer.is_success, answer.text
        yield site


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def golden():
    return json.loads((DEMO / "golden.json").read_text(encoding="utf-8"))


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def fields_of(entry: dict[str, Any]) -> dict[str, Any]:
    fields = {"model": "demo", "messages": entry["messages"], "temperature": 0}
    if "tools" in entry:
        fields["tools"] = entry["tools"]
    if "enable_thinking" in entry:
        fields["extra_body"] = {"chat_template_kwargs": {"enable_thinking": entry["enable_thinking"]}}
    return fields


def calls_of(message: Any) -> list[dict[str, Any]]:
    return [
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in message.tool_calls or ()
    ]


def matches(entry: dict[str, Any], message: Any) -> bool:
    """Some engines keep the white space between thoughts and answer."""
    return (
        calls_of(message) == entry.get("tool_calls", []) and (message.content or "").strip() == entry["answer"].strip()
    )


class Streamed:
    """What the chunks of a stream add up to."""

    def __init__(self) -> None:
        self.content = ""
        self.reason = ""
        self.usage: Any = None
        self.calls: dict[int, dict[str, str]] = {}

    def add(self, chunk: Any) -> None:
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            self.content += choice.delta.content or ""
            self.reason = choice.finish_reason or self.reason
            for part in choice.delta.tool_calls or ():
                call = self.calls.setdefault(part.index, {"name": "", "arguments": ""})
                call["name"] += (part.function and part.function.name) or ""
                call["arguments"] += (part.function and part.function.arguments) or ""


def read(stream: Any) -> Streamed:
    streamed = Streamed()
    for chunk in stream:
        streamed.add(chunk)
    return streamed


def test_golden_answers_32_at_once_streamed_and_whole(server, golden):
    entries = golden["demo-chat"]

    async def ask_all() -> list[bool]:
        gate = asyncio.Semaphore(32)

        async def one(number: int, entry: dict[str, Any]) -> bool:
            async with gate:
                if number % 2 or "tools" in entry:
                    answer = await client.chat.completions.create(**fields_of(entry))
                    return (
                        matches(entry, answer.choices[0].message)
                        and answer.usage.prompt_tokens == entry["prompt_tokens"]
                    )
                streamed = Streamed()
                async for chunk in await client.chat.completions.create(**fields_of(entry), stream=True):
                    streamed.add(chunk)
                return streamed.content.strip() == entry["answer"].strip()

        async with server.async_client() as client:
            return await asyncio.gather(*[one(number, entry) for number, entry in enumerate(entries)])

    right = asyncio.run(ask_all())
    assert [entry["messages"] for entry, good in zip(entries, right, strict=True) if not good] == []


def test_a_stream_says_what_the_whole_answer_says(client, golden):
    entry = max(golden["demo-chat"], key=lambda entry: entry["answer_tokens"])
    whole = client.chat.completions.create(**fields_of(entry))
    options = {"include_usage": True}
    streamed = read(client.chat.completions.create(**fields_of(entry), stream=True, stream_options=options))
    assert streamed.content == whole.choices[0].message.content
    assert streamed.reason == whole.choices[0].finish_reason == "stop"
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_a_tool_call_whole_and_streamed(client, golden):
    entry = next(entry for entry in golden["demo-chat"] if entry.get("tool_calls"))
    whole = client.chat.completions.create(**fields_of(entry))
    assert calls_of(whole.choices[0].message) == entry["tool_calls"]
    assert whole.choices[0].finish_reason == "tool_calls"
    streamed = read(client.chat.completions.create(**fields_of(entry), stream=True))
    found = [{**call, "arguments": json.loads(call["arguments"])} for call in streamed.calls.values()]
    assert found == entry["tool_calls"]


def test_a_stop_string_ends_the_answer_before_it(client, golden):
    entry = max(golden["demo-chat"], key=lambda entry: entry["answer_tokens"])
    words = entry["answer"].split()
    stop = " ".join(words[5:8])  # across several tokens
    answer = client.chat.completions.create(**fields_of(entry), stop=[stop]).choices[0]
    assert answer.message.content == entry["answer"].partition(stop)[0]
    assert answer.finish_reason == "stop"
    streamed = read(client.chat.completions.create(**fields_of(entry), stop=[stop], stream=True))
    assert streamed.content == entry["answer"].partition(stop)[0]


def test_max_tokens_cuts_the_answer(client, golden):
    entry = max(golden["demo-chat"], key=lambda entry: entry["answer_tokens"])
    answer = client.chat.completions.create(**fields_of(entry), max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    assert entry["answer"].startswith(answer.choices[0].message.content)


def test_plain_text_is_continued(client, golden):
    entry = golden["demo-chat-completions"][0]
    answer = client.completions.create(model="demo", prompt=entry["prompt"], temperature=0, max_tokens=200)
    assert answer.choices[0].text == entry["answer"]


def test_a_json_schema_holds(client):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    for question in ("Tell me about a person.", "Hello!", "What is 2 + 2?"):
        answer = client.chat.completions.create(**ask(question, max_tokens=200), response_format=form)
        person = json.loads(answer.choices[0].message.content)
        assert set(person) == {"name", "age"}
        assert isinstance(person["name"], str)
        assert 0 <= person["age"] <= 120


def test_log_probabilities_of_the_tokens(client):
    answer = client.chat.completions.create(**ask("Hello!"), logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens).startswith(answer.choices[0].message.content)
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert max(top.logprob for top in token.top_logprobs) == pytest.approx(token.logprob, abs=1e-3)  # greedy


def test_several_choices_and_a_seed(client):
    fields = {**ask("Tell me a short story."), "temperature": 1.5, "max_tokens": 24}
    answers = client.chat.completions.create(**fields, n=3)
    assert sorted(choice.index for choice in answers.choices) == [0, 1, 2]
    again = [client.chat.completions.create(**fields, seed=11).choices[0].message.content for _ in range(2)]
    assert again[0] == again[1]


def test_an_abandoned_stream_stops_within_a_second(server, wait):
    with server.client() as client:
        fields = {**ask("Tell me a short story.", max_tokens=1800, stream=True), "extra_body": {"min_tokens": 1800}}
        stream = client.chat.completions.create(**fields)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        wait(lambda: server.running().get("demo-0"), "the engine works on it")
        stream.close()
        wait(lambda: server.running().get("demo-0") == 0, "the engine stops", 1.0)


def test_a_prompt_beyond_the_context_is_refused_with_numbers(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**ask("one two three " * 3000))
    assert refused.value.code == "context_length_exceeded"
    assert "2048" in refused.value.message


@pytest.mark.parametrize(
    ("fields", "param"), [({"temperature": -1}, "temperature"), ({"top_p": 7}, "top_p"), ({"messages": []}, "messages")]
)
def test_bad_input_is_refused(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**ask("Hello!"), **fields})
    assert refused.value.type == "invalid_request_error"


def test_a_model_that_cannot_be_loaded_says_why(server, case, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(FOLDER, broken)
    weights = broken / ("demo-chat.gguf" if case.source.is_file() else "model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    source = weights if case.source.is_file() else broken
    answer = server.call("POST", "/v1/models", json={"model_name": "broken", **case.launch(source)}, timeout=600)
    assert 400 <= answer.status_code <= 500
    error = answer.json()["error"]
    assert weights.name in error["message"] or "safetensors" in error["message"].lower(), error


def test_a_replica_killed_in_the_middle_of_a_stream_ends_it_with_an_error_and_comes_back(server, wait):
    pid = server.ready_pids("demo")["demo-0"]

    def kill_at_the_first_token(client: openai.OpenAI) -> None:
        fields = ask("Tell me a short story.", max_tokens=1800, stream=True, extra_body={"min_tokens": 1800})
        for chunk in client.chat.completions.create(**fields):
            if chunk.choices and chunk.choices[0].delta.content:
                os.kill(pid, signal.SIGKILL)

    with server.client() as client, pytest.raises(openai.APIError, match="replica"):
        kill_at_the_first_token(client)
    wait(lambda: server.ready_pids("demo").get("demo-0", pid) != pid, "another process took its place", 180)
    with server.client() as client:
        assert client.chat.completions.create(**ask("Hello!")).choices[0].message.content
