"""Token ids to text, one at a time: a character appears when its last byte is there, and never half.

Two ways lead to the same text as decoding everything at once. Byte-level tokenizers (GPT-2, Llama 3, Qwen and most
others) map every token to fixed bytes, so a token costs one look-up. For the rest, a window of the last tokens is
decoded again.
"""

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

REPLACEMENT = "\ufffd"
MAX_HELD = 16
"""So many tokens without a whole character are no character: they are shown as they decode."""


class Detokenizer(Protocol):
    """Turns the tokens of one answer into text."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""

    def flush(self) -> str:
        """At the end: what is left of an incomplete character (as U+FFFD), else nothing."""


class ByteDetokenizer:
    """For byte-level tokenizers.

    Args:
        pieces: the bytes of every token, see ``byte_pieces``.
    """

    def __init__(self, pieces: Sequence[bytes] | Mapping[int, bytes]) -> None:
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        pieces = self._pieces
        if len(tokens) == 1:
            return self._decode(pieces[tokens[0]])
        return self._decode(b"".join([pieces[token] for token in tokens]))

    def flush(self) -> str:
        """At the end: what is left of an incomplete character."""
        return self._decode(b"", True)


class WindowDetokenizer:
    """For tokenizers whose tokens read differently beside each other (a leading space, byte fallback).

    Args:
        decode: decodes ids as the tokenizer does, without special tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = 0
        """Tokens of the window whose text is out already; they stay for the context they give."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        return "".join([self._feed_one(token) for token in tokens])

    def _feed_one(self, token: int) -> str:
        self._window.append(token)
        before = self._decode(self._window[: self._shown])
        after = self._decode(self._window)
        is_whole = len(after) > len(before) and not after.endswith(REPLACEMENT)
        if not is_whole and len(self._window) - self._shown < MAX_HELD:
            return ""
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return after[len(before) :]

    def flush(self) -> str:
        """At the end: what is left of an incomplete character."""
        before = self._decode(self._window[: self._shown])
        return self._decode(self._window)[len(before) :]


class MarkedDetokenizer:
    """For tokenizers that hide special tokens when they decode, of which some shall be seen.

    Args:
        new: makes a detokenizer for the text between two marks.
        marks: the text of each special token that is shown.
    """

    def __init__(self, new: Callable[[], Detokenizer], marks: Mapping[int, str]) -> None:
        self._new = new
        self._marks = marks
        self._between = new()

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        return "".join([self._feed_one(token) for token in tokens])

    def flush(self) -> str:
        """At the end: what is left of an incomplete character."""
        return self._between.flush()

    def _feed_one(self, token: int) -> str:
        mark = self._marks.get(token)
        if mark is None:
            return self._between.feed([token])
        text = self._between.flush() + mark
        self._between = self._new()
        return text


def byte_pieces(tokenizer: Mapping[str, Any], size: int, *, visible: Iterable[str] = ()) -> list[bytes] | None:
    """The bytes of every token id below ``size``, or ``None`` when the tokenizer is not purely byte-level.

    Args:
        tokenizer: the content of ``tokenizer.json``.
        size: how many ids the model can produce; ids without a token are empty.
        visible: special tokens that are shown all the same, because somebody reads them later on.
    """
    decoder = tokenizer.get("decoder") or {}
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    if [step.get("type") for step in steps] != ["ByteLevel"]:
        return None
    byte_of = _bytes_of_letters()
    pieces = [b""] * size
    vocabulary = dict(tokenizer["model"]["vocab"])
    hidden = set()
    for added in tokenizer.get("added_tokens", ()):
        vocabulary[added["content"]] = added["id"]
        if added["special"] and added["content"] not in set(visible):
            hidden.add(added["id"])
    for token, index in vocabulary.items():
        if index < size and index not in hidden:
            try:
                pieces[index] = bytes([byte_of[letter] for letter in token])
            except KeyError:  # not spelled in byte letters: an added token that stands for itself
                pieces[index] = token.encode()
    return pieces


def _bytes_of_letters() -> dict[str, int]:
    """The printable letter that byte-level tokenizers use for each byte: itself where it is printable Latin-1."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return letters
