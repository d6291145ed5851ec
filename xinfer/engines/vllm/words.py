"""Fields of chats and completions that vLLM calls otherwise than the other engines here do.

Bodies are decoded only where such a field may be in them, and chunks are never: what a model writes is in strings, in
which quotes are escaped, so a field's name between bare quotes is a field.
"""

import re
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest

GUIDED = "guided_"
BACKEND = "guided_decoding_backend"
"""It says how, not what."""
STRUCTURE = "structured_outputs"
TEMPLATE, THINKING = "chat_template_kwargs", "enable_thinking"
MARKS = tuple(f'"{name}'.encode() for name in (GUIDED, TEMPLATE, THINKING))

Fields = dict[str, msgspec.Raw]
_decoder = msgspec.json.Decoder(Fields)
_encoder = msgspec.json.Encoder()
_reasoning = re.compile(rb'"reasoning": ?("[^"\\]*(?:\\.[^"\\]*)*")')


def in_vllms_words(body: bytes) -> bytes:
    """A request as vLLM reads it: the form of the answer, and whether the model thinks first.

    Raises:
        InvalidRequest: the form is asked for twice, or a field is not what it must be; names it.
    """
    if not any(mark in body for mark in MARKS):
        return body
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body  # vLLM says what is wrong
    changed = _move_structure(fields) | _move_thinking(fields)
    return _encoder.encode(fields) if changed else body


def with_reasoning_content(data: bytes) -> bytes:
    """An answer, or chunks of one, in which thoughts have the name that most clients know, beside vLLM's own."""
    if b'"reasoning":' not in data:
        return data
    return _reasoning.sub(rb'"reasoning":\1,"reasoning_content":\1', data)


def _move_structure(fields: Fields) -> bool:
    """``guided_regex`` and its like become the one object that vLLM has for them."""
    guided = [name for name in fields if name.startswith(GUIDED)]
    given = {name: fields.pop(name) for name in guided}
    asked = {
        name: value for name, value in given.items() if name != BACKEND and bytes(value) not in (b"null", b"false")
    }
    if asked and bytes(fields.get(STRUCTURE, b"null")) != b"null":
        first = next(iter(asked))
        raise InvalidRequest(f"an answer has one form: leave out either {first!r} or {STRUCTURE!r}", param=first)
    if asked:
        form = {name.removeprefix(GUIDED): value for name, value in asked.items()}
        fields[STRUCTURE] = msgspec.Raw(_encoder.encode(form))
    return bool(given)


def _move_thinking(fields: Fields) -> bool:
    """``enable_thinking`` becomes an argument of the template; these may be a string that holds an object."""
    thinks = bytes(fields.pop(THINKING, b"null"))
    arguments = _decoded(fields.get(TEMPLATE, msgspec.Raw(b"null")))
    is_text = isinstance(arguments, str)
    if thinks not in (b"null", b"true", b"false"):
        raise InvalidRequest(f"{THINKING!r} must be true or false", param=THINKING)
    if thinks == b"null" and not is_text:
        return False
    if isinstance(arguments, str):
        arguments = _decoded(arguments)
    if not isinstance(arguments, dict | None):
        raise InvalidRequest(f"{TEMPLATE!r} must be an object, or a string that holds one as JSON", param=TEMPLATE)
    said = {} if thinks == b"null" else {THINKING: thinks == b"true"}
    fields[TEMPLATE] = msgspec.Raw(_encoder.encode({**(arguments or {}), **said}))
    return True


def _decoded(value: msgspec.Raw | str) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(
            f"{TEMPLATE!r} must be an object, or a string that holds one as JSON", param=TEMPLATE
        ) from None
