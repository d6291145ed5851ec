"""What a token engine needs of a tokenizer."""

from collections.abc import Container, Sequence
from typing import Protocol

from xinfer.generation.detokenizer import Detokenizer


def begun(ids: list[int], beginning: Sequence[int]) -> list[int]:
    """The tokens, with those before them with which the model wants everything to begin, unless they do."""
    return ids if ids[: len(beginning)] == list(beginning) else [*beginning, *ids]


class Tokenizer(Protocol):
    """Text to token ids and back. Used from the event loop and from worker threads."""

    vocabulary: Container[str]
    """The tokens, as they are written in the model's files."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """The ids of a text. ``add_special``: with what the model wants around a text that no template made."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental detokenizer, for one answer."""

    def pieces(self) -> Sequence[bytes]:
        """What every token id adds to the text of an answer: nothing, where the token is not shown."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for, special tokens included: perhaps a part of a character."""
