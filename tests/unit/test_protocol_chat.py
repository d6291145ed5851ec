"""Chat requests and answers on the wire: what is read, what is refused and how, and what the official client makes of
our bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.answers import DONE, TokenLogprob, ToolCall, ToolCallDelta, TopLogprob, Usage
from xinfer.protocols.chat import ChatChoice, ChatRequest, ChatWriter, parse_chat
from xinfer.protocols.decoding import refuse_unsupported

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value


# --- requests ---


def test_what_is_not_given_is_none():
    request = parse()
    assert (request.choices, request.token_limit, request.stop_strings, request.include_usage) == (1, None, (), False)
    assert request.temperature is None
    assert request.active_tools is None
    assert request.template_arguments == {}


def test_null_counts_as_not_given():
    fields = [name for name in ChatRequest.__struct_fields__ if name not in {"model", "messages"}]
    assert parse(**dict.fromkeys(fields)) == parse()


def test_max_completion_tokens_wins_over_its_old_name():
    assert parse(max_tokens=5, max_completion_tokens=7).token_limit == 7
    assert parse(max_tokens=5).token_limit == 5


@pytest.mark.parametrize(("given", "read"), [("a", ("a",)), (["a", "b"], ("a", "b")), (None, ()), ([], ())])
def test_stop_is_a_string_or_a_list(given, read):
    assert parse(stop=given).stop_strings == read


def test_logit_bias_has_token_ids_as_keys():
    assert parse(logit_bias={"5": -100, "7": 1.5}).logit_bias == {5: -100.0, 7: 1.5}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("min_p", 1.5),
        ("n", 0),
        ("n", 129),
        ("n", 1.5),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("min_tokens", -1),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("seed", 1.5),
        ("seed", 2**80),
        ("stop", ""),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("stop_token_ids", [-1]),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"-5": 1}),
        ("stream", "yes"),
        ("logprobs", 3),
        ("messages", "hi"),
        ("messages", []),
        ("messages", None),
        ("tools", {}),
        ("tool_choice", "weather"),
        ("reasoning_effort", "extreme"),
        ("chat_template_kwargs", "{"),
        ("chat_template_kwargs", "[]"),
    ],
)
def test_a_wrong_value_is_refused_by_name(field, value):
    error = refusal(**{field: value})
    assert error.status == 400
    assert error.param is not None
    assert error.param.startswith(field)
    assert field in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        (
            {"tools": [TOOL, {"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[1].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters.type",
        ),
        ({"enable_thinking": True, "reasoning_effort": "low"}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"messages": [{"role": "assistant", "content": None, "refusal": "no"}], "continue_final_message": True},
            "continue_final_message",
        ),
        (
            {
                "messages": [{"role": "assistant", "content": "So"}],
                "continue_final_message": True,
                "add_generation_prompt": True,
            },
            "add_generation_prompt",
        ),
    ],
)
def test_fields_that_contradict_each_other(fields, param):
    assert refusal(**fields).param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "structural_tag"}},
        {"structured_outputs": {"structural_tag": {}}},
        {"audio": {"voice": "x"}},
        {"modalities": ["audio"]},
        {"prediction": {"type": "content"}},
        {"web_search_options": {}},
        {"functions": [{"name": "f"}]},
        {"function_call": "auto"},
        {"lora_name": "x"},
        {"best_of": 3},
        {"temprature": 0.5},
        {"tools": [{"type": "web_search"}]},
    ],
)
def test_what_is_not_implemented_is_refused_and_never_ignored(fields):
    error = refusal(**fields)
    assert isinstance(error, UnsupportedParameter)
    assert error.param.startswith(next(iter(fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "prompt_cache_key": "k"},
        {"safety_identifier": "s", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"functions": None, "audio": None, "something_new": None},
        {"user": "u", "logit_bias": {"5": 1}, "stop": ["a"]},
        {"logprobs": False, "top_logprobs": 0},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": ["object", "null"]}}}]},
    ],
)
def test_fields_that_ask_for_nothing_are_accepted(fields):
    parse(**fields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "m", "messages"',
        b"\xff\xfe",
        b"nonsense",
        b"[" * 100_000,
        b'{"model":"m","messages":"\\ud800"}',
    ],
)
def test_malformed_json_is_a_400_that_says_so(body):
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)
    assert "not valid JSON" in caught.value.message


def test_a_body_that_is_no_object():
    with pytest.raises(InvalidRequest, match="JSON object"):
        parse_chat(b"[1]")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_body_raises_anything_but_a_400(body):
    with pytest.raises(InvalidRequest):
        parse_chat(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from([name for name in ChatRequest.__struct_fields__ if name != "model"]),
    json_values,
)
def test_any_value_of_any_field_is_read_or_refused_by_that_name(field, value):
    param: str | None = field
    try:
        parse(**{field: value})
    except InvalidRequest as error:
        param = error.param
    assert param is not None
    assert param.startswith(field)


def test_missing_fields():
    for body, param in ((b'{"messages": []}', "model"), (b'{"model": "m"}', "messages")):
        with pytest.raises(InvalidRequest) as caught:
            parse_chat(body)
        assert caught.value.param == param


# --- messages ---


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "function", "name": "f", "content": "x"}, "messages[0].role"),
        ({"role": 5, "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].image_url",
        ),
        ({"role": "user", "content": "x", "prefix": True}, "messages[0].prefix"),
        ({"role": "user", "content": "x", "name": 5}, "messages[0].name"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
    ],
)
def test_a_wrong_message_is_refused_at_its_place(message, param):
    assert refusal(messages=[message]).param == param


def test_a_conversation_with_tools_and_parts_is_read():
    request = parse(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": None},
            {"role": "tool", "tool_call_id": "c1", "content": "5"},
        ],
        tools=[TOOL],
        tool_choice="auto",
    )
    assert request.active_tools == [TOOL]
    assert parse(tools=[TOOL], tool_choice="none").active_tools is None


def test_thinking_is_asked_for_in_three_ways():
    assert parse(enable_thinking=True).template_arguments == {"enable_thinking": True}
    assert parse(reasoning_effort="none").thinking is False
    assert parse(reasoning_effort="high").thinking is True
    given = parse(chat_template_kwargs='{"enable_thinking": false, "x": 1}')
    assert given.template_arguments == {"enable_thinking": False, "x": 1}


# --- what one engine honours ---


def test_an_engine_refuses_what_it_does_not_honour():
    with pytest.raises(UnsupportedParameter) as caught:
        refuse_unsupported(parse(top_k=5), frozenset({"temperature"}), "plain")
    assert caught.value.param == "top_k"
    assert "plain" in caught.value.message
    refuse_unsupported(parse(top_k=5), frozenset({"top_k"}), "plain")


def test_neutral_values_ask_for_nothing():
    request = parse(
        temperature=1, top_p=1, top_k=-1, min_p=0, n=1, presence_penalty=0, frequency_penalty=0, repetition_penalty=1,
        logit_bias={}, stop=[], logprobs=False, tools=[], tool_choice="none", min_tokens=0, ignore_eos=False,
        reasoning_effort="none", chat_template_kwargs="{}", parallel_tool_calls=True,
    )  # fmt: skip
    refuse_unsupported(request, frozenset(), "plain")


@pytest.mark.parametrize(("field", "inert", "wish"), [("prompt_logprobs", False, 0), ("priority", 0, False)])
def test_a_number_is_not_taken_for_a_bool_that_equals_it(field, inert, wish):
    parse(**{field: inert})
    with pytest.raises(UnsupportedParameter) as caught:
        parse(**{field: wish})
    assert caught.value.param == field


def test_forced_calls_and_strict_tools_need_an_engine_that_has_them():
    forced = parse(tools=[TOOL], tool_choice="required")
    strict = parse(tools=[{"type": "function", "function": {"name": "f", "strict": True}}])
    shaped = parse(response_format={"type": "json_object"})
    wanted = (forced, "tool_choice"), (strict, "tools[].function.strict"), (shaped, "response_format")
    for request, param in wanted:
        with pytest.raises(UnsupportedParameter) as caught:
            refuse_unsupported(request, frozenset({"tools"}), "plain")
        assert caught.value.param == param


# --- answers ---

SCORES = [TokenLogprob("é", -0.5, [195, 169], [TopLogprob("é", -0.5, [195, 169]), TopLogprob("e", -1.0, [101])])]
texts = st.text(st.characters(exclude_categories=["Cs"]))


def event(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    return json.loads(data[6:])


@given(texts, st.integers(0, 130), st.booleans())
def test_the_official_client_reads_every_chunk(text, choice, include_usage):
    writer = ChatWriter("chatcmpl-1", 'my "model"', 7, include_usage=include_usage)
    call = ToolCallDelta(0, text, "c1", "weather")
    chunks = [
        writer.role(choice=choice),
        writer.text(text, choice=choice),
        writer.text(text, choice=choice, logprobs=SCORES),
        writer.reasoning(text, choice=choice),
        writer.tool_calls([call, ToolCallDelta(0, text)], choice=choice),
        writer.finish("stop", choice=choice),
    ]
    read = [ChatCompletionChunk.model_validate(event(chunk), strict=True) for chunk in chunks]
    assert {(chunk.id, chunk.model, chunk.created) for chunk in read} == {("chatcmpl-1", 'my "model"', 7)}
    assert {chunk.choices[0].index for chunk in read} == {choice}
    assert [chunk.choices[0].delta.role for chunk in read] == ["assistant"] + [None] * 5
    assert read[1].choices[0].delta.content == text
    assert read[2].choices[0].logprobs.content[0].top_logprobs[1].token == "e"
    assert read[3].choices[0].delta.reasoning_content == text
    assert [part.function.arguments for part in read[4].choices[0].delta.tool_calls] == [text, text]
    assert [chunk.choices[0].finish_reason for chunk in read] == [None] * 5 + ["stop"]
    assert all(("usage" in event(chunk)) == include_usage for chunk in chunks)


def test_the_last_chunk_has_the_counts_and_no_choices():
    writer = ChatWriter("chatcmpl-1", "m", 7, include_usage=True)
    chunk = ChatCompletionChunk.model_validate(event(writer.usage(Usage(3, 4))), strict=True)
    assert chunk.choices == []
    assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.total_tokens) == (3, 4, 7)
    assert writer.done == DONE


@given(texts)
def test_the_official_client_reads_a_whole_answer(text):
    writer = ChatWriter("chatcmpl-1", "m", 7)
    choices = [
        ChatChoice(text=text, finish_reason="length", reasoning=text or None, logprobs=SCORES),
        ChatChoice(text=None, finish_reason="tool_calls", tool_calls=(ToolCall("c1", "weather", "{}"),)),
    ]
    answer = ChatCompletion.model_validate(json.loads(writer.response(choices, Usage(3, 4))), strict=True)
    first, second = answer.choices
    assert (first.index, first.message.content, first.finish_reason) == (0, text, "length")
    assert first.logprobs.content[0].bytes == [195, 169]
    assert (second.index, second.message.content, second.finish_reason) == (1, None, "tool_calls")
    assert second.message.tool_calls[0].function.name == "weather"
    assert second.logprobs is None
    assert answer.usage.total_tokens == 7
