"""How what a request asks for reaches a chat template, in the words of that template."""

import json

import pytest

from xinfer.engines.token_engine.prompts import chat_prompt
from xinfer.errors import UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.reasoning import reasoning_form
from xinfer.protocols.chat import parse_chat


class LetterTokenizer:
    vocabulary = frozenset[str]()

    def encode(self, text, *, add_special):
        return list(map(ord, text))


def prompt(source, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    request = parse_chat(json.dumps(body).encode())
    return chat_prompt(request, ChatTemplate(source, {}), LetterTokenizer(), reasoning=reasoning_form(source)).text


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


R1 = "<|User|>{{ messages[0].content }}<|Assistant|><think>\n{# </think> #}"
GPT_OSS = "{# <|channel|>analysis #}{{ reasoning_effort | default('medium') }} {{ messages[0].content }}"
INSTRUCT = "{{ messages[0].content.split('</think>')[-1] }}"


@pytest.mark.parametrize("source", [R1, GPT_OSS])
def test_a_model_that_always_thinks_may_be_told_to_and_not_to_leave_it(source):
    assert prompt(source, enable_thinking=True) == prompt(source)
    with pytest.raises(UnsupportedParameter, match="always thinks") as caught:
        prompt(source, enable_thinking=False)
    assert caught.value.param == "enable_thinking"


def test_an_effort_makes_no_difference_to_a_model_that_has_none_and_thinks():
    assert prompt(R1, reasoning_effort="high") == prompt(R1)
    assert prompt(GPT_OSS, reasoning_effort="high") == "high Hi"
    with pytest.raises(UnsupportedParameter, match="always thinks"):
        prompt(R1, reasoning_effort="none")


def test_a_model_that_never_thinks_may_be_told_not_to():
    assert prompt(INSTRUCT, enable_thinking=False) == prompt(INSTRUCT, reasoning_effort="none") == "Hi"
    with pytest.raises(UnsupportedParameter, match="cannot be told to think"):
        prompt(INSTRUCT, enable_thinking=True)
