"""What SGLang's server is not asked, because it would end, and what it says of other requests that it refuses."""

import json

import pytest

from xinfer.engines.sglang.checks import check_request
from xinfer.engines.sglang.refusing import refused
from xinfer.errors import ContextOverflow, InvalidRequest, NotFound

VOCABULARY = 100


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"n": 1}',
        b'{"n": null, "best_of": 1}',
        b'{"n": 128, "best_of": 128}',
        b'{"stop_regex": "a+"}',
        b'{"stop_regex": ["a+", "[b]"]}',
        b'{"stop_regex": 5}',
        b'{"n": "many"}',
        b'{"logprobs": true, "top_logprobs": 100}',
        b'{"logprobs": 5}',
        b'{"prompt": [0, 99]}',
        b'{"prompt": [[0], [99, 1]]}',
        b'{"prompt": "[100]"}',
        b'{"prompt": ["[100]", "b"]}',
        b'{"prompt": []}',
        b'{"prompt": [1.5]}',
        b'{"prompt": [{"a": 100}]}',
        b'{"input": "100"}',
        b'{"suffix": "", "bad_words": [], "use_beam_search": false, "truncate_prompt_tokens": null}',
        b'{"n": 200',
        b"\xff",
        b"[1000]",
    ],
)
def test_what_sglang_serves_or_refuses_itself_passes(body):
    check_request(body, VOCABULARY)


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        (b'{"n": 1000000}', "n", "'n' must be an integer from 1 to 128, not 1000000"),
        (b'{"n": 0}', "n", "not 0"),
        (b'{"best_of": -1}', "best_of", "not -1"),
        (b'{"prompt": [1, 100]}', "prompt", "has the token 100, and the model has the tokens 0 to 99"),
        (b'{"prompt": [-1]}', "prompt", "has the token -1"),
        (b'{"prompt": [[1], [2, 1234567890123]]}', "prompt", "has the token 1234567890123"),
        (b'{"input": [100]}', "input", "has the token 100"),
        (b'{"logprobs": true, "top_logprobs": 101}', "top_logprobs", "must be an integer from 0 to 100, .*, not 101"),
        (b'{"logprobs": -1}', "logprobs", "not -1"),
        (b'{"stop_token_ids": [1, 100]}', "stop_token_ids", "has the token 100"),
        (b'{"tokens": [-5]}', "tokens", "has the token -5"),
        (b'{"stop_regex": ["a", "("]}', "stop_regex", "must be a regular expression: missing"),
        (b'{"best_of": 3, "n": 2}', "best_of", "'best_of' other than 'n' is not supported"),
        (b'{"input_ids": [100]}', "input_ids", "has the token 100"),
        (b'{"suffix": "}"}', "suffix", "SGLang does not know 'suffix'; leave it out"),
        (b'{"allowed_token_ids": [1]}', "allowed_token_ids", "does not know"),
        (b'{"truncate_prompt_tokens": 0}', "truncate_prompt_tokens", "does not know"),
        (b'{"use_beam_search": true, "n": 2}', "use_beam_search", "does not know"),
    ],
)
def test_what_would_end_its_server_is_refused(body, field, says):
    with pytest.raises(InvalidRequest, match=says) as refusal:
        check_request(body, VOCABULARY)
    assert refusal.value.param == field


def test_of_a_model_whose_vocabulary_nobody_knows_only_impossible_tokens_are_refused():
    check_request(b'{"prompt": [123456]}', 0)
    with pytest.raises(InvalidRequest, match="has no such token"):
        check_request(b'{"prompt": [-1]}', 0)


def said(message: str) -> bytes:
    """As SGLang writes it."""
    return json.dumps({"object": "error", "message": message, "type": "BadRequestError", "param": None}).encode()


WHERE = '\n\n  File "/somewhere/http_server.py", line 1870, in chat\n    POST /v1/chat/completions'
HOT = "{'type': 'float_parsing', 'loc': ('body', 'temperature'), 'msg': 'Input should be a number', 'input': 'hot'}"
ROLE = (
    "{'type': 'value_error', 'loc': ('body', 'messages', 0, 'function-after[role(), Generic]', 'role'), "
    "'msg': \"Value error, 'role' must be one of 'system'\", 'input': 'wizard', 'ctx': {'error': ValueError('x')}}"
)
STOP = (
    "{'type': 'list_type', 'loc': ('body', 'stop', 'list[str]'), 'msg': 'Input should be a valid list', 'input': 5}\n"
    "  {'type': 'string_type', 'loc': ('body', 'stop', 'str'), 'msg': 'Input should be a valid string', 'input': 5}"
)
BYTES = "{'type': 'json_invalid', 'loc': ('body', 0), 'msg': 'JSON decode error', 'input': {}, 'ctx': {'error': 'x'}}"


@pytest.mark.parametrize(
    ("faults", "field", "message"),
    [
        (HOT, "temperature", "'temperature': Input should be a number"),
        (ROLE, "messages", "'messages': Value error, 'role' must be one of 'system'"),
        (STOP, "stop", "'stop': Input should be a valid list; or Input should be a valid string"),
        (BYTES, None, "the body: JSON decode error"),
    ],
)
def test_a_validation_error_is_shown_without_its_place_in_the_code(faults, field, message):
    error = refused(400, said(f"1 validation error:\n  {faults}{WHERE}"), {})
    assert type(error) is InvalidRequest
    assert (error.message, error.param) == (message, field)


def test_other_words_stay():
    assert refused(400, said("top_p must be in (0, 1]"), {}).message == "top_p must be in (0, 1]"
    assert type(refused(404, said("no such model"), {})) is NotFound
    assert type(refused(400, said("longer than the model's context length"), {})) is ContextOverflow
