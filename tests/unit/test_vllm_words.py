"""Fields that vLLM calls otherwise, in requests and in what it answers."""

import json

import pytest

from xinfer.engines.vllm.words import in_vllms_words, with_reasoning_content
from xinfer.errors import InvalidRequest


def read(**fields):
    return json.loads(in_vllms_words(json.dumps({"model": "m", **fields}).encode()))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"guided_regex": "[ab]{4}"}, {"regex": "[ab]{4}"}),
        ({"guided_choice": ["yes", "no"]}, {"choice": ["yes", "no"]}),
        ({"guided_json": {"type": "object"}}, {"json": {"type": "object"}}),
        ({"guided_json": '{"type": "object"}'}, {"json": '{"type": "object"}'}),
        ({"guided_grammar": 'root ::= "a"', "guided_decoding_backend": "x"}, {"grammar": 'root ::= "a"'}),
        (
            {"guided_json_object": True, "guided_whitespace_pattern": " ?"},
            {"json_object": True, "whitespace_pattern": " ?"},
        ),
        ({"guided_regex": "a", "structured_outputs": None}, {"regex": "a"}),
        ({"guided_regex": None, "guided_json_object": False, "structured_outputs": {"regex": "b"}}, {"regex": "b"}),
    ],
)
def test_the_form_of_an_answer_is_asked_for_in_one_object(given, expected):
    assert read(seed=1.50, **given) == {"model": "m", "seed": 1.5, "structured_outputs": expected}


def test_what_asks_for_nothing_is_left_out():
    assert read(guided_regex=None, guided_decoding_backend="outlines", enable_thinking=None) == {"model": "m"}


BOTH = {"enable_thinking": True, "thinking": True}
"""By the one name templates are told, by the other the parsers of some."""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"enable_thinking": True}, BOTH),
        ({"enable_thinking": False, "chat_template_kwargs": {"a": 1}}, {"a": 1, **dict.fromkeys(BOTH, False)}),
        ({"enable_thinking": True, "chat_template_kwargs": {"thinking": False}}, {**BOTH, "thinking": False}),
        ({"chat_template_kwargs": '{"enable_thinking": true}'}, BOTH),
        ({"chat_template_kwargs": {"enable_thinking": True}}, BOTH),
        ({"chat_template_kwargs": {"thinking": True}}, BOTH),
        ({"chat_template_kwargs": BOTH}, BOTH),
        ({"chat_template_kwargs": {"a": 1}}, {"a": 1}),
        ({"chat_template_kwargs": [1]}, [1]),
    ],
)
def test_whether_the_model_thinks_is_an_argument_of_its_template(given, expected):
    assert read(**given) == {"model": "m", "chat_template_kwargs": expected}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"guided_regex": "a", "structured_outputs": {"regex": "b"}}, "guided_regex"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"chat_template_kwargs": "yes"}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "[1]"}, "chat_template_kwargs"),
        ({"enable_thinking": True, "chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ],
)
def test_what_makes_no_sense_is_refused(given, param):
    with pytest.raises(InvalidRequest) as refused:
        read(**given)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": [], "seed": 1.50}',
        b'{"messages": [{"content": "say \\"guided_regex\\""}]}',
        b'{"messages": [{"guided_regex": 1}]}',
        b'{"guided_regex": ',
        b'["guided_regex"]',
    ],
)
def test_any_other_body_is_left_as_it_is(body):
    assert in_vllms_words(body) == body


def test_thoughts_have_both_names():
    thoughts = 'so "reasoning": "x" \\ and\nmore'
    message = {"reasoning": thoughts, "content": 'a "reasoning": "b"', "usage": {"reasoning_tokens": 3}}
    compact = json.dumps(message, separators=(",", ":")).encode()
    for answer in (compact, json.dumps(message).encode()):
        assert json.loads(with_reasoning_content(answer)) == {**message, "reasoning_content": thoughts}
    chunks = b'data: {"delta":{"reasoning":"a"}}\n\ndata: {"delta":{"reasoning":"b"}}\n\n'
    assert with_reasoning_content(chunks).count(b'"reasoning_content":') == 2


@pytest.mark.parametrize(
    "answer", [b'{"reasoning":null,"content":"x"}', b'{"content":"\\"reasoning\\":\\"x\\""}', b"data: [DONE]\n\n"]
)
def test_an_answer_without_thoughts_is_left_as_it_is(answer):
    assert with_reasoning_content(answer) == answer
