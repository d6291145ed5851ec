"""A model's own chat template: messages and tools to the text of a prompt, in a sandbox."""

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.dialects import THINKING_SWITCHES
from xinfer.generation.template_tree import iterates_over_content, tests_for_no_content

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
FOR_TOOLS = "tool_use"
"""The name of the template for requests with tools, where a model has several. The others have the default one."""
_PROVIDED = frozenset({"messages", "tools", "strftime_now", "raise_exception"})
"""Variables that have a field of their own in requests, or are none of theirs."""
_COMPUTING = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""Templates compute with what the client sent, and the operators of Jinja are those of Python."""
_PROBE = "a plain text"
CALLED, OFFERED = "a_called_function", "another_function"
"""Names in a conversation that finds out what a template shows."""
_HERE = "\ufdd1"
"""Stands behind the text that is to be continued: a code point that no text has."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja text.
        special_tokens: ``bos_token``, ``eos_token`` and so on, which templates may write.
        without_tools: another template, for requests that have no tools.

    Raises:
        ValueError: the template does not compile.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], *, without_tools: "ChatTemplate | None" = None
    ) -> None:
        # Templates may change lists: that of Kimi K2 in GGUF files keeps one, and what they reach is of one rendering.
        environment = jinja2.sandbox.SandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the model's chat template does not compile: {error}") from error
        self.source = source
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(tree))
        """Names that the template reads and does not set itself."""
        self.reads_parts = iterates_over_content(tree)
        """Whether it reads lists of parts by itself; else the texts of the parts are given to it as one."""
        self._special_tokens = dict(special_tokens)
        self._without_tools = without_tools
        self._wants_parts = False
        self._tells_no_content = False
        self._knows_developers = "developer" in source and self._shows(_PROBE, "developer")
        self._wants_parts = self.reads_parts and not self._shows(_PROBE) and self._shows(_parts_of(_PROBE))
        self._tells_no_content = tests_for_no_content(tree) and not self._shows_calls()
        """Whether a message has to have no content, rather than an empty one, for its calls to be shown."""

    @property
    def thinking_switch(self) -> str:
        """The variable that says whether the model thinks first; empty: there is none."""
        return next((name for name in THINKING_SWITCHES if name in self.variables), "")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None,
        arguments: Mapping[str, Any],
        *,
        continued: bool = False,
    ) -> str:
        """The prompt for the next turn of the assistant.

        Args:
            messages: in the OpenAI shape.
            tools: what the model may call, or ``None``.
            arguments: further variables, such as ``enable_thinking``; ``add_generation_prompt`` is true unless it is
                here.
            continued: the last message is not complete: the prompt ends with its text.

        Raises:
            UnsupportedParameter: tools or a variable that the template does not read.
            InvalidRequest: the template refuses these messages; its own words are in the message.
        """
        if self._without_tools is not None and not tools:
            return self._without_tools.render(messages, None, arguments, continued=continued)
        if tools and "tools" not in self.variables:
            raise UnsupportedParameter("this model's chat template has no tools; leave 'tools' out", param="tools")
        self._check_arguments(arguments)
        prepared = [self._prepared(message, f"messages[{index}]") for index, message in enumerate(messages)]
        if continued:
            prepared[-1]["content"] = _ended(prepared[-1]["content"])
        variables = {
            **self._special_tokens,
            "documents": None,
            **arguments,
            "messages": prepared,
            "add_generation_prompt": arguments.get("add_generation_prompt", True),
        }
        given = list(tools) if tools else None
        try:
            text = self._rendered(variables, given)
        except InvalidRequest:
            if given is None or (described := list(map(_described, given))) == given:
                raise
            text = self._rendered(variables, described)
        return _up_to_here(text) if continued else text

    def _rendered(self, variables: Mapping[str, Any], tools: Sequence[Any] | None) -> str:
        try:
            return self._template.render({**variables, "messages": list(variables["messages"]), "tools": tools})
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the model's chat template refuses this: {error}", param="messages") from error
        except _COMPUTING as error:
            raise InvalidRequest(f"the model's chat template cannot read this: {error}", param="messages") from error

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        for name in sorted(arguments):
            if name in _PROVIDED:
                raise UnsupportedParameter(f"{name!r} is no variable that chat_template_kwargs may set", param=name)
            if arguments[name] and name not in {*self.variables, "add_generation_prompt"}:
                raise UnsupportedParameter(f"this model's chat template has no variable {name!r}", param=name)

    def _prepared(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A message as templates expect it: parts as one text unless it reads parts, arguments as an object."""
        prepared = {name: value for name, value in message.items() if value is not None}
        prepared.setdefault("content", "")
        if "reasoning" in prepared:  # the other name for it; templates read either
            prepared.setdefault("reasoning_content", prepared["reasoning"])
        if prepared["role"] == "developer" and not self._knows_developers:
            prepared["role"] = "system"
        prepared["content"] = self._content(prepared["content"], prepared["role"])
        if not prepared.get("tool_calls"):
            prepared.pop("tool_calls", None)  # templates ask whether there is such a list
        else:
            prepared["tool_calls"] = [
                _with_parsed_arguments(call, f"{where}.tool_calls[{index}]")
                for index, call in enumerate(prepared["tool_calls"])
            ]
            if self._tells_no_content and not prepared["content"]:  # some show either the text or the calls
                prepared["content"] = None
        # For gpt-oss, which reads either thoughts or a text before calls.
        if "reasoning_content" in prepared and not ("tool_calls" in prepared and prepared["content"]):
            prepared.setdefault("thinking", prepared["reasoning_content"])
        return prepared

    def _content(self, content: str | list[Any], role: str) -> str | list[Any]:
        """The content of a message in a shape that the template reads all of."""
        if isinstance(content, str):
            return _parts_of(content) if self._wants_parts else content
        # Templates that read parts read those of users; of others they may take the first one, or write out the list.
        is_text = role != "user" and all(part["type"] == "text" for part in content)
        if not self.reads_parts or (is_text and not self._wants_parts):
            return "\n".join(part["text"] for part in content)
        return content

    def _shows(self, content: str | list[Any], role: str = "user") -> bool:
        """Whether the text in a content comes through."""
        messages = [{"role": role, "content": content}, *([{"role": "user", "content": "Hi"}] * (role != "user"))]
        try:
            return _PROBE in self._template.render(
                self._special_tokens, messages=messages, tools=None, documents=None, add_generation_prompt=True
            )
        except (jinja2.TemplateError, *_COMPUTING):
            return False

    def _shows_calls(self) -> bool:
        """Whether the calls of a message that has nothing else come through."""
        messages, tools = conversation_with_calls(1)
        try:
            return CALLED in self.render(messages, tools if "tools" in self.variables else None, {})
        except InvalidRequest:
            return False


def conversation_with_calls(calls: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """A question, an answer that calls ``CALLED`` so many times, and the results; and the tools.

    It is to find out what a template makes of calls. Some want ids of nine letters.
    """
    ids = [f"abcdefgh{number}" for number in range(calls)]
    made = [{"id": name, "type": "function", "function": {"name": CALLED, "arguments": "{}"}} for name in ids]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": made},
        *({"role": "tool", "tool_call_id": name, "content": "1"} for name in ids),
    ]
    function = {"name": OFFERED, "description": "", "parameters": {"type": "object", "properties": {}}}
    return messages, [{"type": "function", "function": function}]


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The chat template in a model's folder, or ``None`` for a model that has none.

    Raises:
        ValueError: a file is not what it should be; names it.
        OSError: a file cannot be read.
    """
    config = _read_json(folder / "tokenizer_config.json")
    source, plain = _template_sources(folder, config)
    named = {**_read_json(folder / "special_tokens_map.json"), **config}
    tokens = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in named.items()
        if name.endswith("_token") and isinstance(value, str | dict) and value
    }
    return template_of(source, plain, tokens)


