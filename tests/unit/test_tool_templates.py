"""Forms of tool calls against chat templates: what a template shows a model of its own calls is what it will write.

The templates are short, and write calls exactly as those do that are published with the models.
"""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.dialects import Dialect, reasoning_dialect, tool_dialect
from xinfer.generation.lark import LarkRules
from xinfer.generation.reasoning import reasoning_form
from xinfer.generation.tool_calls import forms, read_tools, shows_several_calls, tool_form

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "exact": {"type": "boolean"},
            },
            "required": ["city"],
        },
    },
}
ARGUMENTS = {"city": 'Os\u00adlo "b"\n<x>', "days": [1, 2], "exact": False}

CHATML = "<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
NEXT = "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
QWEN3 = (
    "{% if tools %}<|im_start|>system\n<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}" + CHATML + "{% for tool_call in message.tool_calls or [] %}"
    "{% set function = tool_call.function %}{{ '\n' if not loop.first }}"
    '<tool_call>\n{"name": "{{ function.name }}", "arguments": '
    "{% if function.arguments is string %}{{ function.arguments }}"
    "{% else %}{{ function.arguments | tojson }}{% endif %}"
    "}\n</tool_call>{% endfor %}" + NEXT
)
QWEN3_CODER = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}\n<tool_call>\n<function=example>\n<parameter=key>\nvalue\n"
    "</parameter>\n</function>\n</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}" + CHATML + "{% for tool_call in message.tool_calls or [] %}"
    "{{ '\n' if not loop.first }}<tool_call>\n<function={{ tool_call.function.name }}>\n"
    "{% for name, value in tool_call.function.arguments | items %}<parameter={{ name }}>\n"
    "{{ value | tojson | safe if value is not string else value }}\n</parameter>\n{% endfor %}"
    "</function>\n</tool_call>{% endfor %}" + NEXT
)
LLAMA3 = (
    "{{ bos_token }}{% if tools %}<|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "{{ tools | tojson }}<|eot_id|>{% endif %}"
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% for tool_call in message.tool_calls or [] %}"
    '{"name": "{{ tool_call.function.name }}", "parameters": {{ tool_call.function.arguments | tojson }}}'
    "{% else %}{{ message.content }}{% endfor %}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
