"""What SGLang's server ends of, or leaves out without a word. Refused before it sees it; pure."""

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.decoding import MAX_CHOICES, MUST_BE


class _Asked(msgspec.Struct):
    """The fields that are looked at."""

    n: msgspec.Raw = msgspec.Raw(b"")
    best_of: msgspec.Raw = msgspec.Raw(b"")
    logprobs: msgspec.Raw = msgspec.Raw(b"")
    top_logprobs: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    input_ids: msgspec.Raw = msgspec.Raw(b"")
    tokens: msgspec.Raw = msgspec.Raw(b"")
    stop_token_ids: msgspec.Raw = msgspec.Raw(b"")
    stop_regex: msgspec.Raw = msgspec.Raw(b"")
    suffix: msgspec.Raw = msgspec.Raw(b"")
    bad_words: msgspec.Raw = msgspec.Raw(b"")
    allowed_token_ids: msgspec.Raw = msgspec.Raw(b"")
    truncate_prompt_tokens: msgspec.Raw = msgspec.Raw(b"")
    use_beam_search: msgspec.Raw = msgspec.Raw(b"")
    prompt_logprobs: msgspec.Raw = msgspec.Raw(b"")
    prompt_embeds: msgspec.Raw = msgspec.Raw(b"")
    include_stop_str_in_output: msgspec.Raw = msgspec.Raw(b"")


Value = TypeVar("Value")
COUNTS = ("n", "best_of")
CANDIDATES = ("logprobs", "top_logprobs")
WITH_TOKENS = ("prompt", "input", "input_ids", "tokens", "stop_token_ids")
UNREAD = (
    *("suffix", "bad_words", "allowed_token_ids", "truncate_prompt_tokens", "use_beam_search"),
    *("prompt_logprobs", "prompt_embeds", "include_stop_str_in_output"),
)
"""What OpenAI or vLLM have and SGLang does not look at, though the answer would be another one."""
ASKS_NOTHING = frozenset({b"", b"null", b"false", b"[]", b'""'})
_decode = msgspec.json.Decoder(_Asked).decode
_count = msgspec.json.Decoder(int | None)
_tokens = msgspec.json.Decoder(list[int] | None)
_prompts = msgspec.json.Decoder(list[list[int]])
_patterns = msgspec.json.Decoder(str | list[str] | None)


def check_request(body: bytes, vocabulary: int) -> None:
    """Refuse more answers than a server can write at once, tokens that the model does not have, and broken patterns.

    Args:
        body: of the request; what is no JSON, or has another type, SGLang refuses itself.
        vocabulary: how many tokens the model knows; 0: nobody knows.

    Raises:
        InvalidRequest: names the field.
        UnsupportedParameter: a choice of the best answers, or another thing that SGLang does not do.
    """
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    _refuse_unread(asked)
    for name in COUNTS:
        if (count := _read(getattr(asked, name), _count)) is not None and not 1 <= count <= MAX_CHOICES:
            raise InvalidRequest(f"{name!r} must be {MUST_BE[name]}, not {count}", param=name)
    for name in CANDIDATES:
        count = _read(getattr(asked, name), _count)
        if count is not None and (count < 0 or 0 < vocabulary < count):
            allowed = f"from 0 to {vocabulary}, as many tokens as the model has" if vocabulary else "of at least 0"
            raise InvalidRequest(f"{name!r} must be an integer {allowed}, not {count}", param=name)
    if asked.best_of and (_read(asked.best_of, _count) or 1) != (_read(asked.n, _count) or 1):
        raise UnsupportedParameter("'best_of' other than 'n' is not supported; leave it out", param="best_of")
    for name in WITH_TOKENS:
        for token in _ids(getattr(asked, name)):
            if token < 0 or 0 < vocabulary <= token:
                known = f"has the tokens 0 to {vocabulary - 1}" if vocabulary else "has no such token"
                raise InvalidRequest(f"{name!r} has the token {token}, and the model {known}", param=name)
    _check_patterns(asked.stop_regex)


def _refuse_unread(asked: _Asked) -> None:
    for name in UNREAD:
        if bytes(getattr(asked, name)) not in ASKS_NOTHING:
            raise UnsupportedParameter(f"SGLang does not know {name!r}; leave it out", param=name)


def _check_patterns(given: msgspec.Raw) -> None:
    patterns = _read(given, _patterns) or ()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InvalidRequest(f"'stop_regex' must be a regular expression: {error}", param="stop_regex") from None


def _ids(given: msgspec.Raw) -> Iterable[int]:
    """The tokens in a prompt, or in several; nothing where it is text."""
    text = bytes(given)
    if not text.startswith(b"[") or b'"' in text:
        return ()
    flat: list[int] | None = _read(given, _tokens)
    if flat is not None:
        return flat
    return (token for prompt in _read(given, _prompts) or () for token in prompt)


def _read(given: msgspec.Raw, decoder: msgspec.json.Decoder[Value]) -> Value | None:
    try:
        return decoder.decode(given) if given else None
    except msgspec.DecodeError:
        return None
