"""Bodies of operations that only engines with a server of their own answer: what routing and the documentation need.

They are carried as they came; the engine says what it makes of the other fields.
"""

from typing import Any

import msgspec

Text = str | list[str]


class ForwardedBody(msgspec.Struct, frozen=True, kw_only=True):
    """What every one of them has."""

    model: str


class MessagesBody(ForwardedBody, frozen=True, kw_only=True):
    """Anthropic's Messages."""

    max_tokens: int
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    stream: bool = False
    tools: list[dict[str, Any]] | None = None


class CountTokensBody(ForwardedBody, frozen=True, kw_only=True):
    """The same, before it is sent."""

    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class ResponsesBody(ForwardedBody, frozen=True, kw_only=True):
    """OpenAI's Responses."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None


class TokenizeBody(ForwardedBody, frozen=True, kw_only=True):
    """Text or a chat; the answer has its tokens."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None


class DetokenizeBody(ForwardedBody, frozen=True, kw_only=True):
    """Tokens; the answer has their text."""

    tokens: list[int]


class ScoreBody(ForwardedBody, frozen=True, kw_only=True):
    """Pairs of texts; the answer has how alike, or how relevant, they are."""

    text_1: Text
    text_2: Text


class ClassifyBody(ForwardedBody, frozen=True, kw_only=True):
    """Texts; the answer has the probability of each class."""

    input: Text


class PoolingBody(ForwardedBody, frozen=True, kw_only=True):
    """Texts; the answer has the model's hidden states, pooled as it does."""

    input: str | list[str | int | list[int]]
    """A text, several, or tokens of one or several."""
