"""What every token engine does, shown with a runner that writes a given text: no library, every case at will."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Grant, Lease
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Available, Call, Frame, Load, Match, NoOptions
from xinfer.engines.token_engine import Candidates, Ending, Limits, LoadedModel, Progress, TokenEngine
from xinfer.engines.token_engine import Sequence as TokenSequence
from xinfer.engines.token_engine.text import AnswerText, Piece
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, NotReady, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.detokenizer import ByteDetokenizer
from xinfer.generation.reasoning import ReasoningSplitter
from xinfer.generation.sampling import Sampling
from xinfer.generation.tool_calls.forms import HERMES
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

END = 256
SPEC = ModelSpec(name="scripted", kind=Kind.LLM, source="", format=Format.NONE)
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}tools <tool_call>{% endif %}"
    "{% if enable_thinking %}{% else %}<think></think>{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


class BytesTokenizer:
    """Every byte is a token, and 256 is the end."""

    vocabulary = frozenset({"<think>", "</think>"})

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return ([END] if add_special else []) + list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token != END).decode("utf-8", "replace")

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer([*(bytes([byte]) for byte in range(256)), b""])

    def pieces(self) -> list[bytes]:
        return [*(bytes([byte]) for byte in range(256)), b""]

    def token_bytes(self, token: int) -> bytes:
        return b"<end>" if token == END else bytes([token])


class ScriptedRunner:
    """Continues every prompt with the same text.

    ``gate``: steps wait until it is open; ``entered``: one has begun; ``failure``: raised behind the gate.
    """

    def __init__(self, text: str) -> None:
        self.tokens = [*text.encode(), END]
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.dropped = threading.Event()
        self.failure: Exception | None = None
        self.active: list[TokenSequence] = []
        self.discarded: list[TokenSequence] = []

    def add(self, sequence: TokenSequence) -> None:
        self.active.append(sequence)

    def discard(self, sequence: TokenSequence) -> None:
        self.active.remove(sequence)
        self.discarded.append(sequence)
        self.dropped.set()

    def has_work(self) -> bool:
        return bool(self.active)

    def step(self) -> list[Progress]:
        assert self.active, "a step where nothing is to be done"
        self.entered.set()
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return [self.advance(sequence) for sequence in list(self.active)]

    def advance(self, sequence: TokenSequence) -> Progress:
        wanted = sequence.prompt_candidates
        if wanted is not None and not wanted:
            wanted += [None, *(Candidates(-1.0, [(token, -1.0)]) for token in sequence.prompt[1:])]
        token = self.tokens[len(sequence.generated)]
        sequence.generated.append(token)
        ending = sequence.ending_after(token)
        if ending is not None:
            self.active.remove(sequence)
        count = sequence.sampling.logprobs
        candidates = None if count is None else Candidates(-0.5, [(token, -0.5), (65, -2.0)][:count])
        return Progress(sequence, token, candidates, ending)

    def report(self) -> Load:
        return Load(running=len(self.active))


class ScriptedEngine(TokenEngine[NoOptions]):
    name = "scripted"
    title = "writes a given text"
    formats = frozenset({Format.NONE})
    install = ""
    preference = 0
    Options = NoOptions

    def __init__(self, text: str, template: str | None = TEMPLATE, context_length: int = 1000) -> None:
        super().__init__()
        self.runner = ScriptedRunner(text)
        self.template = template
        self.context_length = context_length

    @classmethod
    def available(cls) -> Available:
        return Available(True)

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        return Match(True)

    def open_model(self, spec, options, grant, progress) -> LoadedModel:
        return LoadedModel(
            runner=self.runner,
            tokenizer=BytesTokenizer(),
            template=ChatTemplate(self.template, {}) if self.template else None,
            limits=Limits(context_length=self.context_length, vocabulary_size=257, stop_ids=frozenset({END})),
        )


async def frames(engine: ScriptedEngine, op: Op, **fields: Any) -> list[Frame]:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]} if op is Op.CHAT else {"prompt": "hi"}
    body = json.dumps({"model": "m", **asked, **fields}).encode()
    return [frame async for frame in engine.serve(Call("id", op, body, "m"))]


def with_engine(engine: ScriptedEngine, use: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        await engine.load(SPEC, {}, GRANT, lambda _stage, _fraction: None)
        try:
            return await use()
        finally:
            engine.runner.gate.set()
            await engine.close()

    return asyncio.run(main())


def ask(text: str, op: Op = Op.CHAT, **fields: Any) -> dict[str, Any]:
    """The whole answer."""
    engine = ScriptedEngine(text)
    head, body = with_engine(engine, lambda: frames(engine, op, **fields))
    assert head == JSON_HEAD
    return json.loads(body)


def events(text: str, op: Op = Op.CHAT, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    engine = ScriptedEngine(text)
    head, *rest = with_engine(engine, lambda: frames(engine, op, stream=True, **fields))
    assert head == SSE_HEAD
    data = b"".join(rest).decode().split("\n\n")
    assert data[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in data[:-2]]


def joined(chunks: list[dict[str, Any]], choice: int = 0) -> dict[str, Any]:
    """The message that a stream adds up to."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": {}, "finish": None, "scores": []}
    for chunk in chunks:
        for part in chunk["choices"]:
            if part["index"] != choice:
                continue
            delta = part["delta"]
            message["content"] += delta.get("content", "")
            message["reasoning_content"] += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", ()):
                name, arguments = message["calls"].get(call["index"], ("", ""))
                function = call["function"]
                message["calls"][call["index"]] = (name + function.get("name", ""), arguments + function["arguments"])
            message["finish"] = part["finish_reason"] or message["finish"]
            message["scores"] += (part["logprobs"] or {}).get("content", [])
    return message


