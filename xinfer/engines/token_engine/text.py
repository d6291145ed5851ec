"""From the tokens of one answer to what its client is shown: text, thoughts, tool calls, log probabilities."""

from collections.abc import Iterable

import msgspec

from xinfer.engines.token_engine.sequence import Candidates, Ending, Progress
from xinfer.generation.detokenizer import Detokenizer
from xinfer.generation.reasoning import Splitter
from xinfer.generation.stop import StopStrings
from xinfer.generation.tool_calls import CallPart, ToolCallParser


class Scored(msgspec.Struct, frozen=True):
    """A shown token with its candidates. ``offset``: where its text starts in the answer, in characters."""

    token: int
    candidates: Candidates
    offset: int


class Piece(msgspec.Struct):
    """What some tokens added to an answer. ``finish``: the OpenAI reason, when the answer is complete."""

    text: str = ""
    thoughts: str = ""
    calls: list[CallPart] = []
    scores: list[Scored] = []
    finish: str | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing to show (``finish`` aside)."""
        return not (self.text or self.thoughts or self.calls or self.scores)

    def extend(self, later: "Piece") -> None:
        """Append what came later."""
        self.text += later.text
        self.thoughts += later.thoughts
        self.calls = self.calls + later.calls
        self.scores = self.scores + later.scores
        self.finish = later.finish or self.finish


class AnswerText:
    """The text of one choice. Feeding tokens one by one or all at once gives the same answer.

    Args:
        detokenizer: a fresh one.
        stops: stop strings; they are looked for in all that the model writes, thoughts and calls included.
        min_tokens: so many tokens come before a stop string counts.
        reasoning: splits off thoughts, for models that have them.
        tools: splits off tool calls, for requests that have them.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Iterable[str] = (),
        *,
        min_tokens: int = 0,
        reasoning: Splitter | None = None,
        tools: ToolCallParser | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops) if stops else None
        self._min_tokens = min_tokens
        self._reasoning = reasoning
        self._tools = tools
        self._pending: list[Scored] = []
        self._decoded = 0
        """Characters decoded so far, shown or held back."""
        self._released = 0
        """Characters let through by the stop strings."""
        self.tokens = 0
        """Tokens read so far: what usage counts."""
        self.thought_tokens: int | None = None if reasoning is None else 0
        """Those of them that were thoughts; ``None``: the model has none."""
        self.complete = False

    def feed(self, items: list[Progress]) -> Piece:
        """What these tokens add. Tokens after the end of the answer are not read."""
        piece = Piece()
        is_plain = self._stops is None and self._tools is None and self._reasoning is None
        if is_plain and not (items and items[0].candidates):
            self._feed_plain(items, piece)
            return piece
        for item in items:
            if self.complete:
                break
            self._split(self._read(item, piece), piece)
        self._release_scores(piece)
        return piece

    def _feed_plain(self, items: list[Progress], piece: Piece) -> None:
        """Tokens that nothing but the engine can end: one decoding for all of them."""
        ending = items[-1].ending if items else None
        self.tokens += len(items)
        shown = items[:-1] if ending is Ending.STOP else items
        text = self._detokenizer.feed([item.token for item in shown])
        if ending is not None:
            self._end(ending, piece)
            text += self._detokenizer.flush()
        self._split(text, piece)

    def _read(self, item: Progress, piece: Piece) -> str:
        """One token: the text that may be shown now."""
        self.tokens += 1
        text = ""
        if item.ending is not Ending.STOP:
            if item.candidates is not None:
                self._pending.append(Scored(item.token, item.candidates, self._decoded))
            text = self._detokenizer.feed([item.token])
        if item.ending is not None:
            text += self._detokenizer.flush()
        self._decoded += len(text)
        if self._stops is not None and self.tokens > self._min_tokens:
            text, stopped = self._stops.feed(text)
            if stopped:
                self._pending = [score for score in self._pending if score.offset < self._released + len(text)]
                self._end(Ending.STOP, piece)
            elif item.ending is not None:
                text += self._stops.flush()
        if item.ending is not None and not self.complete:
            self._end(item.ending, piece)
        self._released += len(text)
        return text

    def _end(self, ending: Ending, piece: Piece) -> None:
        self.complete = True
        piece.finish = ending.finish_reason

    def _release_scores(self, piece: Piece) -> None:
        """Scores go out with the text of their tokens, not before."""
        if self._pending:
            out = [score for score in self._pending if self.complete or score.offset < self._released]
            piece.scores = out
            self._pending = self._pending[len(out) :]

    def _split(self, text: str, piece: Piece) -> None:
        """Divide text into thoughts, content and calls."""
        if self._reasoning is not None:
            text = self._split_thoughts(text, self._reasoning, piece)
        if self._tools is not None:
            text = self._split_calls(text, self._tools, piece)
        piece.text += text

    def _split_thoughts(self, text: str, reasoning: Splitter, piece: Piece) -> str:
        """Take the thoughts away. While there may be any, tokens come here one by one: they are counted."""
        was_thinking = reasoning.thinking
        thoughts, text = reasoning.feed(text)
        if was_thinking or reasoning.thinking:
            self.thought_tokens = (self.thought_tokens or 0) + 1
        if self.complete:
            last, rest = reasoning.flush()
            thoughts += last
            text += rest
        if reasoning.over:
            self._reasoning = None
        piece.thoughts += thoughts
        return text

    def _split_calls(self, text: str, tools: ToolCallParser, piece: Piece) -> str:
        text, calls = tools.feed(text)
        if self.complete:
            rest, last = tools.flush()
            text += rest
            calls += last
        elif tools.done:
            self._end(Ending.STOP, piece)
        piece.calls = piece.calls + calls
        if piece.finish == "stop" and tools.count:
            piece.finish = "tool_calls"
        return text


class NoText(AnswerText):
    """Of an answer that is its prompt alone: the token that was made with it is not shown, and does not count."""

    def feed(self, items: list[Progress]) -> Piece:  # noqa: ARG002  whatever they are
        """The end of the answer."""
        piece = Piece()
        self._end(Ending.LENGTH, piece)
        return piece
