"""Fields of chats and completions that vLLM calls otherwise than the other engines here do.

Chunks are never decoded: what a model writes is in strings, in which quotes are escaped.
"""

import re

import msgspec

from xinfer.engines.passthrough.words import GUIDED, STRUCTURE, Fields, encoder, is_given, reworded
from xinfer.errors import InvalidRequest

BACKEND = "guided_decoding_backend"
"""It says how, not what."""

_reasoning = re.compile(rb'"reasoning": ?("[^"\\]*(?:\\.[^"\\]*)*")')


def in_vllms_words(body: bytes) -> bytes:
    """A request as vLLM reads it: the form of the answer, and whether the model thinks first.

    Raises:
        InvalidRequest: the form is asked for twice, or a field is not what it must be; names it.
    """
    return reworded(body, (GUIDED,), _move_structure)


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
    if asked and is_given(fields.get(STRUCTURE)):
        first = next(iter(asked))
        raise InvalidRequest(f"an answer has one form: leave out either {first!r} or {STRUCTURE!r}", param=first)
    if asked:
        form = {name.removeprefix(GUIDED): value for name, value in asked.items()}
        fields[STRUCTURE] = msgspec.Raw(encoder.encode(form))
    return bool(given)