CASES = [
    ("plain text, with é and 😀.", {}),
    ("plain text", {"stop": "text"}),
    ("one END two END", {"stop": ["two", "END"]}),
    ("cut é off", {"max_tokens": 5}),
    ("some words", {"logprobs": True, "top_logprobs": 2}),
    ("some é words", {"logprobs": True, "stop": "wor"}),
    ("<think>\nhm\n</think>\n\nyes", {"enable_thinking": True}),
    ("<think>\nhm\n</think>\n\nyes", {"enable_thinking": True, "logprobs": True}),
    ("<think>hm", {"enable_thinking": True}),
    (CALL, {"tools": TOOLS}),
    (f"Well.\n{CALL}\n{CALL}", {"tools": TOOLS}),
    (f"Well.\n{CALL}\n{CALL}", {"tools": TOOLS, "parallel_tool_calls": False}),
    (f"<think>use it</think>{CALL}", {"tools": TOOLS, "enable_thinking": True}),
    (CALL, {"tools": TOOLS, "max_tokens": 45}),
    (CALL, {}),
]


@pytest.mark.parametrize(("text", "fields"), CASES)
def test_a_stream_adds_up_to_the_whole_answer(text, fields):
    whole = ask(text, **fields)
    chunks = events(text, stream_options={"include_usage": True}, **fields)
    message = whole["choices"][0]["message"]
    stream = joined(chunks)
    assert stream["content"] == (message["content"] or "")
    assert stream["reasoning_content"] == message.get("reasoning_content", "")
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    assert list(stream["calls"].values()) == calls
    assert stream["finish"] == whole["choices"][0]["finish_reason"]
    assert stream["scores"] == ((whole["choices"][0]["logprobs"] or {}).get("content") or [])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


MIXED = [*"<think>", "</think>", "hm", " ", "\n", "é", "STOP", "ST", "<tool_call>", "</tool_call>", "{", CALL, "a"]


