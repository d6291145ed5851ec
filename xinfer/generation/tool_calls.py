"""Tool calls in a model's text, in the Hermes form that Qwen and many others write.

One looks like this::

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Whether a model writes this form is read from its chat template. Arguments are passed on as they are being written; a
block that turns out to be no call is shown as the text it is.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from xinfer.generation.tags import partial_tag

OPEN = "<tool_call>"
CLOSE = "</tool_call>"

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)+)"\s*,\s*"arguments"\s*:\s*(?=\{)')
"""A call up to its arguments, in the order in which models write it. Others are read when they are complete."""


def has_tool_calls(template: str) -> bool:
    """Whether a model with this chat template writes calls in this form."""
    return OPEN in template


class CallPart(msgspec.Struct, frozen=True):
    """A piece of call number ``index``. Its first piece has the name and an id, and perhaps no arguments yet."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class ToolCallParser:
    """Splits a stream of text into content and calls. White space around calls is dropped.

    Args:
        new_id: makes the id of a call.
        single: everything after the first call is dropped (``parallel_tool_calls: false``).
    """

    def __init__(self, new_id: Callable[[], str], *, single: bool = False) -> None:
        self._new_id = new_id
        self._single = single
        self._held = ""
        self._arguments: _JsonObject | None = None
        self._inside = False
        self.count = 0
        """Calls so far."""

    @property
    def done(self) -> bool:
        """A single call was asked for, and it is complete."""
        return self._single and self.count > 0 and not self._inside

    def feed(self, text: str) -> tuple[str, list[CallPart]]:
        """The content and the pieces of calls that are certain now."""
        self._held += text
        content: list[str] = []
        parts: list[CallPart] = []
        while self._held and not self.done:
            before = len(self._held), self._inside
            if not self._inside:
                content.append(self._outside())
            else:
                for item in self._within():
                    (content if isinstance(item, str) else parts).append(item)  # type: ignore[arg-type]
            if before == (len(self._held), self._inside):
                break
        return "".join(content), parts

    def flush(self) -> tuple[str, list[CallPart]]:
        """At the end of the text: a call that is complete but for its closing tag, or text that became no call."""
        held, self._held = self._held, ""
        if self.done or self._arguments is not None:
            return "", []
        if not self._inside:
            return ("" if self.count else held), []
        whole = self._whole(held)
        return (OPEN + held, []) if whole is None else ("", [whole])

    def _outside(self) -> str:
        """Take text up to the next opening tag, or to what could be the beginning of one."""
        text, tag, rest = self._held.partition(OPEN)
        if tag:
            self._held, self._inside = rest, True
            return text.rstrip()
        shown = text[: len(text) - partial_tag(text, OPEN)].rstrip()
        self._held = text[len(shown) :]
        return shown

    def _within(self) -> Iterator[str | CallPart]:
        if self._arguments is not None:
            yield from self._more_arguments()
            return
        head = _HEAD.match(self._held)
        if head:
            self._arguments = _JsonObject()
            self._held = self._held[head.end() :]
            self.count += 1
            yield CallPart(self.count - 1, "", self._new_id(), json.loads(f'"{head[1]}"'))
            return
        body, tag, rest = self._held.partition(CLOSE)
        if tag:
            self._held, self._inside = rest, False
            whole = self._whole(body)
            yield OPEN + body + CLOSE if whole is None else whole

    def _more_arguments(self) -> Iterator[CallPart]:
        assert self._arguments is not None
        tag = self._held.find(CLOSE)
        if not self._arguments.complete:
            size = self._arguments.feed(
                self._held[: tag if tag >= 0 else len(self._held) - partial_tag(self._held, CLOSE)]
            )
            if size:
                yield CallPart(self.count - 1, self._held[:size])
                self._held = self._held[size:]
                tag = self._held.find(CLOSE)
        if tag >= 0:
            self._held = self._held[tag + len(CLOSE) :]
            self._arguments, self._inside = None, False

    def _whole(self, body: str) -> CallPart | None:
        """A call that was not read piece by piece, or ``None`` where the text is none."""
        try:
            call: Any = json.loads(body)
        except ValueError:
            return None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        self.count += 1
        return CallPart(self.count - 1, arguments, self._new_id(), call["name"])


class _JsonObject:
    """Finds the end of a JSON object in a stream of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.complete = False

    def feed(self, text: str) -> int:
        """How many characters of the text belong to the object."""
        for index, letter in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._in_string = False
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.complete = True
                    return index + 1
        return len(text)
