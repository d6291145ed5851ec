"""Reading request bodies of the operations that answer with numbers: what embeddings and rerank share.

A field given as ``null`` counts as not given. Nothing is silently ignored: a field that we do not know is refused by
its name, unless it asks for nothing.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest, UnsupportedParameter

NonEmpty = Annotated[str, Meta(min_length=1)]
Truncation = Annotated[int, Meta(ge=-1, lt=2**31)]
"""Cut inputs to so many tokens; -1: to the longest that the model takes."""

TRUNCATION_RULE = "-1 (the model's longest input) or a number of tokens of at least 1"

Body = TypeVar("Body", bound=msgspec.Struct)


def decode(body: bytes, decoder: msgspec.json.Decoder[Body], must_be: Mapping[str, str]) -> Body:
    """Decode a request body. ``must_be`` says for each field what is right, for error messages.

    Raises:
        InvalidRequest: not a JSON object, a missing field, or a value of the wrong type or range; names the field.
        UnsupportedParameter: a field that we do not know, with any value but null.
    """
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            return _decode_known_fields(body, decoder.type, must_be)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from None


def check_truncation(limit: int | None) -> None:
    """Refuse 0, which would leave nothing of an input.

    Raises:
        InvalidRequest: names the field.
    """
    if limit == 0:
        raise InvalidRequest(f"'truncate_prompt_tokens' must be {TRUNCATION_RULE}", param="truncate_prompt_tokens")


def _decode_known_fields(body: bytes, kind: type[Body], must_be: Mapping[str, str]) -> Body:
    """The slow way, for a body that does not fit at once: say what is wrong with it."""
    fields = msgspec.json.decode(body)
    if not isinstance(fields, dict):
        raise InvalidRequest('the request body must be a JSON object, such as {"model": ..., ...}')
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    unknown = sorted(name for name, value in fields.items() if name not in known and value is not None)
    if unknown:
        raise UnsupportedParameter(
            f"{unknown[0]!r} is not supported here; the fields are: {', '.join(sorted(known))}", param=unknown[0]
        )
    try:
        return msgspec.convert({name: value for name, value in fields.items() if name in known}, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), must_be) from None


def _explain(text: str, must_be: Mapping[str, str]) -> InvalidRequest:
    """Msgspec writes "Expected `int`, got `str` - at `$.top_n`"; say which field and what it must be."""
    reason, _, path = text.rpartition(" - at `$.")
    if not reason:
        missing = text.partition("missing required field `")[2].rstrip("`")
        return InvalidRequest(f"the required field {missing!r} is missing" if missing else text, param=missing or None)
    name = path.rstrip("`").partition("[")[0]
    return InvalidRequest(f"{name!r} must be {must_be.get(name, 'something else')}: {reason.lower()}", param=name)