@given(st.lists(st.sampled_from(MIXED), max_size=12).map("".join), st.sampled_from(["", "<think>"]), st.data())
def test_an_answer_does_not_depend_on_how_its_tokens_arrive(text, prompt, data):
    sequence = TokenSequence([0], Sampling(max_tokens=10_000), RunningNowhere())
    tokens = [*text.encode(), END]
    items = [Progress(sequence, token, None, Ending.STOP if token == END else None) for token in tokens]

    def read(batches: list[list[Progress]]) -> tuple[Any, ...]:
        ids = iter(range(100))
        answer = AnswerText(
            BytesTokenizer().detokenizer(),
            ["STOP"],
            reasoning=ReasoningSplitter(prompt),
            tools=HERMES.parser(lambda: f"c{next(ids)}", ()),
        )
        whole = Piece()
        for batch in batches:
            whole.extend(answer.feed(batch))
        calls = [(part.id, part.name) for part in whole.calls if part.id is not None]
        arguments = "".join(part.arguments for part in whole.calls)
        return whole.text, whole.thoughts, calls, arguments, whole.finish, answer.tokens, answer.thought_tokens

    cuts = sorted(data.draw(st.lists(st.integers(0, len(items)), max_size=6)))
    batches = [items[start:end] for start, end in zip([0, *cuts], [*cuts, len(items)], strict=True)]
    assert read(batches) == read([items]) == read([[item] for item in items])


class RunningNowhere:
    """Receives nothing, because nobody runs its sequence."""

    def receive(self, progress: Progress) -> None:
        raise AssertionError

    def fail(self, error: BaseException) -> None:
        raise AssertionError


def test_an_answer_that_the_model_ends():
    answer = ask("hé")
    assert answer["choices"][0]["message"]["content"] == "hé"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["id"] == "chatcmpl-id"
    assert answer["usage"]["completion_tokens"] == len("hé".encode()) + 1  # the end is a token too


def test_an_answer_that_reaches_its_limit():
    answer = ask("hello", max_tokens=3)
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("hel", "length")
    assert answer["usage"]["completion_tokens"] == 3


def test_a_stop_string_ends_the_work_and_is_not_shown():
    engine = ScriptedEngine("one two three " * 5000, context_length=100_000)  # longer than anybody takes to say stop
    body = with_engine(engine, lambda: frames(engine, Op.CHAT, stop="two"))[1]
    answer = json.loads(body)
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("one ", "stop")
    assert answer["usage"]["completion_tokens"] == len("one two")
    assert len(engine.runner.discarded) == 1
    assert ask("one two", stop="one", min_tokens=5)["choices"][0]["message"]["content"] == "one two"


def test_stop_tokens_and_the_end_can_be_chosen():
    assert ask("a|b", stop_token_ids=[ord("|")])["choices"][0]["message"]["content"] == "a"
    ignored = ask("ab", ignore_eos=True, max_tokens=3)
    assert ignored["choices"][0]["finish_reason"] == "length"
    assert ignored["usage"]["completion_tokens"] == 3


def test_thoughts_are_apart_from_the_answer():
    message = ask("<think>\nhm\n</think>\n\nyes", enable_thinking=True)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "yes")
    closed = ask("<think>not thoughts</think>")["choices"][0]["message"]
    assert closed["content"] == "<think>not thoughts</think>"  # the prompt closed them already


