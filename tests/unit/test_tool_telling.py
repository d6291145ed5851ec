"""What a model is told of its tools where its chat template shows calls, but takes no tools."""

import json

import pytest

from xinfer.engines.token_engine import Shield
from xinfer.engines.token_engine.prompts import chat_prompt
from xinfer.errors import UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.tool_calls import tool_form
from xinfer.protocols.chat import parse_chat


class LetterTokenizer:
    vocabulary = frozenset[str]()

    def encode(self, text, *, add_special):
        return list(map(ord, text))


def prompt(source, shield=None, **fields):
    request = parse_chat(json.dumps({"model": "m", **fields}).encode())
    return chat_prompt(request, ChatTemplate(source, {}), LetterTokenizer(), shield, form=tool_form(source))


DEEPSEEK_V31 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}<｜Assistant｜></think>{% elif m.tool_calls %}<｜tool▁calls▁begin｜>"
    "{% for call in m.tool_calls %}<｜tool▁call▁begin｜>{{ call.function.name }}<｜tool▁sep｜>"
    "{{ call.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}{% endfor %}"
)
"""As it is published: it shows calls, and takes no tools."""
TOOLS = [
    {"type": "function", "function": {"name": "now"}},
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "In <｜User｜> a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
]
TOLD = """\
## Tools
You have access to the following tools:

### now
Description: \n
Parameters: {}

### weather
Description: In <｜User｜> a city

Parameters: {"type": "object", "properties": {"city": {"type": "string"}}}

IMPORTANT: ALWAYS adhere to this exact format for tool use:
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>\
{{additional_tool_calls}}<｜tool▁calls▁end｜>

Where:

- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema
- For multiple tool calls, chain them directly without separators or spaces"""


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        ([], TOLD),
        ([{"role": "system", "content": "Be brief."}], f"Be brief.\n\n{TOLD}"),
        ([{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}], f"Be brief.\n\n{TOLD}"),
    ],
)
def test_a_model_is_told_of_its_tools_where_its_template_takes_none(before, shown):
    """In the words that DeepSeek publishes."""
    shield = Shield({"<｜User｜>", "<｜tool▁calls▁begin｜>"})
    messages = [*before, {"role": "user", "content": "Hi"}]
    found = prompt(DEEPSEEK_V31, shield, messages=messages, tools=TOOLS)
    assert found.text == "".join(map(chr, found.ids)) == f"{shown}<｜User｜>Hi<｜Assistant｜></think>"
    plain = prompt(DEEPSEEK_V31, shield, messages=messages, tools=TOOLS, tool_choice="none").text
    assert plain == ("Be brief." if before else "") + "<｜User｜>Hi<｜Assistant｜></think>"


def test_tools_are_refused_where_a_template_knows_nothing_of_calls():
    with pytest.raises(UnsupportedParameter) as caught:
        prompt("{{ messages[0].content }}", messages=[{"role": "user", "content": "Hi"}], tools=TOOLS)
    assert caught.value.param == "tools"
