"""A model's own chat template: messages and tools to the text of a prompt, in a sandbox."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from xinfer.errors import InvalidRequest, UnsupportedParameter

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_PROVIDED = frozenset({"messages", "tools", "add_generation_prompt", "strftime_now", "raise_exception", "documents"})


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja text.
        special_tokens: ``bos_token``, ``eos_token`` and so on, which templates may write.

    Raises:
        ValueError: the template does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
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
        self.reads_parts = _iterates_over_content(tree)
        """Whether it reads lists of parts by itself; else the texts of the parts are given to it as one."""
        self._special_tokens = dict(special_tokens)

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, arguments: Mapping[str, Any]
    ) -> str:
        """The prompt for the next turn of the assistant.

        Args:
            messages: in the OpenAI shape.
            tools: what the model may call, or ``None``.
            arguments: further variables, such as ``enable_thinking``; ``add_generation_prompt`` is true unless it is
                here.

        Raises:
            UnsupportedParameter: tools or a variable that the template does not read.
            InvalidRequest: the template refuses these messages; its own words are in the message.
        """
        if tools and "tools" not in self.variables:
            raise UnsupportedParameter("this model's chat template has no tools; leave 'tools' out", param="tools")
        unread = sorted(name for name in arguments if name not in self.variables)
        for name in unread:
            if arguments[name] and name not in _PROVIDED:
                raise UnsupportedParameter(f"this model's chat template has no variable {name!r}", param=name)
        prepared = [self._prepared(message, f"messages[{index}]") for index, message in enumerate(messages)]
        variables = {
            **self._special_tokens,
            **arguments,
            "messages": prepared,
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": arguments.get("add_generation_prompt", True),
        }
        try:
            return self._template.render(variables)
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the model's chat template refuses this: {error}", param="messages") from error
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            # Templates compute with what the client sent, and the operators of Jinja are those of Python.
            raise InvalidRequest(f"the model's chat template cannot read this: {error}", param="messages") from error

    def _prepared(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A message as templates expect it: parts as one text unless it reads parts, arguments as an object."""
        prepared = {name: value for name, value in message.items() if value is not None}
        prepared.setdefault("content", "")
        if "reasoning" in prepared:  # the other name for it; templates read either
            prepared.setdefault("reasoning_content", prepared["reasoning"])
        if prepared["role"] == "developer" and "developer" not in self.source:
            prepared["role"] = "system"
        content = prepared["content"]
        if isinstance(content, list) and not self.reads_parts:
            prepared["content"] = "\n".join(part["text"] for part in content)
        if "tool_calls" in prepared:
            prepared["tool_calls"] = [
                _with_parsed_arguments(call, f"{where}.tool_calls[{index}]")
                for index, call in enumerate(prepared["tool_calls"])
            ]
        return prepared


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The chat template in a model's folder, or ``None`` for a model that has none.

    Raises:
        ValueError: a file is not what it should be; names it.
        OSError: a file cannot be read.
    """
    config = _read_json(folder / "tokenizer_config.json")
    source = _template_source(folder, config)
    if source is None:
        return None
    named = {**_read_json(folder / "special_tokens_map.json"), **config}
    tokens = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in named.items()
        if name.endswith("_token") and isinstance(value, str | dict) and value
    }
    return ChatTemplate(source, tokens)


def template_text(folder: Path) -> str:
    """The source of the chat template of a model folder; empty where it has none.

    Raises:
        ValueError: the file that would hold it is not what it should be.
        OSError: it cannot be read.
    """
    return _template_source(folder, _read_json(folder / "tokenizer_config.json")) or ""


def _template_source(folder: Path, config: Mapping[str, Any]) -> str | None:
    plain, wrapped = (folder / name for name in _TEMPLATE_FILES)
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    source = _read_json(wrapped).get("chat_template", config.get("chat_template"))
    if isinstance(source, list):  # several templates with names
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("tool_use", named.get("default"))
    return source if isinstance(source, str) else None


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
        text = function["arguments"] or "{}"
        try:
            parsed = json.loads(text)
        except ValueError as error:
            at = f"{where}.function.arguments"
            raise InvalidRequest(f"{at} must hold valid JSON: {error}", param=at) from None
        function["arguments"] = _Arguments(parsed, text) if isinstance(parsed, dict) else parsed
    return {**call, "function": function}


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


def _iterates_over_content(tree: jinja2.nodes.Template) -> bool:
    """Whether a loop runs over something called content: then the template reads lists of parts by itself."""
    for loop in tree.find_all(jinja2.nodes.For):
        source = loop.iter
        names = [node.name for node in _with_self(source, jinja2.nodes.Name)]
        fields = [node.attr for node in _with_self(source, jinja2.nodes.Getattr)]
        items = [node.arg.value for node in _with_self(source, jinja2.nodes.Getitem) if _is_constant(node.arg)]
        if "content" in (*names, *fields, *items):
            return True
    return False


def _with_self(node: jinja2.nodes.Node, kind: type[Any]) -> list[Any]:
    return [*([node] if isinstance(node, kind) else []), *node.find_all(kind)]


def _is_constant(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, jinja2.nodes.Const)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter as templates of models expect it: letters stay letters, and nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


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
