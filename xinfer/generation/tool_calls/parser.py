"""What the parsers of all forms have in common: text in, content and pieces of calls out."""

import abc
from collections.abc import Callable, Iterator

import msgspec

from xinfer.generation.tags import first_tag, partial_tag

LONGEST_HEAD = 1024
"""Characters between an opening and the arguments. Behind more of them there is no call, only a model that goes astray;
and they are looked at again with every token."""


class CallPart(msgspec.Struct, frozen=True):
    """A piece of call number ``index``. Its first piece has the name and an id, and perhaps no arguments yet."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class ToolCallParser(abc.ABC):
    """Splits a stream of text into content and calls.

    However the text is cut into pieces, the same comes out. White space around calls is dropped, arguments are passed
    on as they are being written, and text that turns out to be no call is shown as the text it is.

    Args:
        openings: the texts that begin a call.
        new_id: makes the id of a call.
        single: everything after the first call is dropped (``parallel_tool_calls: false``).
    """

    def __init__(self, openings: tuple[str, ...], new_id: Callable[[], str], *, single: bool = False) -> None:
        self._openings = openings
        self._new_id = new_id
        self._single = single
        self._held = ""
        """Text that nothing is decided about."""
        self._opening = ""
        """What has opened the call that is being looked at, with the space before it: shown if it becomes none."""
        self._inside = False
        self._after_call = False
        self.count = 0
        """Calls so far."""
        self.calling = False
        """A call has begun and is not complete."""

    @property
    def done(self) -> bool:
        """A single call was asked for, and it is complete."""
        return self._single and self.count > 0 and not self.calling

    def feed(self, text: str) -> tuple[str, list[CallPart]]:
        """The content and the pieces of calls that are certain now."""
        self._held += text
        content: list[str] = []
        parts: list[CallPart] = []
        moved = True
        while moved and self._held and not self.done:
            before = len(self._held), self._inside, self._stage()
            for item in self._within() if self._inside else self._outside():
                if isinstance(item, str):
                    content.append(item)
                else:
                    parts.append(item)
            moved = before != (len(self._held), self._inside, self._stage())
        return "".join(content), parts

    def flush(self) -> tuple[str, list[CallPart]]:
        """At the end of the text: a call that lacks nothing but its end, or text that became no call."""
        if self.done:
            self._held = ""
            return "", []
        if not self._inside:
            held, self._held = self._held, ""
            return ("" if self._after_call else held), []
        items = list(self._unfinished())
        self._held = ""
        shown = "".join(item for item in items if isinstance(item, str))
        return shown, [item for item in items if not isinstance(item, str)]

    # --- for the forms ---

    @abc.abstractmethod
    def _stage(self) -> object:
        """How far it is inside a call: changes when something was decided that took no text."""

    @abc.abstractmethod
    def _within(self) -> Iterator[str | CallPart]:
        """Read on behind an opening."""

    @abc.abstractmethod
    def _unfinished(self) -> Iterator[str | CallPart]:
        """What to make of the text behind an opening when there is no more."""

    def _outside(self) -> Iterator[str | CallPart]:
        """Take text up to the next opening, or to what could be the beginning of one."""
        found = first_tag(self._held, self._openings)
        end = found[0] if found else len(self._held) - partial_tag(self._held, *self._openings)
        text = self._held[:end]
        shown = text.rstrip()
        if self._after_call:
            shown = shown.lstrip()
        if shown:
            self._after_call = False
            yield shown
        if found:
            space = "" if self._after_call else text[len(text.rstrip()) :]
            self._enter(space + found[1], self._held[end + len(found[1]) :])
        else:
            self._held = text[len(text.rstrip()) :] + self._held[end:]

    def _enter(self, opening: str, rest: str) -> None:
        """Look at what may be a call."""
        self._opening, self._held, self._inside = opening, rest, True

    def _leave(self, rest: str) -> None:
        """Go back to plain text."""
        self._opening, self._held, self._inside = "", rest, False

    def _reject(self, size: int) -> str:
        """It was no call: the opening and so many characters behind it are text."""
        text = self._opening + self._held[:size]
        self._leave(self._held[size:])
        self._after_call = False
        return text

    def _begin(self, name: str, arguments: str = "", given_id: str | None = None) -> CallPart:
        """The first piece of a call."""
        self.count += 1
        self.calling = True
        self._after_call = True
        return CallPart(self.count - 1, arguments, given_id or self._new_id(), name)

    def _more(self, arguments: str) -> CallPart:
        return CallPart(self.count - 1, arguments)
