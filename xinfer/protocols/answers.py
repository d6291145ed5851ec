"""What the answers of chat and completions are made of: token counts, log probabilities, tool calls, SSE chunks."""

import msgspec

encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"
"""The event that ends every stream."""


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request, over all its choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were known already, and not read again."""
    reasoning_tokens: int | None = None
    """Tokens of the answers that were thoughts; ``None``: the model has none."""

    def encoded(self) -> bytes:
        """The ``usage`` object as JSON."""
        total = self.prompt_tokens + self.completion_tokens
        cached = b',"prompt_tokens_details":{"cached_tokens":%d}' % self.cached_tokens if self.cached_tokens else b""
        thoughts = b""
        if self.reasoning_tokens is not None:
            thoughts = b',"completion_tokens_details":{"reasoning_tokens":%d}' % self.reasoning_tokens
        return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d%s%s}' % (
            self.prompt_tokens,
            self.completion_tokens,
            total,
            cached,
            thoughts,
        )


class TopLogprob(msgspec.Struct, frozen=True):
    """A candidate at one position. ``utf8``: the bytes of the token, which may be a part of a character."""

    token: str
    logprob: float
    utf8: list[int] | None = msgspec.field(name="bytes", default=None)


class TokenLogprob(msgspec.Struct, frozen=True):
    """The token that was chosen at one position, and the likeliest candidates there."""

    token: str
    logprob: float
    utf8: list[int] | None = msgspec.field(name="bytes", default=None)
    top_logprobs: list[TopLogprob] = []


class ToolCall(msgspec.Struct, frozen=True):
    """A complete call; ``arguments`` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str

    def encoded(self) -> bytes:
        """One element of a message's ``tool_calls``."""
        return b'{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}' % (
            encode(self.id),
            encode(self.name),
            encode(self.arguments),
        )


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A part of a call in a stream. The first part of a call carries ``id`` and ``name``, later ones only arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None

    def encoded(self) -> bytes:
        """One element of a delta's ``tool_calls``."""
        if self.id is None:
            return b'{"index":%d,"function":{"arguments":%s}}' % (self.index, encode(self.arguments))
        return b'{"index":%d,"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}' % (
            self.index,
            encode(self.id),
            encode(self.name),
            encode(self.arguments),
        )


class ChunkFrame:
    """The constant bytes around the choices of every chunk of one stream, encoded once.

    Args:
        answer_id: the ``id`` of the answer.
        kind: the ``object`` of its chunks.
        model: the name that the client used.
        created: epoch seconds.
        include_usage: every chunk says ``"usage": null``, but for one that has the counts.
    """

    def __init__(self, answer_id: str, kind: str, model: str, created: int, *, include_usage: bool) -> None:
        self._head = b'data: {"id":%s,"object":%s,"created":%d,"model":%s,"choices":[' % (
            encode(answer_id),
            encode(kind),
            created,
            encode(model),
        )
        self.end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._starts = [self._head + b'{"index":0,']

    def start(self, choice: int) -> bytes:
        """The chunk up to and with the index of its choice."""
        starts = self._starts
        while choice >= len(starts):
            starts.append(self._head + b'{"index":%d,' % len(starts))
        return starts[choice]

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the counts and no choices."""
        return b'%s],"usage":%s}\n\n' % (self._head, usage.encoded())
