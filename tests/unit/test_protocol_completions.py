"""Legacy completions on the wire."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.answers import Usage
from xinfer.protocols.completions import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionWriter,
    parse_completion,
)


def parse(**fields: Any) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode())


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_comes_in_four_shapes(prompt, prompts):
    assert parse(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a"] * 1025, "n": 2}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"n": 1, "best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": 1}, "echo"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_wrong_request_is_refused_by_name(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_a_long_prompt_of_token_ids_is_one_prompt():
    assert len(parse(prompt=[1] * 5000, n=2).prompts) == 1


def test_values_that_ask_for_nothing():
    assert parse(suffix="", best_of=2, n=2, user="u").choices == 2
    with pytest.raises(UnsupportedParameter):
        parse(suffix="end")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 200))
def test_the_official_client_reads_chunks_and_answers(text, choice):
    writer = CompletionWriter("cmpl-1", "m", 7, include_usage=True)
    scores = CompletionLogprobs(["a", "b"], [None, -1.0], [None, {"b": -1.0}], [0, 1])
    for data in (writer.text(text, choice=choice, logprobs=scores), writer.text(text, choice=choice)):
        chunk = json.loads(data[6:])
        assert chunk["choices"][0]["text"] == text
        assert chunk["choices"][0]["index"] == choice
        assert chunk["usage"] is None
    last = Completion.model_validate(json.loads(writer.finish("stop", choice=choice)[6:]), strict=True)
    assert last.choices[0].finish_reason == "stop"
    counts = Completion.model_validate(json.loads(writer.usage(Usage(1, 2))[6:]), strict=True)
    assert counts.choices == []
    whole = writer.response([CompletionChoice(text=text, finish_reason="length")] * 2, Usage(1, 2))
    answer = Completion.model_validate(json.loads(whole), strict=True)
    assert [(one.index, one.text) for one in answer.choices] == [(0, text), (1, text)]
    assert answer.usage.total_tokens == 3
