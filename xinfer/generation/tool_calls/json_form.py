"""Calls whose arguments are written as JSON: Hermes, Llama 3, Mistral, DeepSeek, Kimi, gpt-oss.

Two kinds: the name is in an envelope of JSON together with the arguments, or in a header before them.
"""

import enum
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from xinfer.generation.lark import LarkRules, json_value, literal
from xinfer.generation.tags import begins_tag, first_tag, partial_tag
from xinfer.generation.tool_calls.json_scan import JsonScanner
from xinfer.generation.tool_calls.parser import LONGEST_HEAD, CallPart, ToolCallParser
from xinfer.generation.tool_calls.schemas import Tool, read_json

_ENVELOPE = re.compile(
    r'\s*\[?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"(?P<name>(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})+)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
"""An envelope up to the arguments, in the order in which models write it. Others are read when they are complete."""

_PLACES = re.compile(r"\{(name|number|id|arguments)\}")
_WRITTEN_IN = {"number": "/[0-9]{1,3}/", "id": "/[a-zA-Z0-9]{9}/"}
"""What models write in places that are neither the name nor the arguments."""


class JsonForm(msgspec.Struct, frozen=True, kw_only=True):
    """How a family of models writes calls with JSON in them."""

    openings: tuple[str, ...]
    """What begins calls; the first is what begins the first one."""
    written: str
    """A call as the model was trained to write it, with ``{name}``, ``{arguments}`` and perhaps ``{number}`` or
    ``{id}`` in it."""
    first: str = ""
    """Before the first call."""
    separator: str = ""
    last: str = ""
    """Behind the last call."""
    head: re.Pattern[str] | None = None
    """The header behind the opening, up to the arguments; ``None``: the name is in an envelope."""
    has_envelope: bool = False
    close: tuple[str, ...] = ()
    """Marks behind a call."""
    nexts: tuple[str, ...] = ()
    """Marks that lead from one call to the next one; none: every call has an opening of its own."""
    ends: tuple[str, ...] = ()
    """Marks behind the last call."""
    section: str = ""
    """The opening that stands before the first call, and is followed by one of ``nexts``."""
    is_bare: bool = False
    """An answer that begins with an envelope is a call, without any opening."""
    is_single: bool = False
    """One call ends the turn."""
    marks: tuple[str, ...] = ()
    """Tokens that have to stay visible in the text, even where the model calls them special."""
    id_alphabet: str = ""
    id_length: int = 0
    """Ids of calls, where the family's template insists on a kind."""

    def parser(self, new_id: Callable[[], str], tools: Sequence[Tool], *, single: bool = False) -> ToolCallParser:
        """A parser for one answer."""
        return JsonCallParser(self, new_id, frozenset(tool.name for tool in tools), single=single)

    @property
    def trigger(self) -> str:
        """What the text of calls begins with, for sure; empty: there is nothing that only calls begin with."""
        return "" if self.is_bare else self.openings[0]

    def grammar(self, rules: LarkRules, tools: Sequence[Tool], *, single: bool, skip: str = "") -> str:
        """The rule for one or more calls of these tools.

        Args:
            rules: where to add it.
            tools: one of them in each call.
            single: exactly one call.
            skip: what was written of it already.
        """
        begun = (self.first + self.written).removeprefix(skip)
        start = self._alternatives(rules, tools, begun)
        more = "" if single or self.is_single else f"{self._repeated(rules, tools)}*"
        return " ".join(part for part in (start, more, literal(self.last) if self.last else "") if part)

    def _repeated(self, rules: LarkRules, tools: Sequence[Tool]) -> str:
        return self._alternatives(rules, tools, self.separator + self.written)

    def _alternatives(self, rules: LarkRules, tools: Sequence[Tool], written: str) -> str:
        return rules.add(" | ".join(self._one(tool, written) for tool in tools))

    def _one(self, tool: Tool, written: str) -> str:
        text, *rest = _PLACES.split(written)
        parts: list[str] = []
        for place, following in zip(rest[::2], rest[1::2], strict=True):
            if place == "name":
                text += json.dumps(tool.name)[1:-1] if self.has_envelope else tool.name
            else:
                parts += [literal(text), _WRITTEN_IN.get(place) or _arguments(tool)]
                text = ""
            text += following
        return " ".join([*parts, literal(text)] if text else parts)


def _arguments(tool: Tool) -> str:
    return json_value(tool.parameters, strict=tool.strict)


def _unescaped(name: str) -> str:
    """A name as it stands between the quotes of JSON; empty where that is none."""
    try:
        return str(read_json(f'"{name}"'))
    except ValueError:
        return ""


class _Stage(enum.Enum):
    BETWEEN = enum.auto()
    """In a section, where another call or the end of the section comes."""
    HEAD = enum.auto()
    ARGUMENTS = enum.auto()
    ENVELOPE = enum.auto()
    """Behind the arguments, before the end of the envelope."""
    TAIL = enum.auto()
    """Behind the call, where its closing marks come."""


class JsonCallParser(ToolCallParser):
    """See ``JsonForm``."""

    def __init__(
        self, form: JsonForm, new_id: Callable[[], str], names: frozenset[str], *, single: bool = False
    ) -> None:
        super().__init__(form.openings, new_id, single=single)
        self._form = form
        self._names = names
        self._at = _Stage.HEAD
        self._scanner = JsonScanner()
        self._scanned = 0
        """Characters of an envelope that the scanner has seen."""
        self._enveloped = False
        self._called_here = False
        """This section has a call."""
        self._may_be_bare = form.is_bare

    def _stage(self) -> object:
        return self._at

    def _enter(self, opening: str, rest: str) -> None:
        super()._enter(opening, rest)
        section = self._form.section
        self._called_here = False
        if section and opening.endswith(section):
            self._at = _Stage.BETWEEN
        else:
            self._expect_head()

    def _expect_head(self) -> None:
        self._at = _Stage.HEAD
        self._scanner = JsonScanner()
        self._scanned = 0

    def _outside(self) -> Iterator[str | CallPart]:
        if self._may_be_bare:
            text = self._held.lstrip("; \t\r\n" if self._after_call else None)
            if not text:
                return
            if text.startswith("{"):
                self._enter(self._held[: len(self._held) - len(text)], text)
                return
            self._may_be_bare = begins_tag(text, *self._openings) or text.startswith(self._openings)
        yield from super()._outside()

    def _within(self) -> Iterator[str | CallPart]:
        match self._at:
            case _Stage.BETWEEN:
                yield from self._between()
            case _Stage.HEAD:
                yield from self._head()
            case _Stage.ARGUMENTS:
                yield from self._more_arguments()
            case _Stage.ENVELOPE:
                size = self._scanner.feed(self._held[: self._end()])
                self._held = self._held[size:]
                if self._scanner.complete or self._is_closing():
                    self._at = _Stage.TAIL
            case _Stage.TAIL:
                self._tail()

    def _unfinished(self) -> Iterator[str | CallPart]:
        if self._at is _Stage.ARGUMENTS:
            size = self._scanner.feed(self._held)
            if size:
                yield self._more(self._held[:size])
        elif self._at is _Stage.HEAD or (self._at is _Stage.BETWEEN and not self._called_here):
            yield self._reject(len(self._held))

    # --- stages ---

    def _between(self) -> Iterator[str | CallPart]:
        form = self._form
        text = self._held.lstrip()
        space = self._held[: len(self._held) - len(text)]
        found = next((mark for mark in form.nexts if text.startswith(mark)), None)
        if found is not None:
            self._opening = ("" if self._called_here else self._opening) + space + found
            self._held = text[len(found) :]
            self._expect_head()
        elif (end := next((mark for mark in form.ends if text.startswith(mark)), None)) is not None:
            if self._called_here:
                self._leave(text[len(end) :])
            else:
                yield self._reject(len(space) + len(end))
        elif not begins_tag(text, *form.nexts, *form.ends):
            if self._called_here:
                self._leave(self._held)
            else:
                yield self._reject(0)

    def _head(self) -> Iterator[str | CallPart]:
        form = self._form
        seen = self._held[:LONGEST_HEAD]
        found = first_tag(seen, (*form.close, *form.openings))
        end = found[0] if found else len(seen)
        head = form.head.match(self._held, 0, end) if form.head else None
        if head is not None:
            yield self._begin(head["name"], given_id=head.groupdict().get("id"))
            self._read_arguments(head.end(), enveloped=False)
            return
        bare = self._held.lstrip().removeprefix("[").lstrip()
        if form.has_envelope and bare.startswith("{"):
            head = _ENVELOPE.match(self._held)
            name = _unescaped(head["name"]) if head else ""
            if head is not None and name and self._is_known(name):
                yield self._begin(name)
                self._read_arguments(head.end(), enveloped=True)
            else:
                yield from self._whole(bare)
            return
        if found is not None and found[1] in form.close:
            yield self._reject(end + len(found[1]))
        elif found is not None or (form.head is None and bare) or len(seen) == LONGEST_HEAD:
            yield self._reject(0)

    def _whole(self, bare: str) -> Iterator[str | CallPart]:
        """An envelope that is not in the usual order, once it is complete."""
        self._scanned += self._scanner.feed(bare[self._scanned :])
        if not self._scanner.complete:
            return
        rest = bare[self._scanned :]
        call = self._read_envelope(bare[: self._scanned])
        if call is None:
            yield self._reject(len(self._held) - len(rest))
            return
        yield call
        self.calling = False
        self._called_here = True
        self._held = rest
        self._at = _Stage.TAIL

    def _read_envelope(self, text: str) -> CallPart | None:
        try:
            call: Any = read_json(text)
        except ValueError:
            return None
        inner = call.get("function")
        call = inner if isinstance(inner, dict) else call
        name = call.get("name")
        arguments = call.get("arguments", call.get("parameters"))
        if not isinstance(name, str) or not self._is_known(name) or (arguments is None and self._form.is_bare):
            return None
        if not isinstance(arguments, str):
            arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
        return self._begin(name, arguments)

    def _is_known(self, name: str) -> bool:
        """Without an opening, only the name tells a call from an answer in JSON."""
        return bool(self._opening.strip()) or not self._form.is_bare or name in self._names

    def _read_arguments(self, start: int, *, enveloped: bool) -> None:
        self._held = self._held[start:]
        self._enveloped = enveloped
        self._called_here = True
        self._scanner = JsonScanner()
        self._at = _Stage.ARGUMENTS

    def _more_arguments(self) -> Iterator[CallPart]:
        size = self._scanner.feed(self._held[: self._end()])
        if size:
            yield self._more(self._held[:size])
            self._held = self._held[size:]
        if self._scanner.complete:
            self.calling = False
            self._scanner = JsonScanner(depth=1)
            self._at = _Stage.ENVELOPE if self._enveloped else _Stage.TAIL
        elif self._is_closing():
            self.calling = False
            self._at = _Stage.TAIL

    def _tail(self) -> None:
        # Before a closing mark some models write a brace too many, others the end of a code block.
        text = self._held.lstrip(" \t\r\n`}" if self._form.close else None)
        close = next((mark for mark in self._form.close if text.startswith(mark)), "")
        if not close and begins_tag(text, *self._form.close):
            return
        self._may_be_bare = self._form.is_bare
        if self._form.nexts:
            self._held = text[len(close) :]
            self._at = _Stage.BETWEEN
        else:
            self._leave(text[len(close) :])

    # --- closing marks ---

    def _end(self) -> int:
        """How much of the held text is certain to be before a closing mark."""
        found = first_tag(self._held, self._form.close)
        if found is not None:
            return found[0]
        return len(self._held) - partial_tag(self._held, *self._form.close)

    def _is_closing(self) -> bool:
        return self._held.startswith(self._form.close)