def test_thoughts_are_counted():
    thoughts = "<think>\nhm\n</think>"
    usage = ask(f"{thoughts}\n\nyes", enable_thinking=True)["usage"]
    # From the letter that completes the first tag to the one that completes the last: every byte is a token here.
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len(thoughts) - len("<think>") + 1}
    assert ask("no thoughts", enable_thinking=True)["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert "completion_tokens_details" not in ask("yes")["usage"]  # the prompt closed them already


# --- answers held to a form (the tests with real models show how they are held to it) ---


def test_an_answer_is_complete_with_its_form():
    answer = ask("yes and more", guided_choice=["yes", "no"])
    assert answer["choices"][0]["message"]["content"] == "yes"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 3
    assert ask("yes", guided_regex="[a-z]+")["choices"][0]["message"]["content"] == "yes"  # the end token ends it


def test_a_sequence_that_leaves_its_form_fails_alone():
    engine = ScriptedEngine("yes")

    async def use() -> list[Any]:
        left = frames(engine, Op.CHAT, guided_choice=["no"])
        held = frames(engine, Op.CHAT, guided_choice=["yes"])
        return await asyncio.gather(left, held, return_exceptions=True)

    left, held = with_engine(engine, use)
    assert isinstance(left, InvalidRequest)
    assert left.param == "guided_choice"
    assert json.loads(held[1])["choices"][0]["message"]["content"] == "yes"


def test_forced_calls_are_read_like_others():
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", named):
        answer = ask(call, tools=TOOLS, tool_choice=choice)["choices"][0]
        assert answer["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
        assert answer["finish_reason"] == "tool_calls"


def test_tool_calls_only_where_tools_are_given():
    answer = ask(CALL, tools=TOOLS)["choices"][0]
    assert answer["message"]["content"] is None
    assert answer["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert answer["message"]["tool_calls"][0]["id"].startswith("call_")
    assert answer["finish_reason"] == "tool_calls"
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        plain = ask(CALL, **fields)["choices"][0]
        assert (plain["message"]["content"], plain["finish_reason"]) == (CALL, "stop")


def test_a_single_tool_call_ends_the_answer():
    answer = ask(f"{CALL}\n{CALL}", tools=TOOLS, parallel_tool_calls=False)
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1
    assert answer["usage"]["completion_tokens"] == CALL.index("}") + 1  # the arguments are complete; the rest is sure


def test_one_call_is_read_where_the_template_could_not_show_more():
    one_at_a_time = (
        TEMPLATE + "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one!') }}"
        "{% endfor %}"
    )

    def calls(template: str, **fields: Any) -> int:
        engine = ScriptedEngine(f"{CALL}\n{CALL}", template)
        _, body = with_engine(engine, lambda: frames(engine, Op.CHAT, tools=TOOLS, **fields))
        return len(json.loads(body)["choices"][0]["message"]["tool_calls"])

    assert calls(TEMPLATE) == 2
    assert calls(one_at_a_time) == 1
    assert calls(one_at_a_time, parallel_tool_calls=True) == 2
    assert calls(TEMPLATE, parallel_tool_calls=False) == 1


def test_several_choices():
    answer = ask("abc", n=3)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["abc"] * 3
    assert answer["usage"] == {"prompt_tokens": 24, "completion_tokens": 12, "total_tokens": 36}
    chunks = events("abc", n=3)
    assert [joined(chunks, choice)["content"] for choice in range(3)] == ["abc"] * 3


def test_log_probabilities_have_bytes_and_candidates():
    content = ask("hé", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in content] == [[byte] for byte in "hé".encode()]
    assert [entry["token"] for entry in content[0]["top_logprobs"]] == ["h", "A"]
    assert ask("h", logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


# --- completions ---


def test_completions_of_several_prompts():
    answer = ask("abc", Op.COMPLETION, prompt=["x", "yy"], n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(index, "abc") for index in range(4)]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}
    chunks = events("abc", Op.COMPLETION, prompt=["x", "yy"])
    texts = ["".join(p["text"] for c in chunks for p in c["choices"] if p["index"] == index) for index in range(2)]
    assert texts == ["abc", "abc"]


def test_completions_stop_after_sixteen_tokens_unless_told():
    answer = ask("x" * 100, Op.COMPLETION)
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (16, "length")


def test_completions_echo_the_prompt():
    assert ask("abc", Op.COMPLETION, prompt="x é ", echo=True)["choices"][0]["text"] == "x é abc"
    assert ask("abc", Op.COMPLETION, prompt=[120, 121], echo=True)["choices"][0]["text"] == "xyabc"
    chunks = events("abc", Op.COMPLETION, prompt="x ", echo=True)
    assert "".join(part["text"] for chunk in chunks for part in chunk["choices"]) == "x abc"


def test_completions_with_log_probabilities_of_the_prompt():
    logprobs = ask("ab", Op.COMPLETION, prompt=[120, 121], echo=True, logprobs=1)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["x", "y", "a", "b"]
    assert logprobs["token_logprobs"] == [None, -1.0, -0.5, -0.5]
    assert logprobs["top_logprobs"] == [None, {"y": -1.0}, {"a": -0.5}, {"b": -0.5}]
    assert logprobs["text_offset"] == [0, 1, 2, 3]


def test_completions_of_the_prompt_alone():
    asked = {"prompt": [120, 121], "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = ask("ab", Op.COMPLETION, **asked)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("xy", "length")
    assert choice["logprobs"]["tokens"] == ["x", "y"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}
    parts = [part for chunk in events("ab", Op.COMPLETION, **asked) for part in chunk["choices"]]
    assert "".join(part["text"] for part in parts) == "xy"
    assert parts[-1]["finish_reason"] == "length"


# --- refusals ---


@pytest.mark.parametrize(
    ("op", "fields", "kind", "param"),
    [
        (Op.CHAT, {"messages": [{"role": "user", "content": "x" * 2000}]}, ContextOverflow, "messages"),
        (Op.CHAT, {"max_tokens": 999}, ContextOverflow, "messages"),
        (Op.COMPLETION, {"prompt": [1] * 1000}, ContextOverflow, "prompt"),
        (Op.COMPLETION, {"prompt": [257]}, InvalidRequest, "prompt"),
        (Op.COMPLETION, {"prompt": [[1], [999]]}, InvalidRequest, "prompt[1]"),
        (Op.CHAT, {"logit_bias": {"300": 1}}, InvalidRequest, "logit_bias"),
        (Op.CHAT, {"stop_token_ids": [300]}, InvalidRequest, "stop_token_ids"),
        (Op.CHAT, {"response_format": {"type": "json_object"}, "min_tokens": 3}, InvalidRequest, "min_tokens"),
        (Op.COMPLETION, {"guided_regex": "a+", "ignore_eos": True}, InvalidRequest, "ignore_eos"),
        (Op.COMPLETION, {"guided_regex": "(a"}, InvalidRequest, "guided_regex"),
        (Op.CHAT, {"chat_template_kwargs": {"unknown": 1}}, UnsupportedParameter, "unknown"),
    ],
)
def test_what_is_refused_before_any_frame(op, fields, kind, param):
    with pytest.raises(kind) as caught:
        ask("x", op, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("levels", [600, 900, 940, 950, 960, 970, 980, 985, 990, 5000])
@pytest.mark.parametrize("place", ["arguments", "annotations", "parameters", "variable", "schema", "text", "part"])
def test_what_is_nested_too_deeply_is_refused(place, levels):
    deep = '{"items":' * levels + "{}" + "}" * levels
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "DEEP"}}
    hi = {"role": "user", "content": "hi"}
    fields: dict[str, Any] = {
        "arguments": {"messages": [hi, {"role": "assistant", "tool_calls": [call]}]},
        "annotations": {"messages": [{**hi, "annotations": "DEEP"}]},
        "parameters": {"tools": [{"type": "function", "function": {"name": "f", "parameters": "DEEP"}}]},
        "variable": {"chat_template_kwargs": {"enable_thinking": "DEEP"}},
        "schema": {"response_format": {"type": "json_object", "schema": "DEEP"}},
        "text": {"guided_json": "DEEP"},
        "part": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "more": "DEEP"}]}]},
    }[place]
    is_text = place in ("arguments", "text")
    body = json.dumps({"model": "m", "messages": [hi], **fields}).replace(
        '"DEEP"', json.dumps(deep) if is_text else deep
    )
    engine = ScriptedEngine("x", "{{ messages | tojson }}{{ tools | tojson }}{{ enable_thinking }} <tool_call>")

    async def asked() -> None:
        async for _ in engine.serve(Call("id", Op.CHAT, body.encode(), "m")):
            pass

    with pytest.raises(InvalidRequest):
        with_engine(engine, asked)


