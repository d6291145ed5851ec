"""A tokenizer from ``tokenizer.json``, with the tokenizers library alone: AutoTokenizer would take a second longer."""

import json
import re
from collections.abc import Collection, Container, Sequence
from pathlib import Path

import tokenizers

from xinfer.errors import LoadFailed, describe
from xinfer.generation.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    MarkedDetokenizer,
    WindowDetokenizer,
    byte_pieces,
)

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE_LETTER = "\u2581"
"""How SentencePiece writes a space."""


class FastTokenizer:
    """Implements ``token_engine.Tokenizer``.

    Args:
        folder: the model's.
        vocabulary_size: how many ids the model can produce.
        marks: tokens that stay in the text even where the model calls them special, because parsers look for them.

    Raises:
        LoadFailed: there is no ``tokenizer.json``, nor what one can be made of.
    """

    def __init__(self, folder: Path, vocabulary_size: int, marks: Collection[str] = ()) -> None:
        path = folder / "tokenizer.json"
        text = path.read_text(encoding="utf-8") if path.is_file() else _converted(folder)
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        # A model's file may cut or pad; requests say what they want, and are refused where it is too long.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary: Container[str] = self._ids.keys()
        self._size = vocabulary_size
        content = json.loads(text)
        self._pieces = byte_pieces(content, vocabulary_size, visible=marks)
        special = {token["content"]: token["id"] for token in content.get("added_tokens", ()) if token["special"]}
        self.control_tokens = frozenset(special) - frozenset(marks)
        """Tokens that steer the model, as they are written."""
        self._hidden = frozenset(index for token, index in special.items() if token not in marks)
        self._marks = {index: token for token, index in special.items() if token in marks}

    def id_of(self, token: str) -> int | None:
        """The id of a token as it is written in the model's files."""
        return self._ids.get(token)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """See the protocol."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """See the protocol."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def detokenizer(self) -> Detokenizer:
        """See the protocol."""
        if self._pieces is not None:
            return ByteDetokenizer(self._pieces)
        return MarkedDetokenizer(lambda: WindowDetokenizer(self.decode), self._marks)

    def pieces(self) -> Sequence[bytes]:
        """See the protocol."""
        if self._pieces is not None:
            return self._pieces
        known = self._tokenizer.id_to_token
        return [
            b"" if index in self._hidden or known(index) is None else self.token_bytes(index)
            for index in range(self._size)
        ]

    def token_bytes(self, token: int) -> bytes:
        """See the protocol."""
        if self._pieces is not None and (piece := self._pieces[token]):
            return piece
        written = self._tokenizer.id_to_token(token) or ""
        if byte := _BYTE_TOKEN.fullmatch(written):
            return bytes([int(byte[1], 16)])
        return written.replace(_SPACE_LETTER, " ").encode()


def _converted(folder: Path) -> str:
    """What would be in ``tokenizer.json``, made of the older files that a folder has (OPT and others)."""
    import transformers  # noqa: PLC0415 - takes a second, and few models need it

    try:
        found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, ImportError, TypeError, KeyError) as error:  # what it raises at files it cannot read
        raise LoadFailed(
            f"{folder} has no tokenizer.json, and none can be made of its other files: {describe(error)}"
        ) from error
    names = ["tokenizer.json", *found.vocab_files_names.values()]
    missing = [name for name in dict.fromkeys(names) if not (folder / name).is_file()]
    made = found.backend_tokenizer
    # The library makes an empty tokenizer of nothing, and of half of its files one that cuts words in another way.
    if set(missing) - {"tokenizer.json"} or not made.get_vocab_size():
        raise LoadFailed(
            f"{folder} lacks {' and '.join(missing)}: text is read and written with tokenizer.json, or with all of the "
            "older files that one can be made of"
        )
    return str(made.to_str())
