"""The wire format of ``/tokenize`` and ``/detokenize``: vLLM's."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.chat import ChatRequest, parse_chat
from xinfer.protocols.pooling import NonEmpty, decode

TokenId = Annotated[int, Meta(ge=0, lt=2**31)]


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text, or a chat as the model's template renders it."""

    model: NonEmpty
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    """With what the model wants around a text; a chat has that from its template. Unset: a text has it."""
    add_generation_prompt: bool | None = None
    """With the beginning of the assistant's turn; unless it says no."""
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens."""

    model: NonEmpty
    tokens: list[TokenId]


_MUST_BE: Mapping[str, str] = {
    "model": "the uid of a model",
    "prompt": "a string",
    "messages": "a non-empty list of messages",
    "tools": "a list of tools",
    "chat_template_kwargs": "an object",
    "add_special_tokens": "true or false",
    "add_generation_prompt": "true or false",
    "continue_final_message": "true or false",
    "return_token_strs": "true or false",
    "tokens": "a list of token ids",
}
_OF_CHATS = ("tools", "chat_template_kwargs", "continue_final_message")

_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """Read and check a request for tokens.

    Raises:
        InvalidRequest: malformed JSON, a wrong type, or not exactly one of ``prompt`` and ``messages``.
        UnsupportedParameter: something that is right in itself, but not implemented.
    """
    request = decode(body, _tokenize_decoder, _MUST_BE)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequest("give either 'prompt' or 'messages'", param="prompt")
    if request.messages is not None and request.add_special_tokens:
        raise UnsupportedParameter(
            "'add_special_tokens' is for a 'prompt': a chat has what its template writes", param="add_special_tokens"
        )
    if request.prompt is not None:
        for name in _OF_CHATS:
            if getattr(request, name):
                raise InvalidRequest(f"{name!r} goes with 'messages'", param=name)
    return request


def chat_of(request: TokenizeRequest, *, images: bool = False) -> ChatRequest:
    """The chat in a request that has one.

    Args:
        request: with messages.
        images: whether the model sees.

    Raises:
        InvalidRequest: a message or a tool makes no sense.
    """
    names = ("model", "messages", *_OF_CHATS, "add_generation_prompt")
    return parse_chat(msgspec.json.encode({name: getattr(request, name) for name in names}), images=images)


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """Read and check a request for text.

    Raises:
        InvalidRequest: malformed JSON, or something that is no token id.
        UnsupportedParameter: a field that we do not know.
    """
    return decode(body, _detokenize_decoder, _MUST_BE)


def encode_tokens(tokens: Sequence[int], context_length: int, texts: Sequence[str] | None) -> bytes:
    """The answer to a request for tokens. ``texts``: of every token, where they are asked for."""
    answer = {"count": len(tokens), "max_model_len": context_length, "tokens": tokens, "token_strs": texts}
    return msgspec.json.encode(answer)


def encode_text(text: str) -> bytes:
    """The answer to a request for text."""
    return msgspec.json.encode({"prompt": text})
