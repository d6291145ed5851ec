"""Writing grammars in the variant of Lark that llguidance reads."""

import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

WHITE_SPACE = r"[ \n\r\t]{0,32}"
"""Between the parts of JSON. Bounded, or a model may write nothing else until its tokens are used up."""

_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are no schemas."""
_IN_URIS = "%!#$&'()*+,/:;=?@~"

_SPECIAL = re.compile(r"\\.|/|\n", re.DOTALL)


class LarkRules:
    """Collects the rules of a grammar, which get names of their own."""

    def __init__(self) -> None:
        self._rules: list[str] = []

    def add(self, body: str, *, options: str = "", terminal: bool = False) -> str:
        """Add a rule and return its name.

        Args:
            body: the right side.
            options: those of a lexeme, such as ``lazy``.
            terminal: it is one lexeme: regular expressions and literals only.
        """
        name = f"{'T' if terminal else 'r'}{len(self._rules)}"
        self._rules.append(f"{name}[{options}]: {body}" if options else f"{name}: {body}")
        return name

    def text(self, start: str) -> str:
        """The whole grammar, for answers that are as ``start`` says."""
        return "\n".join([f"start: {start}", *self._rules])


def literal(text: str) -> str:
    """This very text; may be empty."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def regex(pattern: str) -> str:
    """A regular expression (of Rust's crate ``regex``) as a terminal."""

    def escaped(match: re.Match[str]) -> str:
        found = match[0]
        return {"/": r"\/", "\n": r"\n"}.get(found, found)

    return f"/{_SPECIAL.sub(escaped, pattern)}/"


def json_value(schema: Mapping[str, Any] | bool, *, strict: bool, white_space: str | None = None) -> str:
    """JSON that a schema describes.

    Args:
        schema: a JSON schema.
        strict: keywords that cannot be held are errors; else they are left aside.
        white_space: a regular expression for what may be between its parts.
    """
    shown = WHITE_SPACE if white_space is None else white_space
    rules: dict[str, Any] = {"lenient": not strict, "whitespace_flexible": False}
    if shown:
        rules["whitespace_pattern"] = shown
    base = {"not": {}} if schema is False else {} if schema is True else _with_quoted_references(schema)
    return f"%json {json.dumps({**base, 'x-guidance': rules}, ensure_ascii=False)}"


def _with_quoted_references(schema: Any) -> Any:
    """The same with references that are URIs: programs write the names of classes into them as they are."""
    if isinstance(schema, list):
        return [_with_quoted_references(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    quoted = {key: value if key in _DATA else _with_quoted_references(value) for key, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str):
        quoted["$ref"] = urllib.parse.quote(reference, safe=_IN_URIS)
    return quoted


ANYTHING = "/(?s:.*)/"
"""Any text. Rules that end it are lazy."""