MISTRAL_V3 = (
    "{{ bos_token }}{% for message in messages %}{% if message.tool_calls %}[TOOL_CALLS] ["
    "{% for tool_call in message.tool_calls %}"
    '{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}'
    ', "id": "{{ tool_call.id }}"}{{ ", " if not loop.last }}{% endfor %}]{{ eos_token }}'
    "{% else %}{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ message.content }}[/INST]{% endif %}{% endfor %}"
)
MISTRAL_V11 = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for message in messages %}{% if message.tool_calls %}{% for tool_call in message.tool_calls %}"
    "[TOOL_CALLS]{{ tool_call.function.name }}[CALL_ID]{{ tool_call.id }}[ARGS]"
    "{{ tool_call.function.arguments | tojson }}{% endfor %}{{ eos_token }}"
    "{% else %}[INST]{{ message.content }}[/INST]{% endif %}{% endfor %}"
)
MISTRAL_V13 = MISTRAL_V11.replace("[CALL_ID]{{ tool_call.id }}", "")
DEEPSEEK_TURN = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}"
    "{% if message.role == 'user' %}<｜User｜>{{ message.content }}<｜Assistant｜>"
    "{% else %}{{ message.content or '' }}{% if message.tool_calls %}<｜tool▁calls▁begin｜>"
    "{% for tool_call in message.tool_calls %}"
)
DEEPSEEK_V3 = (
    DEEPSEEK_TURN + "{{ '\n' if not loop.first }}<｜tool▁call▁begin｜>{{ tool_call.type }}<｜tool▁sep｜>"
    "{{ tool_call.function.name }}\n```json\n{{ tool_call.function.arguments | tojson }}\n```"
    "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
)
DEEPSEEK_R1 = DEEPSEEK_V3.replace("<｜Assistant｜>", "<｜Assistant｜><think>\n").replace(
    "{{ message.content or '' }}", "{{ (message.content or '').split('</think>')[-1] }}"
)
DEEPSEEK_V31 = (
    DEEPSEEK_TURN.replace("<｜Assistant｜>", "<｜Assistant｜>{{ '<think>' if thinking else '</think>' }}")
    + "<｜tool▁call▁begin｜>{{ tool_call.function.name }}<｜tool▁sep｜>{{ tool_call.function.arguments | tojson }}"
    "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
)
DEEPSEEK_V32 = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}"
    "{% if message.role == 'user' %}<｜User｜>{{ message.content }}<｜Assistant｜></think>"
    "{% else %}{{ message.content or '' }}{% if message.tool_calls %}\n\n<｜DSML｜function_calls>\n"
    '{% for tool_call in message.tool_calls %}<｜DSML｜invoke name="{{ tool_call.function.name }}">\n'
    "{% for name, value in tool_call.function.arguments | items %}"
    '<｜DSML｜parameter name="{{ name }}" string="{{ "true" if value is string else "false" }}">'
    "{{ value if value is string else value | tojson }}</｜DSML｜parameter>\n{% endfor %}"
    "</｜DSML｜invoke>\n{% endfor %}"
    "</｜DSML｜function_calls>{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
)
DEEPSEEK_V4 = DEEPSEEK_V32.replace("function_calls", "tool_calls")
GLM45 = (
    "[gMASK]<sop>{% if tools %}<|system|>\n{{ tools | tojson }}\n<tool_call>{function-name}\n<arg_key>{key}</arg_key>\n"
    "<arg_value>{value}</arg_value>\n</tool_call>{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content or '' }}"
    "{% if message.role == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}"
    "{% for tool_call in message.tool_calls or [] %}\n<tool_call>{{ tool_call.function.name }}\n"
    "{% for name, value in tool_call.function.arguments | items %}<arg_key>{{ name }}</arg_key>\n"
    "<arg_value>{{ value if value is string else value | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}"
    "{% endfor %}<|assistant|>{{ '<think></think>' if enable_thinking is defined and not enable_thinking }}"
)
GLM47 = (
    GLM45.replace("}}\n{% for name", "}}{% for name")
    .replace("</arg_key>\n", "</arg_key>")
    .replace("</arg_value>\n{% endfor %}", "</arg_value>{% endfor %}")
)
SEED_OSS = (
    "{% for message in messages %}<seed:bos>{{ message.role }}\n{{ message.content }}"
    "{% for tool_call in message.tool_calls or [] %}\n<seed:tool_call>\n<function={{ tool_call.function.name }}>\n"
    "{% for name, value in tool_call.function.arguments | items %}<parameter={{ name }}>{{ value }}</parameter>\n"
    "{% endfor %}</function>\n</seed:tool_call>{% endfor %}<seed:eos>{% endfor %}<seed:bos>assistant\n"
    "{# </seed:think> #}{# tools #}{% if tools %}{% endif %}"
)
LISTED = (
    "{% for tool_call in message.tool_calls %}"
    '{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}'
    "{{ ', ' if not loop.last }}{% endfor %}"
)
NEMOTRON = (
    "{{ tools | tojson }}{% for message in messages %}"
    + CHATML
    + "{% if message.tool_calls %}<TOOLCALL>["
    + LISTED
    + ""
    "]</TOOLCALL>{% endif %}" + NEXT
)
APRIEL = NEMOTRON.replace("<TOOLCALL>", "\n<tool_calls>").replace("</TOOLCALL>", "</tool_calls>")
GRANITE3 = NEMOTRON.replace("<TOOLCALL>", "<|tool_call|>").replace("</TOOLCALL>", "")
FUNCTIONARY = (
    "{{ tools | tojson }}{# ipython, <|python_tag|> #}{% for message in messages %}" + CHATML + ""
    "{% for tool_call in message.tool_calls or [] %}<function={{ tool_call.function.name }}>"
    "{{ tool_call.function.arguments | tojson }}</function>{% endfor %}" + NEXT
)
GPT_OSS = (
    "<|start|>system<|message|>Valid channels: analysis, commentary, final.<|end|>"
    "{% if tools %}<|start|>developer<|message|>namespace functions {{ tools | tojson }}<|end|>{% endif %}"
    "{% for message in messages %}{% if message.tool_calls %}{% for tool_call in message.tool_calls %}"
    "<|start|>assistant<|channel|>commentary to=functions.{{ tool_call.function.name }} <|constrain|>json<|message|>"
    "{{ tool_call.function.arguments | tojson }}<|call|>{% endfor %}"
    "{% else %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "<|start|>assistant"
)
TEMPLATES = {
    # name: (template, the form of its calls, that of its thoughts, what is before an answer, what is behind it)
    "qwen3": (QWEN3, Dialect.HERMES, None, "assistant\n", "<|im_end|>"),
    "qwen3-coder": (QWEN3_CODER, Dialect.QWEN_XML, None, "assistant\n", "<|im_end|>"),
    "llama-3": (LLAMA3, Dialect.LLAMA_JSON, None, "assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "mistral-v3": (MISTRAL_V3, Dialect.MISTRAL, None, "[/INST]", "</s>"),
    "mistral-v11": (MISTRAL_V11, Dialect.MISTRAL, None, "[/INST]", "</s>"),
    "mistral-v13": (MISTRAL_V13, Dialect.MISTRAL, None, "[/INST]", "</s>"),
    "deepseek-v3": (DEEPSEEK_V3, Dialect.DEEPSEEK_V3, None, "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "deepseek-r1": (DEEPSEEK_R1, Dialect.DEEPSEEK_V3, Dialect.DEEPSEEK_THINK, "<think>\n", "<｜end▁of▁sentence｜>"),
    "deepseek-v3.1": (DEEPSEEK_V31, Dialect.DEEPSEEK_V31, Dialect.THINK_TAGS, "</think>", "<｜end▁of▁sentence｜>"),
    "deepseek-v3.2": (DEEPSEEK_V32, Dialect.DEEPSEEK_V32, Dialect.THINK_TAGS, "</think>", "<｜end▁of▁sentence｜>"),
    "deepseek-v4": (DEEPSEEK_V4, Dialect.DEEPSEEK_V4, Dialect.THINK_TAGS, "</think>", "<｜end▁of▁sentence｜>"),
    "seed-oss": (SEED_OSS, Dialect.SEED, None, "assistant\n", "<seed:eos>"),
    "nemotron-2": (NEMOTRON, Dialect.NEMOTRON, None, "assistant\n", "<|im_end|>"),
    "apriel": (APRIEL, Dialect.APRIEL, None, "assistant\n", "<|im_end|>"),
    "granite-3": (GRANITE3, Dialect.GRANITE, None, "assistant\n", "<|im_end|>"),
    "functionary": (FUNCTIONARY, Dialect.FUNCTIONARY, None, "assistant\n", "<|im_end|>"),
    "glm-4.5": (GLM45, Dialect.GLM, Dialect.THINK_TAGS, "<|assistant|>\n", "<|assistant|>"),
    "glm-4.7": (GLM47, Dialect.GLM_TIGHT, Dialect.THINK_TAGS, "<|assistant|>\n", "<|assistant|>"),
    "gpt-oss": (GPT_OSS, Dialect.HARMONY, Dialect.HARMONY, "<|start|>assistant", "<|start|>assistant<|end|>"),
}
SEVERAL = [name for name in TEMPLATES if name not in ("llama-3", "gpt-oss")]
"""Those whose models call several tools in one answer."""


def written(name, calls, content=None):
    """What the template shows of an answer with these calls."""
    template, _, _, before, behind = TEMPLATES[name]
    made = [
        {
            "id": f"abcdefgh{number}",
            "type": "function",
            "function": {"name": called, "arguments": json.dumps(arguments)},
        }
        for number, (called, arguments) in enumerate(calls)
    ]
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": content, "tool_calls": made},
    ]
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    text = ChatTemplate(template, special).render(messages, [TOOL], {})
    return text.partition(before)[2].rpartition(behind)[0] or text.partition(before)[2].removesuffix(
        "<|start|>assistant"
    )


def read(name, text, cuts):
    """Content and calls, through the splitter of thoughts where there is one, however the text is cut."""
    template = TEMPLATES[name][0]
    form = tool_form(template)
    parser = form.parser(lambda: "id", read_tools([TOOL]))
    thoughts = reasoning_form(template) if TEMPLATES[name][2] is Dialect.HARMONY else None
    splitter = thoughts.splitter("") if thoughts else None
    content, calls = "", {}
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:stop] for start, stop in itertools.pairwise(places)]
    for piece in [*pieces, None]:
        if splitter is not None:
            piece = (splitter.flush() if piece is None else splitter.feed(piece))[1]  # noqa: PLW2901
            said, parts = parser.feed(piece) if piece else ("", [])
        else:
            said, parts = parser.flush() if piece is None else parser.feed(piece)
        content += said
        for part in parts:
            call = calls.setdefault(part.index, {"name": part.name, "arguments": ""})
            call["arguments"] += part.arguments
    return content, [(call["name"], json.loads(call["arguments"])) for call in calls.values()]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_forms_are_found(name):
    template, calls, thoughts, _, _ = TEMPLATES[name]
    assert tool_dialect(template) is calls
    assert reasoning_dialect(template) is thoughts


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 400), max_size=10))
def test_what_the_template_writes_is_read(name, cuts):
    assert read(name, written(name, [("weather", ARGUMENTS)]), cuts) == ("", [("weather", ARGUMENTS)])


