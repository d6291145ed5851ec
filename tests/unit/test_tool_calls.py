"""Tool calls in a model's text: every form that is in use, however the text is cut into pieces."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xinfer.generation.dialects import Dialect, tool_dialect
from xinfer.generation.tool_calls import (
    FORMS,
    CallPart,
    ToolForm,
    forms,
    has_tool_calls,
    json_form,
    new_call_id,
    read_tools,
)
from xinfer.generation.tool_calls import tool_form as form_of
from xinfer.generation.tool_calls.json_form import JsonForm
from xinfer.generation.tool_calls.schemas import choices_of, kinds_of, typed


def function(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


TOOLS = read_tools(
    [
        function(
            "weather",
            city={"type": "string"},
            days={"type": "array", "items": {"type": "integer"}},
            count={"type": "integer"},
            note={"type": ["string", "null"]},
        ),
        function("now"),
    ]
)


@st.composite
def pieces_of(draw, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def parse(form: ToolForm, pieces: Sequence[str], *, single: bool = False) -> tuple[str, list[tuple[str, str]]]:
    ids = iter(range(100))
    parser = form.parser(lambda: f"c{next(ids)}", TOOLS, single=single)
    results = [parser.feed(piece) for piece in pieces] + [parser.flush()]
    calls: list[tuple[str, str]] = []
    for part in (part for _, found in results for part in found):
        if part.id is not None:
            assert part.index == len(calls)
            calls.append((part.name or "", ""))
        name, arguments = calls[part.index]
        calls[part.index] = (name, arguments + part.arguments)
    assert parser.count == len(calls)
    return "".join(text for text, _ in results), calls


ARGUMENTS = '{"city": "Oslo <b> \\"}", "days": [1, 2]}'
CALL = ("weather", ARGUMENTS)
HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
V3 = f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>"
V31 = f"<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
KIMI = f"<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|>"
QWEN = "<function=weather>\n<parameter=city>\n{}\n</parameter>\n<parameter=days>\n[1, 2]\n</parameter>\n</function>"
GLM = "<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n<arg_key>count</arg_key>\n<arg_value>12</arg_value>\n"
MINIMAX = '<invoke name="weather">\n<parameter name="city">Oslo</parameter>\n<parameter name="count">3</parameter>\n'

OUTPUTS: list[tuple[ToolForm, str, str, list[tuple[str, str]]]] = [
    # Hermes
    (forms.HERMES, "no call", "no call", []),
    (forms.HERMES, "ends with space ", "ends with space ", []),
    (forms.HERMES, HERMES, "", [CALL]),
    (forms.HERMES, f"Let me see.\n{HERMES}", "Let me see.", [CALL]),
    (forms.HERMES, f"{HERMES}\n{HERMES}\n", "", [CALL, CALL]),
    (forms.HERMES, f"{HERMES}\n\nDone.", "Done.", [CALL]),
    (forms.HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
    (forms.HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (forms.HERMES, '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", "{}")]),
    (forms.HERMES, '<tool_call>{"name": "f", "arguments": {}}}\n</tool_call>', "", [("f", "{}")]),
    (forms.HERMES, '<tool_call>{"name": "a \\"b\\"", "arguments": {}}</tool_call>', "", [('a "b"', "{}")]),
    (forms.HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
    (forms.HERMES, '<tool_call>{"name": "f", "arguments": {"a": "</', "", [("f", '{"a": "</')]),
    (forms.HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}', "", [("f", '{"a": 1}')]),
    (forms.HERMES, "a  <tool_call>not json</tool_call> b", "a  <tool_call>not json</tool_call> b", []),
    (forms.HERMES, '<tool_call>{"broken</tool_call>', '<tool_call>{"broken</tool_call>', []),
    (forms.HERMES, "<tool_call>cut off", "<tool_call>cut off", []),
    (forms.HERMES, "a <tool is not a call", "a <tool is not a call", []),
    # Llama 3
    (forms.LLAMA, f'{{"name": "weather", "parameters": {ARGUMENTS}}}', "", [CALL]),
    (forms.LLAMA, f'\n{{"type": "function", "name": "weather", "parameters": {ARGUMENTS}}}', "", [CALL]),
    (forms.LLAMA, '{"type": "function", "function": {"name": "now", "parameters": {}}}', "", [("now", "{}")]),
    (
        forms.LLAMA,
        f'<|python_tag|>{{"name": "weather", "parameters": {ARGUMENTS}}}; {{"name": "now", "parameters": {{}}}}',
        "",
        [CALL, ("now", "{}")],
    ),
    (forms.LLAMA, '{"city": "Oslo"} is an object', '{"city": "Oslo"} is an object', []),
    (forms.LLAMA, '{"name": "unknown", "parameters": {}} x', '{"name": "unknown", "parameters": {}} x', []),
    (forms.LLAMA, 'Text {"name": "now", "parameters": {}}', 'Text {"name": "now", "parameters": {}}', []),
    (forms.LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    # Mistral
    (
        forms.MISTRAL_LIST,
        (
            f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}, "id": "abc123def"}}, '
            f'{{"name": "now", "arguments": {{}}}}]'
        ),
        "",
        [CALL, ("now", "{}")],
    ),
    (forms.MISTRAL_LIST, "[TOOL_CALLS][]", "[TOOL_CALLS][]", []),
    (forms.MISTRAL_LIST, "a [TOOL_CALLS] nothing", "a [TOOL_CALLS] nothing", []),
    (
        forms.MISTRAL_NAMED,
        f"So. [TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]now[ARGS]{{}}",
        "So.",
        [CALL, ("now", "{}")],
    ),
    (forms.MISTRAL_NAMED, f"[TOOL_CALLS]weather[CALL_ID]abc123def[ARGS]{ARGUMENTS}", "", [CALL]),
    (forms.MISTRAL_NAMED, f"[TOOL_CALLS]weather{ARGUMENTS}", "", [CALL]),
    # DeepSeek
    (forms.DEEPSEEK_V3, f"<｜tool▁calls▁begin｜>{V3}\n{V3}<｜tool▁calls▁end｜>", "", [CALL, CALL]),
    (forms.DEEPSEEK_V3, V3, "", [CALL]),
    (forms.DEEPSEEK_V3, "<｜tool▁calls▁begin｜> none", "<｜tool▁calls▁begin｜> none", []),
    (forms.DEEPSEEK_V3, "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>", []),
    (forms.DEEPSEEK_V31, f"Well\n\n<｜tool▁calls▁begin｜>{V31}{V31}<｜tool▁calls▁end｜>", "Well", [CALL, CALL]),
    # Kimi
    (forms.KIMI, f"<|tool_calls_section_begin|>{KIMI}{KIMI}<|tool_calls_section_end|>", "", [CALL, CALL]),
    # gpt-oss, with the thoughts taken away
    (forms.HARMONY, f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}", "", [CALL]),
    (forms.HARMONY, "<|channel|>other", "<|channel|>other", []),
    # Qwen3-Coder
    (
        forms.QWEN_XML,
        f"<tool_call>\n{QWEN.format('Oslo')}\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "",
        [("weather", '{"city": "Oslo", "days": [1, 2]}'), ("now", "{}")],
    ),
    (
        forms.QWEN_XML,
        f"<tool_call>\n{QWEN.format(chr(10) + 'a <b> ' + chr(34) + chr(10))}\n</tool_call>",
        "",
        [("weather", '{"city": "\\na <b> \\"\\n", "days": [1, 2]}')],
    ),
    (forms.QWEN_XML, "<tool_call>\n<function=now>\n</tool_call> x", "x", [("now", "{}")]),
    (forms.QWEN_XML, "<tool_call>no</tool_call> x", "<tool_call>no</tool_call> x", []),
    (forms.QWEN_XML, "<tool_call>\n<function=weather>\n<parameter=city>\nOs", "", [("weather", '{"city": "Os')]),
    # GLM
    (
        forms.GLM,
        f"ok\n<tool_call>weather\n{GLM}</tool_call>\n<tool_call>now\n</tool_call>",
        "ok",
        [("weather", '{"city": "12", "count": 12}'), ("now", "{}")],
    ),
    # MiniMax
    (
        forms.MINIMAX,
        f'<minimax:tool_call>\n{MINIMAX}</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        "",
        [("weather", '{"city": "Oslo", "count": 3}'), ("now", "{}")],
    ),
]


@pytest.mark.parametrize(
    "text",
    [
        f'<tool_call>{{"arguments": {{"a": {value}}}, "name": "f"}}</tool_call>'
        for value in ("NaN", '"\\ud83d"', "[" * 10_000 + "]" * 10_000)
    ]
    + ['<tool_call>{"name": "\\ud83d", "arguments": {}}</tool_call>'],
)
def test_what_no_answer_can_hold_is_no_call(text):
    assert parse(forms.HERMES, [text]) == (text, [])


@pytest.mark.parametrize(("form", "text", "content", "calls"), OUTPUTS)
@settings(max_examples=25)
@given(data=st.data())
def test_calls_are_split_from_the_content(form, text, content, calls, data):
    assert parse(form, list(text)) == (content, calls)
    assert parse(form, [text]) == (content, calls)
    assert parse(form, data.draw(pieces_of(text))) == (content, calls)


@st.composite
def mangled_outputs(draw) -> tuple[ToolForm, str]:
    """What a model writes that is not quite right: pieces of real outputs are missing, doubled, or elsewhere."""
    form, text, _, _ = draw(st.sampled_from(OUTPUTS))
    for _ in range(draw(st.integers(1, 3))):
        start, end, place = (draw(st.integers(0, len(text))) for _ in range(3))
        piece = text[start : min(end, start + 30)]
        text = text[:place] + piece + text[place:] if draw(st.booleans()) else text.replace(piece, "", 1)
    return form, text


@settings(max_examples=400)
@given(mangled_outputs(), st.data())
def test_whatever_a_model_writes_reads_the_same_however_it_is_cut(output, data):
    form, text = output
    assert parse(form, data.draw(pieces_of(text))) == parse(form, list(text))


@pytest.mark.parametrize("form", [*FORMS.values(), forms.MISTRAL_NAMED], ids=[*FORMS, "mistral-named"])
@given(text=st.text("abc \n.,", max_size=30), data=st.data())
def test_text_without_calls_is_shown_as_it_is(form, text, data):
    assert parse(form, data.draw(pieces_of(text))) == (text, [])


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=10) | st.integers() | st.lists(st.none(), max_size=3)),
    st.data(),
)
def test_any_arguments_in_json_arrive_as_they_were_written(arguments, data):
    written = json.dumps(arguments)
    text = f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>'
    assert parse(forms.HERMES, data.draw(pieces_of(text))) == ("", [("f", written)])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "</p" not in text), st.data())
def test_any_text_between_tags_arrives_whole(value, data):
    text = f"<tool_call>\n<function=weather>\n<parameter=city>\n{value}\n</parameter>\n</function>\n</tool_call>"
    _, [(_, arguments)] = parse(forms.QWEN_XML, data.draw(pieces_of(text)))
    assert json.loads(arguments) == {"city": value}


@pytest.mark.parametrize(
    ("written", "key", "value"),
    [
        ("12", "city", "12"),
        ("12", "count", 12),
        ("twelve", "count", "twelve"),
        ("[1]", "days", [1]),
        ("null", "note", None),
        ("12", "note", "12"),
        ("12", "unknown", 12),
        ("Oslo", "unknown", "Oslo"),
    ],
)
def test_values_without_quotes_are_typed_by_the_schema(written, key, value):
    text = f"<tool_call>weather\n<arg_key>{key}</arg_key>\n<arg_value>{written}</arg_value>\n</tool_call>"
    _, [(_, arguments)] = parse(forms.GLM, [text])
    assert json.loads(arguments) == {key: value}


@pytest.mark.parametrize(
    ("written", "kind", "value"),
    [
        ("True", "boolean", True),
        ("false", "boolean", False),
        ("None", ["integer", "null"], None),
        ("True", "string", "True"),
        ("None", "integer", "None"),
        ("{'a': [True, \"it's\"]}", "object", {"a": [True, "it's"]}),
        ("[1, None]", ["array", "null"], [1, None]),
        ("[{1, 2}]", "array", "[{1, 2}]"),
        ("[" * 10_000, "array", "[" * 10_000),
        ("{'a': ", "object", "{'a': "),
        ("NaN", "number", "NaN"),
        ('"\\ud83d"', ["string", "array"], '"\\ud83d"'),
        ("['\\ud83d']", "array", "['\\ud83d']"),
        ("1.5", "integer", 1.5),
    ],
)
def test_values_may_be_written_as_python_writes_them(written, kind, value):
    assert typed(written, {"type": kind}) == value


REFERRING = {
    "$ref": "#/$defs/Trip",
    "$defs": {
        "Size": {"type": "string", "enum": ["1", "2"]},
        "Place": {"type": "object", "properties": {"x": {"type": "integer"}}},
        "Both/ways": {"anyOf": [{"$ref": "#/$defs/Size"}, {"$ref": "#/$defs/Both~1ways"}, {"type": "integer"}]},
        "Trip": {
            "properties": {
                "size": {"$ref": "#/$defs/Size"},
                "perhaps": {"anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}]},
                "from": {"allOf": [{"$ref": "#/$defs/Place"}], "description": "where it begins"},
                "next": {"$ref": "#/$defs/Trip"},
                "circle": {"$ref": "#/$defs/Both~1ways"},
                "lost": {"$ref": "#/$defs/Nothing"},
                "any": {"anyOf": [True, {"type": "string"}]},
            },
        },
    },
}


@pytest.mark.parametrize(
    ("key", "kinds", "choices"),
    [
        ("size", {"string"}, ["1", "2"]),
        ("perhaps", {"string", "null"}, ["1", "2", None]),
        ("from", {"object"}, []),
        ("next", set(), []),
        ("circle", {"string", "integer"}, []),
        ("lost", set(), []),
        ("any", {"string"}, []),
    ],
)
def test_references_are_followed_to_what_a_value_is(key, kinds, choices):
    [tool] = read_tools([{"type": "function", "function": {"name": "f", "parameters": REFERRING}}])
    assert tool.parameters["additionalProperties"] is False
    schema = tool.resolved(key)
    assert kinds_of(schema) == kinds
    assert choices_of(schema) == choices


def test_arguments_are_passed_on_while_they_are_written():
    parser = forms.HERMES.parser(lambda: "c0", TOOLS)
    assert parser.feed('<tool_call>{"name": "f", "arg') == ("", [])
    assert parser.feed('uments": {"a') == ("", [CallPart(0, "", "c0", "f"), CallPart(0, '{"a')])
    assert parser.feed('": 1}') == ("", [CallPart(0, '": 1}')])
    assert parser.feed("}</tool_call>") == ("", [])


def test_every_letter_of_a_call_is_looked_at_once(monkeypatch):
    """Also where the arguments come before the name, as Hermes writes them, so that it is read when it is complete."""
    looked_at = 0
    feed = json_form.JsonScanner.feed

    def counted(self, text):
        nonlocal looked_at
        looked_at += len(text)
        return feed(self, text)

    monkeypatch.setattr(json_form.JsonScanner, "feed", counted)
    written = json.dumps({"a": "x" * 5000})
    text = f'<tool_call>{{"arguments": {written}, "name": "f"}}</tool_call>'
    assert parse(forms.HERMES, list(text)) == ("", [("f", written)])
    assert looked_at < 2 * len(text)


@pytest.mark.parametrize("form", [*FORMS.values(), forms.MISTRAL_NAMED], ids=[*FORMS, "mistral-named"])
@pytest.mark.parametrize("behind", ["", '{"a": 1}', "</tool_call>"])
@given(data=st.data())
def test_what_has_no_head_after_a_thousand_letters_is_text(form, behind, data):
    opening = form.openings[-1] if isinstance(form, JsonForm) else form.opening
    text = f"{opening}{'x' * 1100}{behind}"
    assert parse(form, data.draw(pieces_of(text))) == (text, [])
    parser = form.parser(lambda: "c0", TOOLS)
    shown, _ = parser.feed(text[:-10])
    assert len(shown) > 1000


def test_text_between_tags_is_passed_on_while_it_is_written():
    parser = forms.QWEN_XML.parser(lambda: "c0", TOOLS)
    assert parser.feed("<tool_call>\n<function=weather>") == ("", [CallPart(0, "{", "c0", "weather")])
    assert parser.feed("\n<parameter=city>\nOs") == ("", [CallPart(0, '"city": "Os')])
    assert parser.feed('lo\n"') == ("", [CallPart(0, 'lo\\n\\"')])
    assert parser.feed("\n</para") == ("", [])
    assert parser.feed("meter>") == ("", [CallPart(0, '"')])


@given(data=st.data())
def test_a_single_call_ends_the_text(data):
    assert parse(forms.HERMES, data.draw(pieces_of(f"{HERMES}\n{HERMES} more")), single=True) == ("", [CALL])


def test_kimi_names_its_calls_itself():
    parser = forms.KIMI.parser(lambda: "own", TOOLS)
    _, parts = parser.feed(KIMI)
    assert parts[0].id == "functions.weather:0"


def test_ids_are_of_the_kind_that_the_template_insists_on():
    assert new_call_id().startswith("call_")
    assert len(new_call_id(forms.MISTRAL_LIST)) == 9
    assert new_call_id(forms.MISTRAL_LIST).isalnum()


@pytest.mark.parametrize(
    ("template", "dialect"),
    [
        ("{{ '<tool_call>' }}{\"name\": ...}", Dialect.HERMES),
        ("<tool_call>\n<function=...>", Dialect.QWEN_XML),
        ("<tool_call>...<arg_key>", Dialect.GLM),
        ("<minimax:tool_call>...<parameter name=", Dialect.MINIMAX),
        ("<|channel|>commentary to=functions.", Dialect.HARMONY),
        ("<|tool_calls_section_begin|>", Dialect.KIMI),
        ("<｜tool▁calls▁begin｜>...```json", Dialect.DEEPSEEK_V3),
        ("<｜tool▁calls▁begin｜>", Dialect.DEEPSEEK_V31),
        ("[TOOL_CALLS]", Dialect.MISTRAL),
        ("\"parameters\": ... 'ipython'", Dialect.LLAMA_JSON),
    ],
)
def test_the_form_of_calls_is_found_in_the_template(template, dialect):
    assert tool_dialect(template) is dialect
    assert form_of(template) is FORMS[dialect]


def test_templates_without_calls_have_no_form():
    assert not has_tool_calls("plain")


def test_mistral_has_written_calls_in_four_ways():
    assert form_of("[TOOL_CALLS]...[ARGS]") is forms.MISTRAL_NAMED
    assert form_of("[TOOL_CALLS]...[CALL_ID]...[ARGS]") is forms.MISTRAL_WITH_IDS
    assert form_of('"[TOOL_CALLS]["') is forms.MISTRAL_TIGHT_LIST
    assert form_of('"[TOOL_CALLS] ["') is forms.MISTRAL_LIST
