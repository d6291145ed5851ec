"""Text to tokens and back with the vocabulary of a GGUF file."""

import ctypes
from collections.abc import Collection, Container, Sequence

import llama_cpp.llama_cpp as c

from xinfer.engines.llama_cpp.library import Model
from xinfer.generation.detokenizer import ByteDetokenizer, Detokenizer


class LlamaTokenizer:
    """Implements ``token_engine.Tokenizer``. May be used from several threads.

    Args:
        model: whose vocabulary it is.
        visible: special tokens that are shown all the same, because somebody reads them later on.
    """

    def __init__(self, model: Model, *, visible: Collection[str] = ()) -> None:
        self._model = model  # keeps the vocabulary alive
        self._vocabulary = model.vocabulary
        self._size = model.vocabulary_size
        self._shown = _Pieces(model, special=False, visible=frozenset(visible))
        self._raw = _Pieces(model, special=True)
        self.vocabulary: Container[str] = _Vocabulary(model)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """See the protocol."""
        return tokenize(self._model, text, add_special=add_special, parse_special=True)

    def decode(self, ids: Sequence[int]) -> str:
        """See the protocol."""
        return b"".join([self._shown[token] for token in ids]).decode("utf-8", "replace")

    def detokenizer(self) -> Detokenizer:
        """See the protocol."""
        return ByteDetokenizer(self._shown)

    def pieces(self) -> Sequence[bytes]:
        """See the protocol."""
        return [self._shown[token] for token in range(self._size)]

    def token_bytes(self, token: int) -> bytes:
        """See the protocol."""
        return self._raw[token]

    def control_tokens(self) -> frozenset[str]:
        """Tokens that steer the model, as they are written."""
        tokens = (token for token in range(self._size) if c.llama_vocab_is_control(self._vocabulary, token))
        return frozenset(token_text(self._model, token) for token in tokens) - {""}

    def stop_ids(self) -> frozenset[int]:
        """Every token that ends an answer."""
        return frozenset(token for token in range(self._size) if c.llama_vocab_is_eog(self._vocabulary, token))

    def special_tokens(self) -> dict[str, str]:
        """Tokens with a role, by the names under which templates write them."""
        roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "pad", "sep_token": "sep", "mask_token": "mask"}
        found = {name: int(getattr(c, f"llama_vocab_{role}")(self._vocabulary)) for name, role in roles.items()}
        return {name: token_text(self._model, token) for name, token in found.items() if token >= 0}

    def beginning(self) -> tuple[int, ...]:
        """The token with which the model wants every text to begin, if it has one."""
        token = int(c.llama_vocab_bos(self._vocabulary))
        return (token,) if token >= 0 and c.llama_vocab_get_add_bos(self._vocabulary) else ()


def tokenize(model: Model, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    """The ids of a text.

    Args:
        model: whose vocabulary is used.
        text: any.
        add_special: with what the model wants at the beginning and the end.
        parse_special: special tokens that are written in the text are what they say; else they are mere text.
    """
    data = text.encode("utf-8", "replace")
    room = len(data) + 8
    buffer = (c.llama_token * room)()
    count = c.llama_tokenize(model.vocabulary, data, len(data), buffer, room, add_special, parse_special)
    if count < 0:
        room = -count
        buffer = (c.llama_token * room)()
        count = c.llama_tokenize(model.vocabulary, data, len(data), buffer, room, add_special, parse_special)
    return list(buffer[:count])


def token_text(model: Model, token: int) -> str:
    """A token as the file writes it; empty where there is none."""
    if not 0 <= token < model.vocabulary_size:
        return ""
    written: bytes = c.llama_vocab_get_text(model.vocabulary, token)
    return written.decode("utf-8", "replace")


class _Pieces(dict[int, bytes]):
    """The bytes of tokens, looked up when they are first needed: large vocabularies take a while.

    Args:
        model: whose tokens.
        special: those that steer the model have bytes, too.
        visible: special tokens that have bytes in any case.
    """

    def __init__(self, model: Model, *, special: bool, visible: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self._model = model
        self._special = special
        self._visible = visible

    def __missing__(self, token: int) -> bytes:
        size = 64
        buffer = ctypes.create_string_buffer(size)
        count = c.llama_token_to_piece(self._model.vocabulary, token, buffer, size, 0, self._special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = c.llama_token_to_piece(self._model.vocabulary, token, buffer, -count, 0, self._special)
        piece = buffer.raw[:count]
        if not piece and (text := token_text(self._model, token)) in self._visible:
            piece = text.encode()
        self[token] = piece
        return piece


class _Vocabulary:
    """Which tokens there are, as they are written."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __contains__(self, token: object) -> bool:
        if not isinstance(token, str):
            return False
        ids = tokenize(self._model, token, add_special=False, parse_special=True)
        return len(ids) == 1 and token_text(self._model, ids[0]) == token
