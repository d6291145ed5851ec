"""Answers held to a grammar, on real models: random weights write nothing but what the grammar lets through, and
demo-chat, which knows what to call, writes calls that are forced."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llguidance")

from fakes.tiny_qwen import write_tiny_qwen

import xinfer.catalog
from xinfer.devices import Grant, Lease
from xinfer.engines.base import SSE_HEAD, Call
from xinfer.engines.transformers import ENGINE
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

pytestmark = pytest.mark.engine("transformers")

DEMO = Path(xinfer.catalog.__file__).parent / "demo" / "demo-chat"
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }} {{ m.content }}<|end|>{% endfor %}"
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}<|turn|>assistant "
)
TEXT = Path(__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("tiny"), TEXT, TEMPLATE)


def with_model(folder: Path, use: Callable[[Any], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        engine = ENGINE()
        spec = ModelSpec(name="m", kind=Kind.LLM, source=str(folder), format=Format.SAFETENSORS)
        grant = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
        await engine.load(spec, {}, grant, lambda _stage, _fraction: None)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def ask(engine: Any, op: Op = Op.COMPLETION, **fields: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": "def"} if op is Op.COMPLETION else {"messages": USER}
    body = json.dumps({"model": "m", **asked, **fields}).encode()
    _, answer = [frame async for frame in engine.serve(Call("id", op, body, "m"))]
    return json.loads(answer)


USER = [{"role": "user", "content": "What is the weather in Paris?"}]

# --- random weights ---

SHORT = {"type": "string", "maxLength": 6}
SCHEMAS: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "object": (
        {
            "type": "object",
            "properties": {"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
        lambda value: value.keys() == {"name", "age"} and len(value["name"]) <= 6 and 0 <= value["age"] <= 120,
    ),
    "list": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
        lambda value: 2 <= len(value) <= 4 and all(isinstance(item, bool) for item in value),
    ),
    "choice of types": (
        {"anyOf": [{"const": None}, {"type": "array", "items": {"enum": ["é", 1, True]}, "maxItems": 3}]},
        lambda value: value is None or all(item in ("é", 1, True) for item in value),
    ),
    "nested": (
        {
            "type": "object",
            "properties": {"to": {"$ref": "#/$defs/point"}, "tag": {"type": "string", "pattern": "^[a-c]{3}$"}},
            "required": ["to", "tag"],
            "additionalProperties": False,
            "$defs": {
                "point": {
                    "type": "object",
                    "properties": {"x": {"enum": [1, 2, 3]}},
                    "required": ["x"],
                    "additionalProperties": False,
                }
            },
        },
        lambda value: value["to"]["x"] in (1, 2, 3) and re.fullmatch("[a-c]{3}", value["tag"]) is not None,
    ),
}


def json_schema(name: str) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[name][0]}}}


def test_random_weights_write_valid_json_and_nothing_else(tiny):
    asked = [(name, seed) for name in SCHEMAS for seed in range(6)]

    async def use(engine: Any) -> list[dict[str, Any]]:
        return await asyncio.gather(
            *[
                ask(engine, temperature=1.5 if seed else 0, seed=seed, max_tokens=300, **json_schema(name))
                for name, seed in asked
            ]
        )

    complete = 0
    for (name, _), answer in zip(asked, with_model(tiny, use), strict=True):
        choice = answer["choices"][0]
        if choice["finish_reason"] == "stop":
            complete += 1
            assert SCHEMAS[name][1](json.loads(choice["text"])), choice["text"]
    assert complete > len(asked) // 2  # the rest ran out of tokens


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"guided_choice": ["red", "green", "blé"]}, "red|green|blé"),
        ({"guided_grammar": 'root ::= "a" [0-9] | "b" root'}, "b*a[0-9]"),
        ({"structured_outputs": {"grammar": 'start: "x" start | "y"'}}, "x*y"),
        ({"structured_outputs": {"json_object": True, "disable_any_whitespace": True}, "max_tokens": 2}, r"\{.*"),
    ],
)
def test_other_forms(tiny, fields, pattern):
    async def use(engine: Any) -> list[dict[str, Any]]:
        asked = {"temperature": 1, "max_tokens": 60, **fields}
        return await asyncio.gather(*[ask(engine, seed=seed, **asked) for seed in range(4)])

    for answer in with_model(tiny, use):
        assert re.fullmatch(pattern, answer["choices"][0]["text"]), answer


def test_those_without_a_grammar_do_not_notice_those_with_one(tiny):
    plain = [
        {"temperature": 0, "max_tokens": 40, "ignore_eos": True},
        {"temperature": 1, "seed": 5, "max_tokens": 40, "ignore_eos": True, "logprobs": 2},
        {"temperature": 0.8, "seed": 6, "top_p": 0.9, "max_tokens": 40, "ignore_eos": True, "frequency_penalty": 1},
    ]

    async def use(engine: Any) -> tuple[list[Any], list[Any], list[Any]]:
        alone = [await ask(engine, **fields) for fields in plain]
        mixed = [ask(engine, **fields) for fields in plain]
        held = [ask(engine, temperature=1, seed=seed, max_tokens=80, **json_schema("object")) for seed in range(5)]
        together = await asyncio.gather(*mixed, *held)
        fields = {"temperature": 1, "max_tokens": 80, **json_schema("object")}
        return alone, together, [await ask(engine, seed=seed, **fields) for seed in range(5)]

    alone, together, again = with_model(tiny, use)
    texts = [answer["choices"][0]["text"] for answer in together]
    assert texts[:3] == [answer["choices"][0]["text"] for answer in alone]
    assert texts[3:] == [answer["choices"][0]["text"] for answer in again]


def test_several_choices_with_a_seed_each_have_the_form(tiny):
    async def use(engine: Any) -> list[Any]:
        asked = {"n": 4, "seed": 3, "temperature": 1, "guided_regex": "[a-z]{8}", "max_tokens": 20}
        return [await ask(engine, **asked) for _ in range(2)]

    first, second = with_model(tiny, use)
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert all(re.fullmatch("[a-z]{8}", text) for text in texts)
    assert len(set(texts)) == 4


def test_limits_stop_strings_and_log_probabilities_work_as_ever(tiny):
    async def use(engine: Any) -> list[Any]:
        return [
            await ask(engine, guided_regex="[a-z]{300}", temperature=0, max_tokens=10),
            await ask(engine, guided_regex="ab-?cd", temperature=0, stop="c"),
            await ask(engine, guided_choice=["abc"], temperature=0, logprobs=2),
        ]

    cut, stopped, scored = (answer["choices"][0] for answer in with_model(tiny, use))
    assert cut["finish_reason"] == "length"
    assert re.fullmatch("[a-z]+", cut["text"])
    assert stopped["finish_reason"] == "stop"
    assert re.fullmatch("ab-?", stopped["text"])
    assert scored["text"] == "".join(scored["logprobs"]["tokens"]) == "abc"
    assert all(value < 0 for value in scored["logprobs"]["token_logprobs"])


def test_a_bad_schema_is_refused_and_the_others_go_on(tiny):
    async def use(engine: Any) -> tuple[list[Any], Any]:
        bad = ask(engine, guided_json={"type": "objct"})
        good = ask(engine, guided_choice=["yes"])
        return await asyncio.gather(bad, good, return_exceptions=True), await ask(engine, guided_choice=["no"])

    (refused, good), later = with_model(tiny, use)
    assert isinstance(refused, InvalidRequest)
    assert (refused.status, refused.param) == (400, "guided_json")
    assert "objct" in refused.message
    assert good["choices"][0]["text"] == "yes"
    assert later["choices"][0]["text"] == "no"


# --- tools ---


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = tool("get_weather", city={"type": "string"})
ADD = tool("add", a={"type": "number"}, b={"type": "number"})


def calls_in(answer: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    calls = answer["choices"][0]["message"].get("tool_calls", [])
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def test_random_weights_call_what_they_must(tiny):
    both = {
        "tools": [tool("f", x={"enum": [1, 2]}), tool("g", y={"type": "boolean"})],
        "temperature": 1.5,
        "max_tokens": 200,
        "parallel_tool_calls": False,
    }

    async def use(engine: Any) -> tuple[list[Any], list[Any]]:
        named = {"type": "function", "function": {"name": "g"}}
        required = [ask(engine, Op.CHAT, tool_choice="required", seed=seed, **both) for seed in range(6)]
        chosen = [ask(engine, Op.CHAT, tool_choice=named, seed=seed, **both) for seed in range(3)]
        return await asyncio.gather(*required), await asyncio.gather(*chosen)

    required, named = with_model(tiny, use)
    for answer in (*required, *named):
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        [(name, arguments)] = calls_in(answer)
        assert arguments.keys() == ({"x"} if name == "f" else {"y"})
    assert {calls_in(answer)[0][0] for answer in named} == {"g"}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": "required"}, ["get_weather"]),
        ({"tool_choice": "required", "enable_thinking": True}, ["get_weather"]),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, ["add"]),
        ({"tool_choice": "auto"}, ["get_weather"]),
        ({"tool_choice": "none"}, []),
        ({"response_format": {"type": "json_object"}}, ["get_weather"]),
        ({"messages": [{"role": "user", "content": "Hello!"}], "tool_choice": "required"}, ["add"]),
        (
            {
                "messages": [{"role": "user", "content": "What is the weather in Paris and in Berlin?"}],
                "tool_choice": "required",
            },
            ["get_weather", "get_weather"],
        ),
    ],
)
def test_demo_chat_calls_what_it_must(fields, names):
    async def use(engine: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        asked = {"tools": [WEATHER, ADD], "temperature": 0, "max_tokens": 100, **fields}
        body = json.dumps({"model": "m", "messages": USER, **asked, "stream": True}).encode()
        head, *rest = [frame async for frame in engine.serve(Call("id", Op.CHAT, body, "m"))]
        assert head == SSE_HEAD
        chunks = [json.loads(line[6:]) for line in b"".join(rest).decode().split("\n\n")[:-2]]
        return await ask(engine, Op.CHAT, **asked), chunks

    answer, chunks = with_model(DEMO, use)
    calls = calls_in(answer)
    assert [name for name, _ in calls] == names
    assert ("get_weather", {"city": "Paris"}) in calls or "get_weather" not in names
    assert bool(answer["choices"][0]["message"].get("reasoning_content")) == ("enable_thinking" in fields)
    streamed: dict[int, str] = {}
    for chunk in chunks:
        for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
            streamed[call["index"]] = streamed.get(call["index"], "") + call["function"]["arguments"]
    assert [json.loads(arguments) for arguments in streamed.values()] == [arguments for _, arguments in calls]
    assert chunks[-1]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"]


def test_strict_tools_keep_their_schema_and_plain_answers_stay_plain():
    strict = tool("get_weather", city={"enum": ["Oslo", "Rome"]})
    strict["function"]["strict"] = True

    async def use(engine: Any) -> list[Any]:
        hello = [{"role": "user", "content": "Hello!"}]
        return [
            await ask(engine, Op.CHAT, tools=[strict], temperature=0, max_tokens=60),
            await ask(engine, Op.CHAT, tools=[strict], temperature=0, max_tokens=60, messages=hello),
        ]

    called, greeted = with_model(DEMO, use)
    [(name, arguments)] = calls_in(called)
    assert name == "get_weather"
    assert arguments["city"] in ("Oslo", "Rome")
    assert greeted["choices"][0]["message"]["content"] == "Hello! How can I help you?"
