"""Calls whose arguments are written one by one between tags: Qwen3-Coder, GLM 4.5, MiniMax, DeepSeek V3.2.

Values are written without quotes, so what they mean is told by the schema of the tool, and by the tag if that says it.
They become JSON here: text is passed on as it is being written, everything else once it is complete.
"""

import enum
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from xinfer.errors import UnsupportedParameter
from xinfer.generation.lark import ANYTHING, LarkRules, json_value, literal
from xinfer.generation.tags import begins_tag, first_tag, partial_tag
from xinfer.generation.tool_calls.parser import LONGEST_HEAD, CallPart, ToolCallParser
from xinfer.generation.tool_calls.schemas import Tool, choices_of, is_text, kinds_of, typed

_ONLY_IN_QUOTES = frozenset({"pattern", "format", "minLength", "maxLength"})
"""What a grammar can say of a string in JSON, and not of text up to the next tag."""


class TaggedForm(msgspec.Struct, frozen=True, kw_only=True):
    """How a family of models writes calls with tags around every argument."""

    opening: str
    lead: str
    """Between the opening and the name, as the model was trained to write it."""
    named: str
    """Behind the name."""
    head: re.Pattern[str]
    """Behind the opening up to the first argument, with the group ``name``."""
    key: str
    """What an argument begins with."""
    key_pattern: re.Pattern[str]
    """That and all up to its value, with the group ``key``, and perhaps ``text``: "true" before a text."""
    argument: str
    """An argument as the model was trained to write it, with ``{key}`` in it and the value behind it; ``{text}`` is
    whether that is a text."""
    value_end: str
    between: str = ""
    """Behind an argument."""
    own_line: bool = False
    """A value has a line of its own, or several."""
    end: str
    """Behind the arguments."""
    close: str
    """Behind the call, or behind the last one where several share an opening."""
    behind: str
    """Behind the arguments of a call, as the model was trained to write it."""
    shares_opening: bool = False
    """Several calls follow one opening."""
    marks: tuple[str, ...]
    """Tokens that have to stay visible in the text, even where the model calls them special."""
    id_alphabet: str = ""
    id_length: int = 0

    def parser(self, new_id: Callable[[], str], tools: Sequence[Tool], *, single: bool = False) -> ToolCallParser:
        """A parser for one answer."""
        return TaggedCallParser(self, new_id, {tool.name: tool for tool in tools}, single=single)

    @property
    def trigger(self) -> str:
        """What the text of calls begins with, for sure."""
        return self.opening

    def grammar(self, rules: LarkRules, tools: Sequence[Tool], *, single: bool, skip: str = "") -> str:
        """The rule for one or more calls of these tools.

        Args:
            rules: where to add it.
            tools: one of them in each call.
            single: exactly one call.
            skip: what was written of it already.
        """
        shared = self.shares_opening
        call = rules.add(" | ".join(self._one(rules, tool) for tool in tools))
        more = "" if single else rules.add(call if shared else f"{literal(chr(10) + self.opening)} {call}") + "*"
        last = literal("\n" + self.close) if shared else ""
        return " ".join(part for part in (literal(self.opening.removeprefix(skip)), call, more, last) if part)

    def _one(self, rules: LarkRules, tool: Tool) -> str:
        parts = [literal(f"{self.lead}{tool.name}{self.named}")]
        for name in tool.properties:
            argument = rules.add(self._argument(rules, tool, name))
            parts.append(argument if tool.requires(name) else f"{argument}?")
        return " ".join([*parts, literal(self.behind)])

    def _argument(self, rules: LarkRules, tool: Tool, name: str) -> str:
        schema = tool.resolved(name)
        line = "\n" if self.own_line else ""
        end = line + self.value_end
        if "string" not in kinds_of(schema) and kinds_of(schema):
            definitions: dict[str, Any] = {
                key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters
            }
            value = json_value({**definitions, **tool.parameter(name)}, strict=tool.strict)
            return f"{self._start(name, line, is_text=False)} {value} {literal(end + self.between)}"
        if choices := choices_of(schema):
            options = [
                f"{self._start(name, line, is_text=isinstance(choice, str))} {literal(_unquoted(choice) + end)}"
                for choice in choices
            ]
            return f"({' | '.join(options)}) {literal(self.between)}"
        said = frozenset[str]().union(*schema.get("anyOf", [schema]))
        if tool.strict and (unheld := sorted(_ONLY_IN_QUOTES & said)):
            raise UnsupportedParameter(
                f"this model writes texts without quotes, so a strict tool cannot have {unheld[0]!r} as "
                f"{name!r} of {tool.name!r} has",
                param="tools",
            )
        text = rules.add(ANYTHING, options=f"suffix={literal(end)}")
        return f"{self._start(name, line, is_text=True)} {text} {literal(self.between)}"

    def _start(self, name: str, line: str, *, is_text: bool) -> str:
        """All of an argument that comes before its value."""
        return literal(self.argument.replace("{key}", name).replace("{text}", json.dumps(is_text)) + line)


