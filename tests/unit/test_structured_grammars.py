"""Grammars of whole answers, walked through letter by letter with a tokenizer whose tokens are bytes."""

import contextlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.engines.token_engine.constraint import CACHED, Constraint, GrammarCompiler
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.detokenizer import ByteDetokenizer
from xinfer.generation.grammar import CallRules, Grammar, answer_grammar
from xinfer.generation.reasoning import reasoning_form
from xinfer.generation.tool_calls import Tool, ToolForm, forms, read_tools
from xinfer.protocols.structured import Structure, StructureKind

pytest.importorskip("llguidance")

END = 256


class BytesTokenizer:
    """Every byte is a token, 256 is the end, and the marks are tokens behind that."""

    vocabulary = frozenset[str]()

    def __init__(self, mark: str = "") -> None:
        self._mark = mark

    def pieces(self) -> list[bytes]:
        return [*(bytes([byte]) for byte in range(256)), b"", self._mark.encode()]

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(text.split(self._mark) if self._mark else [text]):
            ids += [END + 1] * (index > 0) + list(part.encode())
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join([self.token_bytes(token) for token in ids]).decode("utf-8", "replace")

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer(self.pieces())

    def token_bytes(self, token: int) -> bytes:
        return self.pieces()[token]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return prepared(BytesTokenizer())


def prepared(tokenizer: BytesTokenizer, ends: Sequence[int] = (END,)) -> GrammarCompiler:
    made = GrammarCompiler(tokenizer, ends)
    made.prepare()
    return made


def allows(constraint: Constraint, token: int) -> bool:
    mask = constraint.mask()
    assert mask is not None
    return bool(mask[token // 8] >> (token % 8) & 1)


def walk(constraint: Constraint, text: str) -> str:
    """How far a text is let through; followed by a mark where it may end there."""
    complete = False
    for index, byte in enumerate(text.encode()):
        if complete or not allows(constraint, byte):
            return text.encode()[:index].decode("utf-8", "replace")
        complete = constraint.accept(byte)
    return text + "$" if complete or allows(constraint, END) else text


def structured(kind: StructureKind, definition: Any, **options: Any) -> Structure:
    written = definition if isinstance(definition, str) else json.dumps(definition)
    return Structure(kind=kind, definition=written, param="field", **options)


def grammar_of(structure: Structure, prompt: str = "", template: str = "") -> Grammar:
    grammar = answer_grammar(structure, None, reasoning_form(template), prompt)
    assert grammar is not None
    return grammar


# --- forms of answers ---

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("structure", "text", "through"),
    [
        (structured(StructureKind.JSON, POINT), '{"x": 1, "y": -2}', '{"x": 1, "y": -2}$'),
        (structured(StructureKind.JSON, POINT), '{"x":1}', '{"x":1}$'),
        (structured(StructureKind.JSON, POINT), '{"y": 1}', '{"'),
        (structured(StructureKind.JSON, POINT), '{"x": "1"}', '{"x": '),
        (structured(StructureKind.JSON, {"type": "object"}), '{"é": [null, {}]}', '{"é": [null, {}]}$'),
        (structured(StructureKind.JSON, {"enum": ["ä", 1]}), '"ä"', '"ä"$'),
        (structured(StructureKind.JSON, POINT, white_space=""), '{"x": 1}', '{"x":'),
        (structured(StructureKind.REGEX, "[0-9]{2}/[a-c]+"), "12/abc", "12/abc$"),
        (structured(StructureKind.REGEX, "[0-9]{2}/[a-c]+"), "12/xyz", "12/"),
        (structured(StructureKind.REGEX, "a\\/\nb"), "a/\nb", "a/\nb$"),
        (structured(StructureKind.CHOICE, ["yes", "no", 'q"\\\n']), 'q"\\\n', 'q"\\\n$'),
        (structured(StructureKind.CHOICE, ["\x00\x7f\u2028😀"]), "\x00\x7f\u2028😀", "\x00\x7f\u2028😀$"),
        (structured(StructureKind.CHOICE, ["yes", "yesterday"]), "yesterday", "yesterday$"),
        (structured(StructureKind.CHOICE, ["yes", "no"]), "maybe", ""),
        (structured(StructureKind.GRAMMAR, 'start: "a" start | "b"'), "aab", "aab$"),
        (structured(StructureKind.GRAMMAR, 'root ::= "a" root | "b"'), "aab", "aab$"),
        (structured(StructureKind.GRAMMAR, 'root ::= "a" root | "b"'), "aac", "aa"),
    ],
)
def test_an_answer_has_the_form_that_was_asked_for(compiler, structure, text, through):
    assert walk(compiler.compile(grammar_of(structure)).start(), text) == through


def test_white_space_in_json_has_an_end(compiler):
    constraint = compiler.compile(grammar_of(structured(StructureKind.JSON, POINT))).start()
    assert walk(constraint, '{"x":' + " " * 40 + "1}") == '{"x":' + " " * 32


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("<think>\n", 'may be "anything" {}\n</think>\n\nyes'),
        ("assistant\n", "<think>\nwell</think>yes"),
        ("assistant\n", "yes"),
        ("<think>\n\n</think>\n\n", "yes"),
    ],
)
def test_the_form_begins_behind_the_thoughts(compiler, prompt, text):
    choice = structured(StructureKind.CHOICE, ["yes", "no"])
    constraint = compiler.compile(grammar_of(choice, prompt, "</think>")).start()
    assert walk(constraint, text) == text + "$"
    constraint = compiler.compile(grammar_of(choice, prompt, "</think>")).start()
    assert walk(constraint, text.removesuffix("yes") + "maybe") == text.removesuffix("yes")


