"""Splitting what a model thinks from what it answers: ``<think>...</think>`` at the start of the text.

Where the tags come from is read from the model's own files (template, vocabulary), never from its name.
"""

from collections.abc import Container
from enum import Enum

from xinfer.generation.tags import partial_tag

START = "<think>"
END = "</think>"


class _Place(Enum):
    BEFORE = 1
    THINKING = 2
    LEAVING = 3
    """After the end tag, where the white space before the answer is dropped."""
    ANSWER = 4


def has_reasoning(template: str, vocabulary: Container[str]) -> bool:
    """Whether a model with this chat template and these tokens writes its thoughts between the tags."""
    return END in template or (START in vocabulary and END in vocabulary)


class ReasoningSplitter:
    """Splits a stream of text into thoughts and answer. White space around the thoughts belongs to neither.

    Args:
        prompt: the rendered prompt: it may open the thoughts already, or open and close them (then there are none).
    """

    def __init__(self, prompt: str) -> None:
        end = prompt.rstrip()
        self._held = ""
        self._place = _Place.BEFORE
        if end.endswith(START):
            self._place = _Place.THINKING
        elif end.endswith(END):
            self._place = _Place.ANSWER
        self._started = False

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
        if bare.startswith(START):
            self._place = _Place.THINKING
            return bare[len(START) :]
        if START.startswith(bare):
            self._held = text
            return ""
        self._place = _Place.ANSWER
        return text

    def _think(self, text: str) -> tuple[str, str]:
        thoughts, end, rest = text.partition(END)
        if end:
            self._place = _Place.LEAVING
            return self._trimmed(thoughts).rstrip(), rest
        thoughts = self._trimmed(thoughts)
        certain = thoughts[: len(thoughts) - partial_tag(thoughts, END)].rstrip()
        self._held = thoughts[len(certain) :]
        return certain, ""

    def _trimmed(self, thoughts: str) -> str:
        """Without the white space before the first thought."""
        if not self._started:
            thoughts = thoughts.lstrip()
            self._started = bool(thoughts)
        return thoughts