def template_of(
    source: str | None, without_tools: str | None, special_tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """A model's template, with the one for requests without tools where it has another; ``None``: it has none.

    Raises:
        ValueError: one of them does not compile.
    """
    if source is None:
        return None
    plain = None if without_tools is None else ChatTemplate(without_tools, special_tokens)
    return ChatTemplate(source, special_tokens, without_tools=plain)


def template_text(folder: Path) -> str:
    """The source of the chat template of a model folder, of several the one with tools; empty where it has none.

    Raises:
        ValueError: the file that would hold it is not what it should be.
        OSError: it cannot be read.
    """
    return _template_sources(folder, _read_json(folder / "tokenizer_config.json"))[0] or ""


def _template_sources(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The template, and the one for requests without tools where that is another."""
    plain, wrapped = (folder / name for name in _TEMPLATE_FILES)
    named: dict[str, Any]
    if plain.is_file():
        named = {"default": plain.read_text(encoding="utf-8")}
        beside = folder / "additional_chat_templates" / f"{FOR_TOOLS}.jinja"
        if beside.is_file():
            named[FOR_TOOLS] = beside.read_text(encoding="utf-8")
    else:
        source = _read_json(wrapped).get("chat_template", config.get("chat_template"))
        named = {"default": source}
        if isinstance(source, list):  # several templates with names
            named = {entry["name"]: entry["template"] for entry in source}
    default, for_tools = (text if isinstance(text := named.get(name), str) else None for name in ("default", FOR_TOOLS))
    return (default, None) if for_tools is None else (for_tools, default)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _with_parsed_arguments(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        text = "{}" if function["arguments"].strip() in ("", "null") else function["arguments"]
        try:
            # Unlike the standard library's, this decoder takes nothing that cannot be written into a prompt.
            parsed = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            at = f"{where}.function.arguments"
            raise InvalidRequest(f"{at} must hold valid JSON: {error}", param=at) from None
        function["arguments"] = _Arguments(parsed, text) if isinstance(parsed, dict) else parsed
    return {"type": "function", **call, "function": function}


def _described(tool: Any) -> Any:
    """A tool with what it may leave out, and some templates (gpt-oss, Hermes) ask for."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    said = {name: value for name, value in function.items() if value is not None}
    schema = {"type": "object", "properties": {}, **said.get("parameters", {})}
    return {**tool, "function": {"description": "", **said, "parameters": schema}}


def _parts_of(text: str) -> list[Any]:
    return [{"type": "text", "text": text}]


def _ended(content: str | list[Any]) -> str | list[Any]:
    """A content of text with a mark behind it."""
    if isinstance(content, str):
        return content + _HERE
    *before, last = content
    return [*before, {**last, "text": last["text"] + _HERE}]


def _up_to_here(prompt: str) -> str:
    begun, here, _ = prompt.rpartition(_HERE)
    if not here:
        raise InvalidRequest(
            "the model's chat template does not show the last message, so it cannot be continued",
            param="continue_final_message",
        )
    return begun


class _Arguments(dict[str, Any]):
    """The arguments of a call: an object for templates that look into it, and its JSON for those that write it out."""

    def __init__(self, parsed: dict[str, Any], text: str) -> None:
        super().__init__(parsed)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, later: str) -> str:
        return self._text + later

    def __radd__(self, earlier: str) -> str:
        return earlier + self._text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as templates of models expect it: letters stay letters, and nothing is escaped for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_to_list,
    )


def _to_list(value: Any) -> list[Any]:
    """What ``map`` and other filters of Jinja give."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks what the model writes, for training; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - the interface of Jinja extensions

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
