"""The wire format of ``/v1/embeddings``: OpenAI's, with vLLM's ``truncate_prompt_tokens``."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta

from xinfer.errors import InvalidRequest
from xinfer.protocols.pooling import TRUNCATION_RULE, NonEmpty, Truncation, check_truncation, decode

MAX_TOKEN_ID = 2**31 - 1


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: one vector for each of ``inputs``, which are all texts or all lists of token ids."""

    model: str
    inputs: list[str] | list[list[int]]
    base64: bool = False
    """Vectors as base64 of little-endian float32 instead of lists of numbers."""
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    """Cut longer inputs to so many tokens; -1: to the model's longest; ``None``: a longer input is an error."""


class EmbeddingsBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The request as it is on the wire."""

    model: NonEmpty
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    truncate_prompt_tokens: Truncation | None = None
    user: Any = None
    """Whom the caller serves; accepted with any value, as it changes no answer."""


_INPUT_RULE = "a string, a list of strings, a list of token ids, or a list of such lists, none of them empty"

_MUST_BE = {
    "model": "the uid of a model",
    "input": _INPUT_RULE,
    "encoding_format": '"float" or "base64"',
    "dimensions": "an integer of at least 1",
    "truncate_prompt_tokens": TRUNCATION_RULE,
}

_decoder = msgspec.json.Decoder(EmbeddingsBody)


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Decode and check a request body.

    Raises:
        InvalidRequest: not JSON, a missing field, a wrong type or range, or an empty input; names the field, for an
            input inside a list with its place ("input[3]").
        UnsupportedParameter: a field that we do not know.
    """
    request = decode(body, _decoder, _MUST_BE)
    check_truncation(request.truncate_prompt_tokens)
    return EmbeddingsRequest(
        model=request.model,
        inputs=_inputs(request.input),
        base64=request.encoding_format == "base64",
        dimensions=request.dimensions,
        truncate_prompt_tokens=request.truncate_prompt_tokens,
    )


def _inputs(value: str | list[Any]) -> list[str] | list[list[int]]:
    if isinstance(value, str):
        _refuse_empty(value, "input")
        return [value]
    _refuse_empty(value, "input")
    kinds = set(map(type, value))
    if kinds == {str}:
        if "" in value:
            _refuse_empty("", f"input[{value.index('')}]")
        return value
    if kinds == {int}:
        _check_tokens(value, "input")
        return [value]
    if kinds == {list}:
        for index, tokens in enumerate(value):
            _refuse_empty(tokens, f"input[{index}]")
            _check_tokens(tokens, f"input[{index}]")
        return value
    first = type(value[0])
    odd = next((place for place, item in enumerate(value) if type(item) is not first), 0)
    raise InvalidRequest(f"'input' must be {_INPUT_RULE}; all of one kind", param=f"input[{odd}]")


def _refuse_empty(value: str | list[Any], param: str) -> None:
    if not value:
        what = "an empty string" if value == "" else "an empty list"
        raise InvalidRequest(f"{param!r} is {what}; there is nothing to embed", param=param)


def _check_tokens(tokens: list[Any], param: str) -> None:
    """Token ids are non-negative integers; ``True`` is none."""
    if set(map(type, tokens)) == {int} and min(tokens) >= 0 and max(tokens) <= MAX_TOKEN_ID:
        return
    odd = next(place for place, token in enumerate(tokens) if type(token) is not int or not 0 <= token <= MAX_TOKEN_ID)
    raise InvalidRequest(
        f"'{param}[{odd}]' is no token id: token ids are integers from 0 to {MAX_TOKEN_ID}", param=f"{param}[{odd}]"
    )


def encode_embeddings(vectors: Sequence[Any], *, model: str, prompt_tokens: int, as_base64: bool) -> bytes:
    """The response body. Each vector is a contiguous little-endian float32 buffer: a numpy row or an ``array("f")``.

    Numbers are written with the digits that a float32 has (about nine), not with those of a float64: half the bytes,
    and they read back exactly.
    """
    write = _as_base64 if as_base64 else _as_numbers
    items = [b'{"object":"embedding","index":%d,"embedding":%b}' % pair for pair in enumerate(map(write, vectors))]
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(items),
        msgspec.json.encode(model),
        prompt_tokens,
        prompt_tokens,
    )


def _as_numbers(vector: Any) -> bytes:
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY, default=list)


def _as_base64(vector: Any) -> bytes:
    return b'"%b"' % base64.b64encode(vector)
