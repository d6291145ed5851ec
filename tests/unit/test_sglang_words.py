"""Fields that SGLang calls otherwise, and would ignore under the names that the other engines know."""

import json

import pytest

from xinfer.engines.sglang.words import in_sglangs_words
from xinfer.errors import InvalidRequest, UnsupportedParameter

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
ANY_OBJECT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


def read(**fields):
    return json.loads(in_sglangs_words(json.dumps({"model": "m", **fields}).encode()))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"guided_regex": "[ab]{4}"}, {"regex": "[ab]{4}"}),
        ({"structured_outputs": {"regex": "[ab]{4}"}}, {"regex": "[ab]{4}"}),
        ({"guided_choice": ["yes", 'say "no"']}, {"ebnf": 'root ::= "yes" | "say \\"no\\""'}),
        ({"guided_json": SCHEMA}, {"response_format": AS_SCHEMA}),
        ({"guided_json": json.dumps(SCHEMA)}, {"response_format": AS_SCHEMA}),
        ({"structured_outputs": {"json": SCHEMA}, "regex": None}, {"response_format": AS_SCHEMA, "regex": None}),
        ({"guided_json_object": True, "guided_decoding_backend": "x"}, {"response_format": ANY_OBJECT}),
        ({"guided_grammar": 'root ::= "a"'}, {"ebnf": 'root ::= "a"'}),
        ({"guided_regex": None, "guided_json_object": False}, {}),
        ({"guided_json_object": False, "response_format": AS_SCHEMA}, {"response_format": AS_SCHEMA}),
        (
            {"guided_regex": "a", "response_format": {"type": "text"}},
            {"regex": "a", "response_format": {"type": "text"}},
        ),
        ({"structured_outputs": None, "response_format": {"type": "tag"}}, {"response_format": {"type": "tag"}}),
        ({"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
    ],
)
def test_a_form_is_asked_for_in_the_field_that_sglang_reads(given, expected):
    assert read(seed=1.50, **given) == {"model": "m", "seed": 1.5, **expected}


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        ({"guided_regex": "a", "regex": "b"}, InvalidRequest, "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, InvalidRequest, "response_format"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "b"}}, InvalidRequest, "structured_outputs.regex"),
        ({"guided_regex": 1}, InvalidRequest, "guided_regex"),
        ({"guided_choice": "yes"}, InvalidRequest, "guided_choice"),
        ({"guided_choice": ["yes", 1]}, InvalidRequest, "guided_choice"),
        ({"guided_poem": "yes"}, UnsupportedParameter, "guided_poem"),
        ({"guided_grammar": 'start: "a"'}, UnsupportedParameter, "guided_grammar"),
        ({"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"}, UnsupportedParameter, "guided_json"),
        ({"enable_thinking": "yes"}, InvalidRequest, "enable_thinking"),
    ],
)
def test_what_makes_no_sense_or_is_not_known_there_is_refused(given, kind, param):
    with pytest.raises(kind) as refused:
        read(**given)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    [b'{"model": "m", "seed": 1.50}', b'{"messages": [{"content": "say \\"guided_regex\\""}]}', b'{"guided_regex": '],
)
def test_any_other_body_is_left_as_it_is(body):
    assert in_sglangs_words(body) == body