def test_the_form_is_in_the_last_channel(compiler):
    choice = structured(StructureKind.CHOICE, ["yes", "no"])
    constraint = compiler.compile(grammar_of(choice, "", "<|channel|> analysis")).start()
    lead = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
    assert walk(constraint, f"{lead}yes") == f"{lead}yes$"


def test_sequences_with_one_grammar_do_not_know_of_each_other(compiler):
    compiled = compiler.compile(grammar_of(structured(StructureKind.CHOICE, ["ab", "cd"])))
    first, second = compiled.start(), compiled.start()
    assert not first.accept(ord("a"))
    assert not second.accept(ord("c"))
    assert allows(first, ord("b"))
    assert not allows(first, ord("d"))
    assert first.accept(ord("b"))
    assert second.accept(ord("d"))


# --- tool calls ---

TOOLS = read_tools(
    {"type": "function", "function": {"name": name, "strict": True, "parameters": {"type": "object", **schema}}}
    for name, schema in {
        "weather": {
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
        "now": {"properties": {}},
    }.items()
)
CITY = '{"city": "Oslo", "unit": "C"}'
KIMI = f"<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{CITY}<|tool_call_end|>"
V3 = f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{CITY}\n```<｜tool▁call▁end｜>"
V31 = f"<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{CITY}<｜tool▁call▁end｜>"
QWEN = "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=unit>\nC\n</parameter>\n</function>"
GLM = "<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>unit</arg_key>\n<arg_value>C</arg_value>\n"
INVOKE = (
    '<invoke name="weather">\n<parameter name="city">Oslo</parameter>\n<parameter name="unit">C</parameter>\n</invoke>'
)


class Written(NamedTuple):
    """How one family writes calls: what begins them, a call, what stands between two, and what ends them."""

    form: ToolForm
    call: str
    between: str = ""
    begin: str = ""
    end: str = ""

    @property
    def one(self) -> str:
        return self.begin + self.call + self.end

    @property
    def two(self) -> str:
        return self.begin + self.call + self.between + self.call + self.end


HERMES = Written(forms.HERMES, f'<tool_call>\n{{"name": "weather", "arguments": {CITY}}}\n</tool_call>', "\n")
WRITTEN = [
    HERMES,
    Written(forms.LLAMA, f'{{"name": "weather", "parameters": {CITY}}}', "; "),
    Written(forms.MISTRAL_LIST, f'{{"name": "weather", "arguments": {CITY}}}', ", ", "[TOOL_CALLS] [", "]"),
    Written(forms.MISTRAL_NAMED, f"[TOOL_CALLS]weather[ARGS]{CITY}"),
    Written(forms.MISTRAL_TIGHT_LIST, f'{{"name": "weather", "arguments": {CITY}}}', ", ", "[TOOL_CALLS][", "]"),
    Written(forms.MISTRAL_WITH_IDS, f"[TOOL_CALLS]weather[CALL_ID]abc123def[ARGS]{CITY}"),
    Written(forms.DEEPSEEK_V3, V3, "\n", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    Written(forms.DEEPSEEK_V31, V31, "", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    Written(forms.KIMI, KIMI, "", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    Written(forms.QWEN_XML, f"<tool_call>\n{QWEN}\n</tool_call>", "\n"),
    Written(forms.GLM, f"<tool_call>weather\n{GLM}</tool_call>", "\n"),
    Written(forms.MINIMAX, INVOKE, "\n", "<minimax:tool_call>\n", "\n</minimax:tool_call>"),
    Written(forms.HARMONY, f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{CITY}"),
]
every_family = pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written.call[:24])


def calls_of(form: ToolForm, *, forced: bool = True, single: bool = False, tools: Sequence[Tool] = TOOLS) -> CallRules:
    return CallRules(form=form, tools=tuple(tools), forced=forced, single=single)


def compiled_calls(compiler: GrammarCompiler, calls: CallRules, template: str = "") -> Constraint:
    grammar = answer_grammar(None, calls, reasoning_form(template), "")
    assert grammar is not None
    return compiler.compile(grammar).start()


@every_family
def test_forced_calls_are_written_as_the_model_was_trained_to(compiler, written):
    assert walk(compiled_calls(compiler, calls_of(written.form)), written.one) == f"{written.one}$"
    assert walk(compiled_calls(compiler, calls_of(written.form)), "Hello") == ""
    assert walk(compiled_calls(compiler, calls_of(written.form, single=True)), written.one) == f"{written.one}$"
    if written.form is not forms.HARMONY:  # its turn ends with a call
        assert walk(compiled_calls(compiler, calls_of(written.form)), written.two) == f"{written.two}$"
        assert not walk(compiled_calls(compiler, calls_of(written.form, single=True)), written.two).endswith("$")


@every_family
def test_what_is_let_through_is_read_again(written):
    parser = written.form.parser(lambda: "id", TOOLS)
    content, parts = parser.feed(written.one)
    assert content == ""
    assert parser.flush() == ("", [])
    assert parts[0].name == "weather"
    assert json.loads("".join(part.arguments for part in parts)) == {"city": "Oslo", "unit": "C"}


@every_family
@pytest.mark.parametrize(("right", "wrong"), [("weather", "wether"), ("city", "town"), ("unit", "tint")])
def test_calls_follow_the_tools(compiler, written, right, wrong):
    text = written.one.replace(right, wrong)
    through = walk(compiled_calls(compiler, calls_of(written.form)), text)
    assert len(through) < len(text)


@every_family
def test_strict_tools_leave_the_choice_to_the_model(compiler, written):
    template = "<|channel|> analysis" if written.form is forms.HARMONY else ""
    text = "<|channel|>final<|message|>Hello." if template else "Hello."
    calls = calls_of(written.form, forced=False)
    assert walk(compiled_calls(compiler, calls, template), text) == f"{text}$"
    assert walk(compiled_calls(compiler, calls, template), written.one) == f"{written.one}$"
    wrong = written.one.replace("city", "town")
    assert walk(compiled_calls(compiler, calls, template), wrong) != f"{wrong}$"


@pytest.mark.parametrize("limit", [{"maxLength": 3}, {"pattern": "^a"}])
def test_a_strict_tool_asks_for_nothing_that_cannot_be_held(limit):
    function = {"name": "f", "strict": True, "parameters": {"properties": {"x": {"type": "string", **limit}}}}
    tools = read_tools([{"type": "function", "function": function}])
    with pytest.raises(UnsupportedParameter, match=next(iter(limit))):
        answer_grammar(None, calls_of(forms.QWEN_XML, tools=tools), None, "")
    assert answer_grammar(None, calls_of(forms.HERMES, tools=tools), None, "") is not None


REFERRING = {
    "type": "object",
    "$defs": {
        "Unit": {"type": "string", "enum": ["C", "F"]},
        "Place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
    "properties": {
        "unit": {"$ref": "#/$defs/Unit"},
        "other": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}]},
        "place": {"$ref": "#/$defs/Place"},
    },
}


@pytest.mark.parametrize(
    ("key", "value", "is_held"),
    [
        ("unit", "C", True),
        ("unit", "K", False),
        ("other", "F", True),
        ("other", "null", True),
        ("other", "none", False),
        ("place", '{"x": 1}', True),
        ("place", '{"y": 1}', False),
        ("place", "Oslo", False),
    ],
)
@pytest.mark.parametrize("form", [forms.QWEN_XML, forms.DEEPSEEK_V32], ids=["qwen", "deepseek"])
def test_references_hold_strict_tools_without_quotes(compiler, form, key, value, is_held):
    tools = read_tools([{"type": "function", "function": {"name": "f", "strict": True, "parameters": REFERRING}}])
    line = "\n" if form.own_line else ""
    is_text = value in ("C", "K", "F", "none")
    argument = form.argument.replace("{key}", key).replace("{text}", json.dumps(is_text))
    start = f"{form.opening}{form.lead}f{form.named}{argument}{line}"
    text = f"{start}{value}{line}{form.value_end}{form.between}{form.behind}"
    through = walk(compiled_calls(compiler, calls_of(form, single=True, tools=tools)), text)
    assert through.removesuffix("$").startswith(start[:-1])
    assert (len(through.removesuffix("$")) == len(text)) is is_held
    if is_held:
        parser = form.parser(lambda: "id", tools)
        parts = [*parser.feed(text)[1], *parser.flush()[1]]
        written = json.loads("".join(part.arguments for part in parts))
        assert written == {key: value if is_text else json.loads(value)}


def test_nothing_is_forced_without_a_reason():
    loose = read_tools([{"type": "function", "function": {"name": "f"}}])
    assert answer_grammar(None, calls_of(forms.HERMES, forced=False, tools=loose), None, "") is None
    assert answer_grammar(None, None, reasoning_form("</think>"), "") is None


def test_an_answer_in_a_form_may_be_a_call_instead(compiler):
    choice = structured(StructureKind.CHOICE, ["yes", "no"])
    grammar = answer_grammar(choice, calls_of(forms.HERMES, forced=False), None, "")
    call = HERMES.one
    assert walk(compiler.compile(grammar).start(), "yes") == "yes$"
    assert walk(compiler.compile(grammar).start(), call) == f"{call}$"
    assert walk(compiler.compile(grammar).start(), "maybe") == ""


def test_a_mark_is_written_as_the_token_it_is():
    constraint = compiled_calls(prepared(BytesTokenizer("<tool_call>")), calls_of(forms.HERMES))
    assert allows(constraint, END + 1)
    assert not allows(constraint, ord("<"))  # spelled out, the model would not know it
    assert not constraint.accept(END + 1)
    assert walk(constraint, HERMES.one.removeprefix("<tool_call>")).endswith("$")


class PrefixingTokenizer(BytesTokenizer):
    """Puts a token before every text, and a space before a word, as tokenizers of the SentencePiece kind do."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [END, ord(" "), *super().encode(text, add_special=add_special)]


def test_a_tokenizer_that_adds_something_of_its_own_does_no_harm():
    constraint = compiled_calls(prepared(PrefixingTokenizer()), calls_of(forms.HERMES))
    assert walk(constraint, HERMES.one) == f"{HERMES.one}$"


# --- what cannot be compiled ---


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (structured(StructureKind.JSON, {"type": "objct"}), "objct"),
        (structured(StructureKind.JSON, {"type": "string", "format": "nonsense"}, strict=True), "nonsense"),
        (structured(StructureKind.JSON, {"$ref": "#/nowhere"}), "nowhere"),
        (
            structured(StructureKind.JSON, {"oneOf": [{"type": "integer"}, {"type": "number"}]}, strict=True),
            "true at once; use anyOf",
        ),
        (structured(StructureKind.JSON, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "no text"),
        (structured(StructureKind.JSON, {"$ref": "https://example.org/schema.json"}), "example.org"),
        (structured(StructureKind.REGEX, "(a"), "unclosed"),
        (structured(StructureKind.REGEX, "(?=a)b"), "look-around"),
        (structured(StructureKind.GRAMMAR, 'start: "a" missing'), "missing"),
        (structured(StructureKind.GRAMMAR, "root ::= ("), "field"),
    ],
)
def test_what_is_wrong_is_said(compiler, structure, reason):
    with pytest.raises(InvalidRequest, match=reason) as caught:
        compiler.compile(grammar_of(structure))
    assert caught.value.param == "field"
    assert "\n" not in caught.value.message


KEYWORDS = (
    "type",
    "properties",
    "required",
    "enum",
    "const",
    "items",
    "anyOf",
    "allOf",
    "pattern",
    "$ref",
    "$defs",
    "a",
)
VALUES = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["string", "object", "#/$defs/a", "é\x7f", "^a"])
)
schemas = st.dictionaries(
    st.sampled_from(KEYWORDS),
    st.recursive(
        VALUES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(schema=schemas, strict=st.booleans())
def test_any_schema_is_compiled_or_refused(compiler, schema, strict):
    def try_out(make: Callable[[], Grammar | None]) -> None:
        with contextlib.suppress(InvalidRequest):  # any other error fails the test
            grammar = make()
            assert grammar is not None
            assert compiler.compile(grammar).start().mask() is not None

    try_out(lambda: grammar_of(structured(StructureKind.JSON, schema, strict=strict)))
    function = {"name": "f", "parameters": schema, "strict": strict}
    tools = read_tools([{"type": "function", "function": function}])
    for form in (forms.HERMES, forms.GLM, forms.QWEN_XML):
        try_out(lambda form=form: answer_grammar(None, calls_of(form, tools=tools), None, ""))


def test_keywords_that_cannot_be_held_are_left_aside_unless_strict(compiler):
    schema = {"type": "string", "format": "nonsense"}
    assert walk(compiler.compile(grammar_of(structured(StructureKind.JSON, schema))).start(), '"a"') == '"a"$'


@pytest.mark.parametrize("name", ["Größe", "用户", "Box<Apple>", "Pair[int]", "two words", "a/b"])
def test_references_carry_the_names_of_classes_as_they_are(compiler, name):
    reference = "#/$defs/" + name.replace("/", "~1")
    schema = {"$defs": {name: {"const": {"$ref": name}}}, "properties": {"a": {"$ref": reference}}, "required": ["a"]}
    compiled = compiler.compile(grammar_of(structured(StructureKind.JSON, {"type": "object", **schema})))
    text = json.dumps({"a": {"$ref": name}}, ensure_ascii=False)
    assert walk(compiled.start(), text) == text + "$"


def test_a_grammar_is_compiled_once(compiler):
    grammar = grammar_of(structured(StructureKind.CHOICE, ["once"]))
    assert compiler.cached(grammar) is None
    assert compiler.compile(grammar) is compiler.compile(grammar) is compiler.cached(grammar)
    for index in range(CACHED):
        compiler.compile(grammar_of(structured(StructureKind.CHOICE, [f"other {index}"])))
    assert compiler.cached(grammar) is None


def test_a_token_that_is_not_let_through_ends_the_sequence(compiler):
    constraint = compiler.compile(grammar_of(structured(StructureKind.CHOICE, ["ab"]))).start()
    with pytest.raises(InvalidRequest):
        constraint.accept(ord("x"))
    assert constraint.mask() is None


def test_without_the_library_a_form_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    lacking = GrammarCompiler(BytesTokenizer(), {END})
    lacking.prepare()
    with pytest.raises(UnsupportedParameter, match="llguidance") as caught:
        lacking.compile(grammar_of(structured(StructureKind.CHOICE, ["a"])))
    assert caught.value.param == "field"


def test_a_model_without_an_end_can_be_held():
    endless = prepared(BytesTokenizer(), ())
    constraint = endless.compile(grammar_of(structured(StructureKind.CHOICE, ["ab"]))).start()
    assert not constraint.accept(ord("a"))
    assert constraint.accept(ord("b"))