@pytest.mark.parametrize("name", SEVERAL)
def test_several_calls_behind_some_text(name):
    calls = [("weather", ARGUMENTS), ("weather", {"city": "12"})]
    content = None if name.startswith("mistral") else "Let me see."  # its templates show one or the other
    found = read(name, written(name, calls, content), range(400))
    assert found == (content or "", calls)


def test_a_form_that_shares_the_marks_of_another_is_not_taken_for_it():
    """Else the calls of the model would reach the client as text."""
    foreign = QWEN3.replace('{"name": "{{ function.name }}", "arguments": ', "{{ function.name }}: ")
    assert tool_dialect(foreign) is Dialect.HERMES
    assert tool_form(foreign) is None
    silent = QWEN3.replace("message.tool_calls or []", "[]")  # it shows no calls, so they are what its words say
    assert tool_form(silent) is forms.HERMES


def test_marks_that_are_not_shown_do_not_hide_a_form():
    """That of Llama 4 shows two before a call."""
    assert tool_form(LLAMA3.replace('{"name": "{{', '<|python_start|><|python_end|>{"name": "{{')) is forms.LLAMA


LLAMA31 = LLAMA3.replace(
    "{% for tool_call in message.tool_calls or [] %}",
    "{% if 'tool_calls' in message and message.tool_calls|length != 1 %}"
    '{{ raise_exception("This model only supports single tool-calls at once!") }}{% endif %}'
    "{% for tool_call in message.tool_calls or [] %}",
)


