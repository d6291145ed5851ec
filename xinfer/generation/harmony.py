"""The channels of gpt-oss: thoughts in one, the answer in another, and calls addressed to functions.

A turn is a list of messages, of which the prompt has begun the first::

    <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>the answer
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{"city": "Oslo"}<|call|>
"""

import enum
import re

from xinfer.generation.tags import begins_tag, first_tag, partial_tag

_CHANNEL = "<|channel|>"
_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", _CHANNEL)
_HEADS = (_CHANNEL, "<|start|>", " to=", "assistant", _MESSAGE, "<|constrain|>")
"""What a header begins with."""

_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=(functions\.[^\s<]+)")


class _Kind(enum.Enum):
    HEADER = enum.auto()
    THOUGHTS = enum.auto()
    ANSWER = enum.auto()
    CALL = enum.auto()


class HarmonySplitter:
    """Splits off the channel of thoughts and takes the marks away from the answer.

    Calls go on with their header, which the parser of calls reads.
    """

    def __init__(self) -> None:
        self._held = ""
        self._kind = _Kind.HEADER
        self._shown: set[_Kind] = set()
        self._fresh = False
        """Nothing of this message was passed on yet."""

    @property
    def thinking(self) -> bool:
        """Inside a message of thoughts."""
        return self._kind is _Kind.THOUGHTS

    @property
    def over(self) -> bool:
        """Never: after every message another one may come."""
        return False

    def feed(self, text: str) -> tuple[str, str]:
        """The thoughts and the part of the answer that are certain now."""
        self._held += text
        thoughts, answer = "", ""
        moved = True
        while moved and self._held:
            before = len(self._held), self._kind
            match self._kind:
                case _Kind.HEADER:
                    answer += self._header()
                case _Kind.THOUGHTS:
                    thoughts += self._body()
                case _:
                    answer += self._body()
            moved = before != (len(self._held), self._kind)
        return thoughts, answer

    def flush(self) -> tuple[str, str]:
        """At the end of the text: what was held back."""
        held, self._held = self._held, ""
        if self._kind is _Kind.HEADER:
            return "", "" if first_tag(held, _HEADS) or not held.strip() else held
        return (held, "") if self._kind is _Kind.THOUGHTS else ("", held)

    def _header(self) -> str:
        """Read up to the message; returns what a call's header hands on."""
        head, mark, rest = self._held.partition(_MESSAGE)
        if not mark:
            bare = self._held.lstrip("\n")
            if not begins_tag(bare, *_HEADS) and not bare.startswith(_HEADS):
                self._kind, self._fresh = _Kind.ANSWER, True  # a plain answer, without any header
            return ""
        self._held = rest
        self._fresh = True
        recipient = _RECIPIENT.search(head)
        if recipient is not None:
            self._kind = _Kind.CALL
            return f"{_CHANNEL}commentary to={recipient[1]} <|constrain|>json{_MESSAGE}"
        channel = _CHANNEL_NAME.search(head)
        self._kind = _Kind.THOUGHTS if channel and channel[1] == "analysis" else _Kind.ANSWER
        return ""

    def _body(self) -> str:
        kind = self._kind
        found = first_tag(self._held, _ENDS)
        if found is None:
            size = len(self._held) - partial_tag(self._held, *_ENDS)
            text, self._held = self._held[:size], self._held[size:]
        else:
            start, tag = found
            text = self._held[:start]
            # What begins the next message stays for its header.
            self._held = self._held[start if tag in ("<|start|>", _CHANNEL) else start + len(tag) :]
            self._kind = _Kind.HEADER
        text = self._on_its_own_line(kind, text)
        return text + "<|call|>" if kind is _Kind.CALL and found else text

    def _on_its_own_line(self, kind: _Kind, text: str) -> str:
        """Messages of one kind become lines of one text."""
        if not text:
            return ""
        is_next = self._fresh and kind in self._shown
        self._fresh = False
        if kind is not _Kind.CALL:
            self._shown.add(kind)
        return f"\n{text}" if is_next else text