def test_both_numbers_are_in_a_context_overflow():
    with pytest.raises(ContextOverflow, match=r"1000.*2000"):
        ask("x", Op.COMPLETION, prompt=[1] * 2000)
    with pytest.raises(ContextOverflow, match=r"1000.*10.*995"):
        ask("x", Op.COMPLETION, prompt=[1] * 10, max_tokens=995)


def test_models_without_a_template_tools_or_thoughts_say_so():
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for template, fields, param in (
        (None, {}, None),
        (plain, {"tools": TOOLS}, "tools"),
        (plain, {"enable_thinking": True}, "enable_thinking"),
        (plain, {"reasoning_effort": "high"}, "reasoning_effort"),
    ):
        engine = ScriptedEngine("x", template)
        with pytest.raises(InvalidRequest) as caught:
            with_engine(engine, lambda engine=engine, fields=fields: frames(engine, Op.CHAT, **fields))
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("begun", "thoughts", "answer"),
    [("So", None, "m</think>yes"), ("<think>h", "m", "yes"), ("<think>hm</think>", None, "m</think>yes")],
)
def test_an_answer_goes_on_where_the_last_message_ends(begun, thoughts, answer):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": begun}]
    found = ask("m</think>yes", messages=messages, continue_final_message=True, add_generation_prompt=False)
    message = found["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == (thoughts, answer)


def test_calls_in_an_unknown_form_are_not_called_none_at_all():
    engine = ScriptedEngine("x", "{{ tools | tojson }}<|tool_call_start|>")
    with pytest.raises(UnsupportedParameter, match="a form that is not known here"):
        with_engine(engine, lambda: frames(engine, Op.CHAT, tools=TOOLS))


def test_a_large_body_is_prepared_beside_the_event_loop():
    engine = ScriptedEngine("ok", context_length=1_000_000)
    body = with_engine(engine, lambda: frames(engine, Op.CHAT, messages=[{"role": "user", "content": "x" * 100_000}]))[
        1
    ]
    assert json.loads(body)["usage"]["prompt_tokens"] > 100_000


# --- ends of all kinds ---


@pytest.mark.parametrize("stream", [True, False])
def test_closing_the_generator_stops_the_work(stream):
    engine = ScriptedEngine("x" * 10_000, context_length=20_000)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()

    async def use() -> None:
        serving = engine.serve(Call("id", Op.CHAT, body, "m"))
        if stream:
            await anext(serving)
            await anext(serving)
            await serving.aclose()
        else:
            engine.runner.gate.clear()
            task = asyncio.ensure_future(anext(serving))
            await asyncio.to_thread(engine.runner.entered.wait, 10)
            task.cancel()
            await asyncio.wait([task])
            engine.runner.gate.set()
        # Alone in its batch of messages: no step may follow it.
        assert await asyncio.to_thread(engine.runner.dropped.wait, 10)
        # The thread takes messages in order: when this one is answered, the cancellation was seen.
        await frames(engine, Op.CHAT, max_tokens=1)
        assert len(engine.runner.discarded) == 1
        assert engine.load_report().running == 0
        assert engine.failure() == ""

    with_engine(engine, use)


@pytest.mark.parametrize("stream", [True, False])
def test_a_runner_that_fails_ends_every_request_and_all_later_ones(stream):
    engine = ScriptedEngine("x" * 500)

    async def use() -> None:
        engine.runner.gate.clear()
        tasks = [asyncio.create_task(frames(engine, Op.CHAT, stream=stream)) for _ in range(5)]
        await asyncio.to_thread(engine.runner.entered.wait, 10)
        engine.runner.failure = ZeroDivisionError("bad luck")
        engine.runner.gate.set()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, EngineFailed)
            assert "bad luck" in result.message
        with pytest.raises(EngineFailed, match="bad luck"):
            await frames(engine, Op.CHAT)

    with_engine(engine, use)


def test_closing_the_engine_fails_what_is_under_way():
    engine = ScriptedEngine("x" * 50_000, context_length=100_000)  # more than it can write until the closing begins

    async def use() -> None:
        engine.runner.gate.clear()
        task = asyncio.create_task(frames(engine, Op.CHAT))
        await asyncio.to_thread(engine.runner.entered.wait, 10)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        engine.runner.gate.set()
        await closing
        with pytest.raises(EngineFailed, match="closed"):
            await task
        with pytest.raises(NotReady):
            await frames(engine, Op.CHAT)

    with_engine(engine, use)


def test_endings_are_the_words_of_the_wire():
    assert {ending.finish_reason for ending in Ending} == {"stop", "length"}
