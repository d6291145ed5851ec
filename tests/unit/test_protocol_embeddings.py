import array
import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.embeddings import encode_embeddings, parse_embeddings


def body(**fields):
    return json.dumps({"model": "m", "input": "hello"} | fields).encode()


@pytest.mark.parametrize(
    ("given_input", "read"),
    [
        ("hello", ["hello"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ("\u00e9\n\u2603", ["\u00e9\n\u2603"]),
    ],
)
def test_every_form_of_input_is_a_list_of_texts_or_of_tokens(given_input, read):
    assert parse_embeddings(body(input=given_input)).inputs == read


@pytest.mark.parametrize(
    ("given_input", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["a", "b", "", "d"], "input[2]"),
        ([[1], []], "input[1]"),
        (["a", 1], "input[1]"),
        ([1, 2, "a"], "input[2]"),
        ([[1], "a"], "input[1]"),
        ([{"text": "a"}], "input[0]"),
        ([1, -2], "input[1]"),
        ([1, 2**31], "input[1]"),
        ([1.5], "input[0]"),
        ([True, False], "input[0]"),
        ([1, True], "input[1]"),
        ([[1, "x"]], "input[0][1]"),
        ([[1], [2, -1]], "input[1][1]"),
        (None, "input"),
        (7, "input"),
        ({"text": "a"}, "input"),
    ],
)
def test_a_wrong_input_is_refused_by_its_place(given_input, param):
    with pytest.raises(InvalidRequest) as caught:
        parse_embeddings(body(input=given_input))
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        parse_embeddings(body(**fields))
    assert caught.value.param == param
    assert param in caught.value.message


def test_fields_have_defaults_and_null_is_not_given():
    request = parse_embeddings(body(encoding_format=None, dimensions=None, user="u", truncate_prompt_tokens=None))
    assert (request.base64, request.dimensions, request.truncate_prompt_tokens) == (False, None, None)
    request = parse_embeddings(body(encoding_format="base64", dimensions=8, truncate_prompt_tokens=-1))
    assert (request.base64, request.dimensions, request.truncate_prompt_tokens) == (True, 8, -1)


def test_an_unknown_field_is_refused_by_its_name_unless_it_is_null():
    with pytest.raises(UnsupportedParameter) as caught:
        parse_embeddings(body(input_type="query"))
    assert (caught.value.param, caught.value.code) == ("input_type", "unsupported_parameter")
    assert parse_embeddings(body(input_type=None)).inputs == ["hello"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1]", b"null", b"\xff", b'{"input": 5, "model": ', b'{"model": "m"}', b'"x"', b"[" * 100_000],
)
def test_what_is_no_request_at_all_is_a_400(raw):
    with pytest.raises(InvalidRequest):
        parse_embeddings(raw)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_json_as_input_is_either_read_or_refused_with_a_place(value):
    raw = body(input=value)
    try:
        inputs = parse_embeddings(raw).inputs
    except InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            parse_embeddings(raw)
        assert (caught.value.param or "").startswith("input")
    else:
        assert all(inputs)
        assert len({type(item) for item in inputs}) == 1


FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


@given(FLOATS)
def test_both_encodings_carry_exactly_the_same_float32(values):
    vector = np.array(values, dtype=np.float32)
    numbers = json.loads(encode_embeddings([vector], model="m", prompt_tokens=1, as_base64=False))
    text = json.loads(encode_embeddings([vector], model="m", prompt_tokens=1, as_base64=True))
    decoded = struct.unpack(f"<{len(values)}f", base64.b64decode(text["data"][0]["embedding"]))
    assert np.array_equal(np.array(numbers["data"][0]["embedding"], dtype=np.float32), vector)
    assert np.array_equal(np.array(decoded, dtype=np.float32), vector)


def test_numbers_have_the_digits_of_a_float32():
    vector = np.array([0.1, 1 / 3], dtype=np.float32)
    assert b"[0.1,0.33333334]" in encode_embeddings([vector], model="m", prompt_tokens=1, as_base64=False)


def test_the_answer_has_openais_shape():
    vectors = [array.array("f", [0.5, -1.0]), array.array("f", [2.0, 0.0])]
    answer = json.loads(encode_embeddings(vectors, model='quo"ted', prompt_tokens=7, as_base64=False))
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [2.0, 0.0]},
        ],
        "model": 'quo"ted',
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
