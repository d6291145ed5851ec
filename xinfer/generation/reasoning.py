"""Splitting what a model thinks from what it answers.

Most models put tags around their thoughts at the start of the text; gpt-oss has a channel for them (``harmony.py``).
Where the tags come from is read from the model's own files (template, vocabulary), never from its name.

On the wire thoughts are ``reasoning_content``, as DeepSeek, Xinference and SGLang have it and their clients read it.
vLLM's ``reasoning`` is read in the history, but not written as well: a client that knows both would show everything
twice, and a stream would carry every thought twice.
"""

import re
from collections.abc import Container
from enum import Enum
from typing import Protocol

import msgspec

from xinfer.errors import InvalidRequest
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.dialects import Dialect, reasoning_dialect
from xinfer.generation.harmony import HarmonySplitter
from xinfer.generation.lark import ANYTHING, LarkRules, literal
from xinfer.generation.tags import partial_tag

START = "<think>"
END = "</think>"

_SPACE = r"/[ \t\r\n]{0,4}/"
"""What models put between their thoughts and the answer."""


class Splitter(Protocol):
    """Splits a stream of text into thoughts and answer."""

    @property
    def thinking(self) -> bool:
        """What comes next belongs to the thoughts, as far as is known."""

    @property
    def over(self) -> bool:
        """All that comes is the answer."""

    def feed(self, text: str) -> tuple[str, str]:
        """The thoughts and the part of the answer that are certain now."""

    def flush(self) -> tuple[str, str]:
        """At the end of the text: what was held back."""


class ReasoningForm(msgspec.Struct, frozen=True):
    """How a model marks its thoughts: with tags, or (without) in a channel."""

    start: str = ""
    end: str = ""
    marks: tuple[str, ...] = ()
    """Tokens that have to stay visible in the text, even where the model calls them special."""

    def is_open(self, begun: str) -> bool:
        """Whether an answer that was begun like this is still in the thoughts."""
        return bool(self.start) and begun.rfind(self.start) > begun.rfind(self.end)

    def is_opened_by(self, prompt: str) -> bool:
        """Whether every answer to a prompt begins with thoughts: it has opened them, or there is a channel for them."""
        return not self.start or prompt.rstrip().endswith(self.start)

    def splitter(self, prompt: str) -> Splitter | None:
        """For an answer to a rendered prompt; ``None``: the prompt has closed the thoughts, so there are none."""
        if not self.start:
            return HarmonySplitter()
        splitter = ReasoningSplitter(prompt, self.start, self.end)
        return None if splitter.over else splitter

    def lead(self, rules: LarkRules, prompt: str) -> tuple[str, str]:
        """For grammars: what may come before everything else, and what comes before an answer that is no call."""
        if not self.start:
            thought = rules.add(ANYTHING, options=f"suffix={literal('<|end|>')}")
            whole = f"{literal('<|channel|>analysis<|message|>')} {thought} {literal('<|start|>assistant')}"
            return f"({whole})*", literal("<|channel|>final<|message|>")
        prompt = prompt.rstrip()
        if prompt.endswith(self.end):
            return "", ""
        thoughts = f"{rules.add(ANYTHING, options=f'suffix={literal(self.end)}')} {_SPACE}"
        return (thoughts if prompt.endswith(self.start) else f"({literal(self.start)} {thoughts})?"), ""


_THINK = ReasoningForm(START, END, (START, END))
_MISTRAL = ReasoningForm("[THINK]", "[/THINK]", ("[THINK]", "[/THINK]"))
_NAMED = tuple(
    ReasoningForm(start, end, (start.partition("\n")[0], end))
    for start, end in (("<|START_THINKING|>", "<|END_THINKING|>"), ("<|channel>thought", "<channel|>"))
)
"""Of Command and of Gemma 4."""
_NAMESPACE = re.compile(r"</(\w+:think)>")
"""A tag of the usual name in a namespace: Seed-OSS, MiniMax M3."""
_HARMONY = ReasoningForm(marks=("<|channel|>", "<|message|>", "<|start|>", "<|end|>"))


