"""OpenAI (legacy) completions: ``parse_completion`` reads a request, ``CompletionWriter`` writes the answer.

::

    request = parse_completion(body)                 # CompletionRequest, or InvalidRequest / UnsupportedParameter
    writer = CompletionWriter(answer_id, model, created, include_usage=request.include_usage)

    # a stream: bytes of whole server-sent events
    writer.text("Hel") · writer.text("lo") · writer.finish("stop") · writer.usage(usage) · writer.done
    # not a stream: the bytes of the JSON body
    writer.response([CompletionChoice(text="Hello", finish_reason="stop")], usage)

The choices of prompt ``p`` have the indices ``p * n`` to ``p * n + n - 1``. Every method takes ``choice=`` (default 0).
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.answers import DONE, ChunkFrame, Usage, encode
from xinfer.protocols.decoding import MAX_CHOICES, GenerationRequest, TokenId, check_common, decode

__all__ = ["CompletionChoice", "CompletionLogprobs", "CompletionRequest", "CompletionWriter", "parse_completion"]

MAX_ANSWERS = 2048
"""Prompts times ``n``."""

Prompt = str | list[int]
"""Text, or token ids."""


class CompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """A validated completion request. Read ``prompts``, not ``prompt``."""

    prompt: str | list[Any]
    max_tokens: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    """0, together with ``echo``: nothing but the prompt."""
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    """How many candidates per position, beside the chosen token."""
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """One element per prompt, whatever shape it came in."""
        given = self.prompt
        if isinstance(given, str) or isinstance(given[0], int):
            return [given]
        return given


_decoder = msgspec.json.Decoder(CompletionRequest)


def parse_completion(body: bytes) -> CompletionRequest:
    """Read and check the body of a completion request.

    Raises:
        InvalidRequest: malformed JSON, a missing field, a wrong type or range.
        UnsupportedParameter: something that is right in itself, but not implemented.
    """
    request = decode(body, _decoder)
    check_common(request)
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequest("'max_tokens' must be at least 1; 0 is for requests with 'echo'", param="max_tokens")
    if isinstance(request.prompt, list):
        _check_prompts(request.prompt)
    prompts = len(request.prompts)
    if prompts > 1 and prompts * request.choices > MAX_ANSWERS:
        raise InvalidRequest(
            f"{prompts} prompts with {request.choices} answers each are too many for one request: together at most "
            f"{MAX_ANSWERS} answers are allowed",
            param="prompt",
        )
    if request.best_of is not None and request.best_of != request.choices:
        if request.best_of < request.choices:
            raise InvalidRequest(
                f"'best_of' ({request.best_of}) must be at least 'n' ({request.choices})", param="best_of"
            )
        raise UnsupportedParameter("'best_of' other than 'n' is not supported; leave it out", param="best_of")
    return request


def _check_prompts(prompts: list[Any]) -> None:
    rule = "'prompt' must be a string, a list of strings, a list of token ids, or a list of such lists"
    if not prompts:
        raise InvalidRequest(f"{rule}; this list is empty", param="prompt")
    first = prompts[0]
    if isinstance(first, str):
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise InvalidRequest(f"{rule}, not a mixture", param="prompt")
    elif isinstance(first, list):
        for index, prompt in enumerate(prompts):
            _check_ids(prompt, f"prompt[{index}]")
    else:
        _check_ids(prompts, "prompt")
        return


def _check_ids(prompt: Any, where: str) -> None:
    try:
        ids = msgspec.convert(prompt, list[TokenId])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{where} must be a list of token ids: {error}", param=where) from None
    if not ids:
        raise InvalidRequest(f"{where} is an empty list; give at least one token id", param=where)


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities in the legacy shape; ``None`` at a first prompt token, which nothing precedes.

    ``text_offset`` counts characters from the start of the choice's text.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One finished answer. ``finish_reason``: stop or length."""

    text: str
    finish_reason: str
    logprobs: CompletionLogprobs | None = None


class CompletionWriter:
    """Writes the answer to one completion request. See the module docstring.

    Args:
        answer_id: what ``id`` says; by custom it starts with ``cmpl-``.
        model: the name that the client used.
        created: epoch seconds.
        include_usage: chunks say ``"usage": null``, and a last one has the counts.
    """

    done = DONE

    def __init__(self, answer_id: str, model: str, created: int, *, include_usage: bool = False) -> None:
        self._frame = ChunkFrame(answer_id, "text_completion", model, created, include_usage=include_usage)
        self._head = b'{"id":%s,"object":"text_completion","created":%d,"model":%s,"choices":[' % (
            encode(answer_id),
            created,
            encode(model),
        )
        self._plain_end = b',"logprobs":null,"finish_reason":null}' + self._frame.end

    def text(self, text: str, *, choice: int = 0, logprobs: CompletionLogprobs | None = None) -> bytes:
        """A piece of the answer."""
        start = self._frame.start(choice) + b'"text":' + encode(text)
        if logprobs is None:
            return start + self._plain_end
        return b'%s,"logprobs":%s,"finish_reason":null}%s' % (start, encode(logprobs), self._frame.end)

    def finish(self, reason: str, *, choice: int = 0) -> bytes:
        """The last chunk of a choice: why it ended (stop, length)."""
        end = b'"text":"","logprobs":null,"finish_reason":%s}' % encode(reason)
        return self._frame.start(choice) + end + self._frame.end

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the token counts, after all choices; only with ``include_usage``."""
        return self._frame.usage(usage)

    def response(self, choices: Sequence[CompletionChoice], usage: Usage) -> bytes:
        """The whole answer of a request that does not stream."""
        encoded = b",".join(
            [
                b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":%s}'
                % (index, encode(choice.text), encode(choice.logprobs), encode(choice.finish_reason))
                for index, choice in enumerate(choices)
            ]
        )
        return b'%s%s],"usage":%s}' % (self._head, encoded, usage.encoded())