def test_which_templates_show_several_calls_at_once():
    assert all(shows_several_calls(ChatTemplate(template, {})) for template, *_ in TEMPLATES.values())
    assert not shows_several_calls(ChatTemplate(LLAMA31, {}))
    assert shows_several_calls(ChatTemplate("{{ raise_exception('needs a system message') }}", {}))


def test_calls_are_shown_where_a_template_tells_them_from_text_by_a_content_that_is_none():
    """That of DeepSeek R1: it shows the content of an answer, or if that is none, the calls."""
    template = (
        "{%- for message in messages %}{%- if message['role'] == 'assistant' and message['content'] is none %}"
        "{%- for tool in message['tool_calls'] %}{{ '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + "
        "tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments'] + '\\n```' }}{%- endfor %}"
        "{%- elif message['role'] == 'assistant' %}{{ message['content'].split('</think>')[-1] }}"
        "{%- endif %}{%- endfor %}"
    )
    call = {"id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}
    shown = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```'
    for message, text in (
        ({"content": None, "tool_calls": [call]}, shown),
        ({"content": "", "tool_calls": [call]}, shown),
        ({"tool_calls": [call]}, shown),
        ({"content": "So.", "tool_calls": [call]}, "So."),
        ({"content": ""}, ""),
        ({"refusal": "no"}, ""),
    ):
        assert ChatTemplate(template, {}).render([{"role": "assistant", **message}], None, {}) == text


def test_a_content_is_not_none_where_the_template_shows_calls_beside_an_empty_one():
    """That of Ministral 3: it asks whether the content is none, and then for its length."""
    template = (
        "{% for message in messages %}{% if message.content is none and not message.tool_calls %}"
        "{{ raise_exception('no content') }}{% endif %}{% if message.content | length > 0 %}{{ message.content }}"
        "{% endif %}{% for call in message.tool_calls or [] %}[TOOL_CALLS]{{ call.function.name }}[ARGS]"
        "{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    for message in ({"content": None, "tool_calls": [call]}, {"content": "", "tool_calls": [call]}):
        shown = ChatTemplate(template, {}).render([{"role": "assistant", **message}], None, {})
        assert shown == "[TOOL_CALLS]f[ARGS]{}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_forced_calls_are_of_the_same_form(name):
    """The grammar for a forced call takes what the template writes."""
    llguidance = pytest.importorskip("llguidance")
    form = tool_form(TEMPLATES[name][0])
    text = written(name, [("weather", {"city": "Oslo", "days": [1, 2]})]).strip()
    rules = LarkRules()
    grammar = rules.text(form.grammar(rules, read_tools([TOOL]), single=True))
    matcher = llguidance.LLMatcher(
        llguidance.LLTokenizer("byte"), json.dumps({"grammars": [{"lark_grammar": grammar}]})
    )
    if name == "mistral-v3":  # models of this form leave out the id, which the template adds
        text = text.replace(', "id": "abcdefgh0"', "")
    if name == "gpt-oss":
        text = text.removesuffix("<|call|>")
    assert matcher.consume_tokens(list(text.encode())), matcher.get_error()
    assert matcher.is_accepting()
