"""From pieces of answers to the bytes of chat and completion responses."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from xinfer.engines.token_engine.prompts import Prompt
from xinfer.engines.token_engine.sequence import Candidates
from xinfer.engines.token_engine.text import Piece, Scored
from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.generation.tool_calls import CallPart
from xinfer.protocols.answers import TokenLogprob, ToolCall, ToolCallDelta, TopLogprob, Usage
from xinfer.protocols.chat import ChatChoice, ChatWriter
from xinfer.protocols.completions import CompletionChoice, CompletionLogprobs, CompletionWriter

LEAST_LOGPROB = -9999.0
"""What OpenAI says for a token that is next to impossible; JSON has no infinity."""


class Answer(Protocol):
    """Writes pieces in the format of one operation."""

    done: bytes

    def opening(self, choice: int) -> bytes:
        """What comes before the first piece of a choice in a stream."""

    def chunk(self, choice: int, piece: Piece) -> bytes:
        """A piece in a stream."""

    def usage(self, usage: Usage) -> bytes:
        """The last chunk, with the counts."""

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """All choices at once."""


class ChatAnswer:
    """Chat completions."""

    def __init__(self, writer: ChatWriter, tokenizer: Tokenizer, *, with_logprobs: bool) -> None:
        self._writer = writer
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs
        self.done = writer.done
        self.usage = writer.usage

    def opening(self, choice: int) -> bytes:
        """Who speaks."""
        return self._writer.role(choice=choice)

    def chunk(self, choice: int, piece: Piece) -> bytes:
        """One event for each kind of content; log probabilities go with the first of them."""
        writer = self._writer
        if piece.text and not (self._with_logprobs or piece.thoughts or piece.calls or piece.finish):
            return writer.text(piece.text, choice=choice)
        logprobs = self._logprobs(piece.scores) if piece.scores else None
        events = []
        if piece.thoughts:
            events.append(writer.reasoning(piece.thoughts, choice=choice, logprobs=logprobs))
            logprobs = None
        if piece.text or (logprobs is not None and not piece.calls):
            events.append(writer.text(piece.text, choice=choice, logprobs=logprobs))
            logprobs = None
        if piece.calls:
            deltas = [ToolCallDelta(call.index, call.arguments, call.id, call.name) for call in piece.calls]
            events.append(writer.tool_calls(deltas, choice=choice, logprobs=logprobs))
        if piece.finish is not None:
            events.append(writer.finish(piece.finish, choice=choice))
        return b"".join(events)

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """All choices at once."""
        choices = []
        for piece in pieces:
            calls = _joined_calls(piece.calls)
            choice = ChatChoice(
                text=None if calls and not piece.text else piece.text,
                finish_reason=piece.finish or "stop",
                reasoning=piece.thoughts or None,
                tool_calls=calls,
                logprobs=self._logprobs(piece.scores) if self._with_logprobs else None,
            )
            choices.append(choice)
        return self._writer.response(choices, usage)

    def _logprobs(self, scores: Iterable[Scored]) -> list[TokenLogprob]:
        shown = self._tokenizer.token_bytes
        entries = []
        for score in scores:
            own = shown(score.token)
            top = [
                TopLogprob(_readable(shown(token)), max(value, LEAST_LOGPROB), list(shown(token)))
                for token, value in score.candidates.top
            ]
            entries.append(TokenLogprob(_readable(own), max(score.candidates.chosen, LEAST_LOGPROB), list(own), top))
        return entries


class CompletionAnswer:
    """Legacy completions.

    Args:
        writer: of this answer.
        tokenizer: the model's.
        with_logprobs: the request asked for log probabilities.
        echoed: for each choice the prompt that is repeated before it, with the candidates at its tokens.
    """

    def __init__(
        self,
        writer: CompletionWriter,
        tokenizer: Tokenizer,
        *,
        with_logprobs: bool,
        echoed: Sequence[tuple[Prompt, list[Candidates | None]]] = (),
    ) -> None:
        self._writer = writer
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs
        self._echoed = echoed
        self._echoes: dict[int, _Echo] = {}
        self.done = writer.done
        self.usage = writer.usage

    def opening(self, choice: int) -> bytes:
        """The prompt, if it shall be repeated."""
        echo = self._echo(choice)
        if echo is None:
            return b""
        return self._writer.text(echo.text, choice=choice, logprobs=self._logprobs([], echo))

    def chunk(self, choice: int, piece: Piece) -> bytes:
        """The text, and the reason if it ends."""
        events = []
        if piece.text or piece.scores:
            echo = self._echo(choice)
            logprobs = self._logprobs(piece.scores, None, len(echo.text) if echo else 0)
            events.append(self._writer.text(piece.text, choice=choice, logprobs=logprobs))
        if piece.finish is not None:
            events.append(self._writer.finish(piece.finish, choice=choice))
        return b"".join(events)

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> bytes:
        """All choices at once."""
        choices = []
        for index, piece in enumerate(pieces):
            echo = self._echo(index)
            start = len(echo.text) if echo else 0
            choices.append(
                CompletionChoice(
                    text=(echo.text if echo else "") + piece.text,
                    finish_reason=piece.finish or "stop",
                    logprobs=self._logprobs(piece.scores, echo, start),
                )
            )
        return self._writer.response(choices, usage)

    def _echo(self, choice: int) -> "_Echo | None":
        """The prompt of a choice, read once its candidates are there: that is when the first token is."""
        if self._echoed and choice not in self._echoes:
            self._echoes[choice] = _Echo(*self._echoed[choice], self._tokenizer)
        return self._echoes.get(choice)

    def _logprobs(self, scores: Iterable[Scored], echo: "_Echo | None", start: int = 0) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        entries: list[tuple[int, Candidates | None, int]] = list(echo.entries) if echo else []
        entries += [(score.token, score.candidates, start + score.offset) for score in scores]
        text_of = self._text_of
        return CompletionLogprobs(
            tokens=[text_of(token) for token, _, _ in entries],
            token_logprobs=[None if found is None else max(found.chosen, LEAST_LOGPROB) for _, found, _ in entries],
            top_logprobs=[
                None
                if found is None
                else {text_of(other): max(value, LEAST_LOGPROB) for other, value in [*found.top, (token, found.chosen)]}
                for token, found, _ in entries
            ],
            text_offset=[offset for _, _, offset in entries],
        )

    def _text_of(self, token: int) -> str:
        return _readable(self._tokenizer.token_bytes(token))


class _Echo:
    """A prompt that is shown again."""

    def __init__(self, prompt: Prompt, candidates: list[Candidates | None], tokenizer: Tokenizer) -> None:
        self.text = prompt.text or tokenizer.decode(prompt.ids)
        detokenizer = tokenizer.detokenizer()
        offset = 0
        self.entries: list[tuple[int, Candidates | None, int]] = []
        for token, found in zip(prompt.ids, candidates, strict=False):  # there are none without logprobs
            self.entries.append((token, found, offset))
            offset += len(detokenizer.feed([token]))


def _readable(token: bytes) -> str:
    return token.decode("utf-8", "replace")


def _joined_calls(parts: Iterable[CallPart]) -> tuple[ToolCall, ...]:
    calls: list[tuple[str, str, list[str]]] = []
    for part in parts:
        if part.id is not None:
            calls.append((part.id, part.name or "", []))
        calls[part.index][2].append(part.arguments)
    return tuple(ToolCall(call_id, name, "".join(arguments)) for call_id, name, arguments in calls)
