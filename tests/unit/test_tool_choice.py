"""A part of the tools, as OpenAI's clients allow it."""

import json

import pytest

from xinfer.errors import InvalidRequest
from xinfer.protocols.chat import parse_chat
from xinfer.protocols.tool_choice import without_allowed_tools


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def allowed(*names, mode="auto"):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def body(choice, *names):
    messages = [{"role": "user", "content": 'say "allowed_tools"'}]
    fields = {"model": "m", "seed": 12345678901234567890 % 2**62, "messages": messages, "tool_choice": choice}
    return json.dumps({**fields, "tools": [tool(name) for name in names]}).encode()


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_the_model_is_shown_what_it_may_call_and_nothing_else(mode):
    sent = body(allowed("c", "a", mode=mode), "a", "b", "c")
    request = parse_chat(sent)
    assert [item["function"]["name"] for item in request.active_tools] == ["a", "c"]
    assert request.tool_choice == mode
    forwarded = json.loads(without_allowed_tools(sent))
    assert forwarded == {**json.loads(sent), "tools": [tool("a"), tool("c")], "tool_choice": mode}


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        (allowed("x"), "'x', which is not among the tools"),
        (allowed(), "at least one tool"),
        (allowed("a", mode="none"), "must be"),
        ({"type": "allowed_tools"}, "must be"),
        ({"type": "allowed_tools", "allowed_tools": {"tools": ["a"]}}, "must be"),
        ({"type": "allowed_tools", "allowed_tools": {"tools": [{"type": "custom"}]}}, "must be"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(choice, word):
    for read in (parse_chat, without_allowed_tools):
        with pytest.raises(InvalidRequest, match=word) as refused:
            read(body(choice, "a", "b"))
        assert refused.value.param == "tool_choice"


def test_without_tools_there_is_nothing_to_choose():
    with pytest.raises(InvalidRequest, match="needs 'tools'"):
        parse_chat(body(allowed("a")))


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "a"}}, None])
def test_other_bodies_go_on_as_they_came(choice):
    sent = body(choice, "a", "b")
    assert without_allowed_tools(sent) is sent


@pytest.mark.parametrize(
    "sent", [b"", b'["allowed_tools"]', b'{"tool_choice": {"allowed_tools"', b'"allowed_tools" \xff']
)
def test_what_cannot_be_read_is_for_the_server_to_refuse(sent):
    assert without_allowed_tools(sent) is sent