class _Stage(enum.Enum):
    HEAD = enum.auto()
    ARGUMENTS = enum.auto()
    """Where another argument or the end of the call comes."""
    VALUE = enum.auto()
    AFTER = enum.auto()
    """Behind a call, where its closing tag or another call comes."""


class TaggedCallParser(ToolCallParser):
    """See ``TaggedForm``."""

    def __init__(
        self, form: TaggedForm, new_id: Callable[[], str], tools: dict[str, Tool], *, single: bool = False
    ) -> None:
        super().__init__((form.opening,), new_id, single=single)
        self._form = form
        self._tools = tools
        self._at = _Stage.HEAD
        self._tool = Tool("", {})
        self._key = ""
        self._arguments = 0
        """How many this call has."""
        self._called_here = False
        """This opening has a call."""
        self._value_begun = False
        self._said_text: bool | None = None
        """Whether the tag says that this argument is a text; ``None``: it does not say."""

    def _stage(self) -> object:
        return self._at

    def _enter(self, opening: str, rest: str) -> None:
        super()._enter(opening, rest)
        self._at, self._called_here = _Stage.HEAD, False

    def _within(self) -> Iterator[str | CallPart]:
        match self._at:
            case _Stage.HEAD:
                yield from self._head()
            case _Stage.ARGUMENTS:
                yield from self._next_argument()
            case _Stage.VALUE:
                yield from self._value()
            case _Stage.AFTER:
                self._after()

    def _unfinished(self) -> Iterator[str | CallPart]:
        if self._at is _Stage.HEAD and not self._called_here:
            yield self._reject(len(self._held))
        elif self._at is _Stage.VALUE and self._value_begun and self._is_text():
            yield self._more(_escaped(self._held))

    # --- stages ---

    def _head(self) -> Iterator[str | CallPart]:
        form = self._form
        seen = self._held[:LONGEST_HEAD]
        head = form.head.match(seen)
        if head is None:
            found = first_tag(seen, (form.close, form.opening))
            if found is not None:
                yield self._reject(found[0] + len(form.close) if found[1] == form.close else 0)
            elif len(seen) == LONGEST_HEAD:
                yield self._reject(0)
            return
        name = head["name"]
        self._tool = self._tools.get(name, Tool(name, {}))
        self._arguments = 0
        self._called_here = True
        self._held = self._held[head.end() :]
        self._at = _Stage.ARGUMENTS
        yield self._begin(name, "{")

    def _next_argument(self) -> Iterator[CallPart]:
        form = self._form
        tags = tuple(filter(None, (form.key, form.end, form.close)))
        found = first_tag(self._held, tags)
        if found is None:
            self._held = self._held[len(self._held) - partial_tag(self._held, *tags) :]
            return
        start, tag = found
        self._held = self._held[start:]
        if tag != form.key:
            self._held = self._held.removeprefix(form.end)
            self.calling = False
            self._at = _Stage.AFTER
            yield self._more("}")
            return
        key = form.key_pattern.match(self._held)
        if key is None:
            return
        self._key = key["key"].strip()
        said = key.groupdict().get("text")
        self._said_text = None if said is None else said == "true"
        self._held = self._held[key.end() :]
        self._value_begun = False
        self._at = _Stage.VALUE

    def _value(self) -> Iterator[CallPart]:
        form = self._form
        start = ""
        if not self._value_begun:
            if form.own_line:
                self._held = self._held.removeprefix("\n")
            self._value_begun = True
            start = f"{', ' if self._arguments else ''}{json.dumps(self._key, ensure_ascii=False)}: "
            self._arguments += 1
            start += '"' if self._is_text() else ""
        text, end, rest = self._held.partition(form.value_end)
        if end:
            text = text.removesuffix("\n") if form.own_line else text
            self._held = rest
            self._at = _Stage.ARGUMENTS
            if self._is_text():
                yield self._more(f'{start}{_escaped(text)}"')
            else:
                value = typed(text.strip(), self._tool.resolved(self._key))
                yield self._more(start + json.dumps(value, ensure_ascii=False))
        elif self._is_text():
            ends = (form.value_end, "\n" + form.value_end) if form.own_line else (form.value_end,)
            size = len(text) - partial_tag(text, *ends)
            self._held = text[size:]
            if start or size:
                yield self._more(start + _escaped(text[:size]))
        elif start:
            yield self._more(start)

    def _after(self) -> None:
        form = self._form
        text = self._held.lstrip()
        if text.startswith(form.close):
            self._leave(text[len(form.close) :])
        elif begins_tag(text, form.close):
            return
        elif form.shares_opening and text.startswith(form.lead.strip()):
            self._opening = ""
            self._held = text
            self._at = _Stage.HEAD
        elif not (form.shares_opening and begins_tag(text, form.lead.strip())):
            self._leave(self._held)

    def _is_text(self) -> bool:
        schema = self._tool.resolved(self._key)
        may_be_text = "string" in kinds_of(schema) or not kinds_of(schema)
        return is_text(schema) or (self._said_text is True and may_be_text)


def _unquoted(value: Any) -> str:
    """A value as it stands between tags."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    """Text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
