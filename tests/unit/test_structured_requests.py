"""Which form of an answer a request asks for: OpenAI's name for it, and those of vLLM and Xinference."""

import json
from typing import Any

import pytest

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.chat import parse_chat
from xinfer.protocols.completions import parse_completion
from xinfer.protocols.structured import MAX_SIZE, Structure

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def structure(**fields: Any) -> Structure | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_chat(json.dumps(body).encode()).structure


@pytest.mark.parametrize(
    ("fields", "kind", "definition", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "json", {"type": "object"}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json", SCHEMA, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            "json",
            SCHEMA,
            "response_format.json_schema.schema",
        ),
        ({"guided_json": SCHEMA}, "json", SCHEMA, "guided_json"),
        ({"guided_json": json.dumps(SCHEMA)}, "json", SCHEMA, "guided_json"),
        ({"guided_json_object": True}, "json", {"type": "object"}, "guided_json_object"),
        ({"guided_choice": ["a", "é"]}, "choice", ["a", "é"], "guided_choice"),
        ({"structured_outputs": {"json": SCHEMA}}, "json", SCHEMA, "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, "json", {"type": "object"}, "structured_outputs.json_object"),
        ({"structured_outputs": {"choice": ["a"], "regex": None}}, "choice", ["a"], "structured_outputs.choice"),
    ],
)
def test_a_form_has_several_names(fields, kind, definition, param):
    found = structure(**fields)
    assert (found.kind, json.loads(found.definition), found.param) == (kind, definition, param)


def test_regular_expressions_and_grammars_are_read_as_they_are():
    assert structure(guided_regex="a+").definition == "a+"
    assert structure(structured_outputs={"regex": "a+"}).kind == "regex"
    assert structure(guided_grammar='root ::= "a"').definition == 'root ::= "a"'
    assert structure(structured_outputs={"grammar": 'start: "a"'}).kind == "grammar"


def test_completions_have_forms_too():
    body = json.dumps({"model": "m", "prompt": "x", "guided_choice": ["a", "b"]}).encode()
    assert parse_completion(body).structure.kind == "choice"


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"guided_json_object": False}])
def test_any_text_is_no_form(fields):
    assert structure(**fields) is None


def test_strict_and_white_space():
    schema = {"name": "x", "schema": SCHEMA}
    assert not structure(response_format={"type": "json_schema", "json_schema": schema}).strict
    assert structure(response_format={"type": "json_schema", "json_schema": {**schema, "strict": True}}).strict
    assert structure(guided_json=SCHEMA, guided_whitespace_pattern=" ?").white_space == " ?"
    assert structure(structured_outputs={"json": SCHEMA, "disable_any_whitespace": True}).white_space == ""
    assert structure(guided_json=SCHEMA, guided_decoding_backend="xgrammar").white_space is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"whitespace_pattern": 3}}, "structured_outputs.whitespace_pattern"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}},
            "response_format.json_schema.strict",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": '{"const": "\\ud800"}'}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice"),
        ({"guided_choice": ["a"] * 10_001}, "guided_choice"),
        ({"guided_grammar": "  "}, "guided_grammar"),
        ({"guided_grammar": "x" * (MAX_SIZE + 1)}, "guided_grammar"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        structure(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(fields, param):
    with pytest.raises(UnsupportedParameter) as caught:
        structure(**fields)
    assert caught.value.param == param
