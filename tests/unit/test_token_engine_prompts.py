"""How what a request asks for reaches a chat template, in the words of that template."""

import json

import pytest

from xinfer.engines.token_engine.prompts import chat_prompt
from xinfer.errors import UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.protocols.chat import parse_chat


class LetterTokenizer:
    vocabulary = frozenset[str]()

    def encode(self, text, *, add_special):
        return list(map(ord, text))


def prompt(source, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    request = parse_chat(json.dumps(body).encode())
    return chat_prompt(request, ChatTemplate(source, {}), LetterTokenizer()).text


ASKED_ALIKE = (
    {"enable_thinking": True},
    {"reasoning_effort": "high"},
    {"chat_template_kwargs": {"enable_thinking": 1}},
)
SPARED_ALIKE = ({"enable_thinking": False}, {"reasoning_effort": "none"})


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("default", ["true", "false"])
def test_the_switch_of_thinking_has_the_name_that_the_template_reads(switch, default):
    """DeepSeek V3.1 and Granite say "thinking", and do not think by default; Kimi K2.5 does."""
    source = f"{{{{ '<think>' if {switch} | default({default}) else '</think>' }}}}"
    assert {prompt(source, **fields) for fields in ASKED_ALIKE} == {"<think>"}
    assert {prompt(source, **fields) for fields in SPARED_ALIKE} == {"</think>"}
    assert prompt(source) == ("<think>" if default == "true" else "</think>")


def test_what_is_said_to_the_template_itself_counts():
    source = "{{ thinking }}"
    assert prompt(source, enable_thinking=True, chat_template_kwargs={"thinking": False}) == "False"


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
def test_an_effort_is_passed_on_beside_the_switch(switch):
    """DeepSeek V4: the effort alone makes nobody think there."""
    source = f"{{{{ {switch} | default('unset') }}}} {{{{ reasoning_effort | default('unset') }}}}"
    assert prompt(source, reasoning_effort="high") == "True high"
    assert prompt(source, reasoning_effort="none") == "False none"
    assert prompt(source, enable_thinking=True) == "True unset"


def test_an_effort_is_enough_where_there_is_no_switch():
    assert prompt("{{ reasoning_effort | default('medium') }}", reasoning_effort="low") == "low"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"enable_thinking": True}, "enable_thinking"), ({"reasoning_effort": "low"}, "reasoning_effort")],
)
def test_a_model_that_cannot_be_told_to_think_says_so(fields, param):
    with pytest.raises(UnsupportedParameter) as caught:
        prompt("{{ messages[0].content }}", **fields)
    assert caught.value.param == param
