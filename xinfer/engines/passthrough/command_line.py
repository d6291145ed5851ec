"""From the words of a launch to the command line of another server. Pure."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest
from xinfer.generation.dialects import Dialect, reasoning_dialect, tool_dialect
from xinfer.generation.reasoning import thinks_unasked


class ServerKind(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine's server differs in from those of others."""

    title: str
    ours: Mapping[str, str]
    """Arguments that make no sense behind our endpoint, with the launch option that does what they would."""
    tool_parsers: Mapping[Dialect, str]
    """Their names for the parsers of tool calls, by the form that a model writes."""
    reasoning_parsers: Mapping[Dialect, str]
    negates: bool = False
    """A flag that is on by default is turned off with ``--no-flag``."""

    def parsers(self, template: str) -> dict[str, Any]:
        """The parsers for a model, told from its chat template, not from its name."""
        found: dict[str, Any] = {}
        calls, thoughts = tool_dialect(template), reasoning_dialect(template)
        if calls is not None and calls in self.tool_parsers:
            found["tool_call_parser"] = self.tool_parsers[calls]
        if thoughts is not None and thoughts in self.reasoning_parsers:
            found["reasoning_parser"] = self.reasoning_parsers[thoughts]
            if not thinks_unasked(template):  # the parser would take every answer for thoughts that did not end
                found["default_chat_template_kwargs"] = {"enable_thinking": False}
        return found

    def command_line(
        self,
        suggested: Mapping[str, Any],
        options: Mapping[str, Any],
        memory: Mapping[str, Any],
        fixed: Mapping[str, Any],
    ) -> list[str]:
        """The options of a launch over what is suggested, and the memory and what is fixed over both.

        Raises:
            InvalidRequest: an option that is not the launch's to set; names it.
        """
        for name in options:
            if name in self.ours:
                instead = f"; say {self.ours[name]} instead" if self.ours[name] else ""
                raise InvalidRequest(f"xinfer sets {self.title}'s {name!r} itself{instead}", param=name)
        arguments = {**suggested, **options, **memory, **fixed}
        return [word for name, value in arguments.items() for word in self._words(name, value)]

    def _words(self, name: str, value: Any) -> list[str]:
        argument, dot, member = name.partition(".")  # of a nested argument only the first part has dashes
        flag = f"--{argument.replace('_', '-')}{dot}{member}"
        match value:
            case None:
                return []
            case True:
                return [flag]
            case False:
                return ["--no-" + flag.removeprefix("--")] if self.negates else []
            case list() | tuple():
                return [flag, *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
            case dict():
                return [flag, json.dumps(value)]
            case _:
                return [f"{flag}={value}"]