def reasoning_form(template: str, vocabulary: Container[str] = ()) -> ReasoningForm | None:
    """How a model with this chat template and these tokens marks its thoughts; ``None``: it does not think."""
    match reasoning_dialect(template):
        case Dialect.HARMONY:
            return _HARMONY
        case Dialect.MISTRAL:
            return _MISTRAL
        case None:
            named = next((form for form in _NAMED if form.start in template), None) or _namespaced(template)
            return named or (_THINK if START in vocabulary and END in vocabulary else None)
        case _:
            return _THINK


def _namespaced(template: str) -> ReasoningForm | None:
    found = _NAMESPACE.search(template)
    if found is None:
        return None
    start, end = f"<{found[1]}>", f"</{found[1]}>"
    return ReasoningForm(start, end, (start, end))


def thinks_unasked(template: str) -> bool:
    """Whether a model with this chat template thinks unless it is told not to: its prompt does not close the thoughts.

    Templates with a switch (``enable_thinking``) differ in what it does by default.
    """
    try:
        prompt = ChatTemplate(template, {}).render([{"role": "user", "content": "Hi"}], None, {})
    except (InvalidRequest, ValueError):
        return True  # it asks for more than a plain message; then its own default is as good as any
    return not prompt.rstrip().endswith(END)


class _Place(Enum):
    BEFORE = 1
    THINKING = 2
    LEAVING = 3
    """After the end tag, where the white space before the answer is dropped."""
    ANSWER = 4


class ReasoningSplitter:
    """Splits off thoughts between tags. White space around the thoughts belongs to neither.

    Args:
        prompt: the rendered prompt: it may open the thoughts already, or open and close them (then there are none).
        start: the tag before the thoughts.
        end: the tag behind them.
    """

    def __init__(self, prompt: str, start: str = START, end: str = END) -> None:
        last = prompt.rstrip()
        self._tag = start
        self._end_tag = end
        self._held = ""
        self._place = _Place.BEFORE
        if last.endswith(start):
            self._place = _Place.THINKING
        elif last.endswith(end):
            self._place = _Place.ANSWER
        self._started = False

    @property
    def thinking(self) -> bool:
        """Inside the thoughts."""
        return self._place is _Place.THINKING

    @property
    def over(self) -> bool:
        """The answer has begun."""
        return self._place is _Place.ANSWER

    def feed(self, text: str) -> tuple[str, str]:
        """The thoughts and the part of the answer that are certain now."""
        if self._place is _Place.ANSWER:
            return "", text
        text = self._held + text
        self._held = ""
        thoughts = ""
        if self._place is _Place.BEFORE:
            text = self._enter(text)
        if self._place is _Place.THINKING:
            thoughts, text = self._think(text)
        if self._place is _Place.LEAVING:
            text = text.lstrip()
            if text:
                self._place = _Place.ANSWER
        return thoughts, text

    def flush(self) -> tuple[str, str]:
        """At the end of the text: what was held back."""
        held, self._held = self._held, ""
        if self._place is _Place.THINKING:
            return held.rstrip(), ""
        return "", held

    def _enter(self, text: str) -> str:
        bare = text.lstrip()
        if bare.startswith(self._tag):
            self._place = _Place.THINKING
            return bare[len(self._tag) :]
        if self._tag.startswith(bare):
            self._held = text
            return ""
        self._place = _Place.ANSWER
        return text

    def _think(self, text: str) -> tuple[str, str]:
        thoughts, end, rest = text.partition(self._end_tag)
        if end:
            self._place = _Place.LEAVING
            return self._trimmed(thoughts).rstrip(), rest
        thoughts = self._trimmed(thoughts)
        certain = thoughts[: len(thoughts) - partial_tag(thoughts, self._end_tag)].rstrip()
        self._held = thoughts[len(certain) :]
        return certain, ""

    def _trimmed(self, thoughts: str) -> str:
        """Without the white space before the first thought."""
        if not self._started:
            thoughts = thoughts.lstrip()
            self._started = bool(thoughts)
        return thoughts
