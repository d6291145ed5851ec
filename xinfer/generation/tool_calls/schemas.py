"""The tools of a request, as parsers and grammars see them."""

import ast
import json
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

_KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("null", type(None)),
    ("boolean", bool),
    ("integer", int),
    ("number", (int, float)),
    ("array", list),
    ("object", dict),
)
_COMBINING = frozenset({"$ref", "anyOf", "oneOf", "allOf"})
_FEW: Mapping[str, list[Any]] = {"null": [None], "boolean": [False, True]}
"""Types that list their values by themselves."""


class Tool(msgspec.Struct, frozen=True):
    """A function that may be called. ``parameters``: the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any]
    strict: bool = False

    @property
    def properties(self) -> tuple[str, ...]:
        """The names of its arguments, as far as the schema lists them."""
        listed = self.parameters.get("properties")
        return tuple(listed) if isinstance(listed, dict) else ()

    def parameter(self, name: str) -> Mapping[str, Any]:
        """The schema of one argument; empty where there is none."""
        found = self.parameters["properties"][name] if name in self.properties else None
        return found if isinstance(found, dict) else {}

    def resolved(self, name: str) -> Mapping[str, Any]:
        """The same with references followed: one plain schema, or ``anyOf`` with plain ones and nothing else."""
        schema = self.parameter(name)
        if not schema.keys() & _COMBINING:
            return schema
        return {"anyOf": list(_plain(schema, self.parameters, set()))}

    def requires(self, name: str) -> bool:
        """Whether an argument must be there."""
        return name in _listed(self.parameters.get("required"))


def read_tools(tools: Iterable[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools of a request in the OpenAI shape.

    A schema that lists properties and says nothing of others means that there are none.
    """
    found = []
    for tool in tools:
        function = tool["function"]
        schema = dict(function.get("parameters") or {})
        if isinstance(reference := schema.get("$ref"), str):  # what recurses is described so
            del schema["$ref"]
            schema |= _at(schema, reference)
        schema["type"] = "object"
        if "additionalProperties" not in schema and not schema.keys() & {"anyOf", "allOf", "oneOf", "$ref"}:
            schema["additionalProperties"] = False
        found.append(Tool(function["name"], schema, bool(function.get("strict"))))
    return tuple(found)


def kinds_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that a schema allows, as far as it says; empty: it does not."""
    given = schema.get("type")
    kinds = {kind for kind in ([given] if isinstance(given, str) else _listed(given)) if isinstance(kind, str)}
    for branch in (*_listed(schema.get("anyOf")), *_listed(schema.get("oneOf"))):
        kinds |= kinds_of(branch) if isinstance(branch, dict) else set()
    return frozenset(kinds or {_kind_of(value) for value in choices_of(schema)})


def choices_of(schema: Mapping[str, Any]) -> list[Any]:
    """The values that a schema lists; empty: it lists none, or not all that it allows."""
    listed = [schema["const"]] if "const" in schema else _listed(schema.get("enum"))
    if listed or not isinstance(schema.get("anyOf"), list):
        return listed
    branches = [choices_of(branch) or _FEW.get(str(branch.get("type")), []) for branch in schema["anyOf"]]
    return [value for branch in branches for value in branch] if all(branches) else []


def is_text(schema: Mapping[str, Any]) -> bool:
    """Whether a value is a string, whatever it looks like."""
    return kinds_of(schema) == {"string"}


def typed(text: str, schema: Mapping[str, Any]) -> Any:
    """What a value means that is written without quotes: by its schema, and text where it fits nothing else."""
    kinds = kinds_of(schema)
    if kinds == {"string"}:
        return text
    try:
        value = read_json(text)
    except ValueError:
        value = _as_python(text)
        return value if _kind_of(value) in kinds else text
    if not kinds or _kind_of(value) in kinds or (_kind_of(value) == "integer" and "number" in kinds):
        return value
    return text if "string" in kinds else value


def read_json(text: str) -> Any:
    """What a model wrote as JSON, if it can be passed on: no NaN, no half of a character, no endless nesting.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _as_python(text: str) -> Any:
    """What Python would read, as far as JSON can say it, else the text: templates show models values so."""
    if not text.startswith(("{", "[", "True", "False", "None")):
        return text
    try:
        return read_json(json.dumps(ast.literal_eval(text), allow_nan=False))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def _plain(schema: Mapping[str, Any], root: Mapping[str, Any], followed: set[str]) -> Iterator[Mapping[str, Any]]:
    """The schemas that a value may follow, without combinations; every reference is followed once."""
    rest = {key: value for key, value in schema.items() if key not in _COMBINING}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference not in followed:
            followed.add(reference)
            yield from _plain({**rest, **_at(root, reference)}, root, followed)
    elif parts := _listed(schema.get("allOf")):
        for part in parts:
            rest |= part if isinstance(part, dict) else {}
        yield from _plain(rest, root, followed)
    elif branches := [*_listed(schema.get("anyOf")), *_listed(schema.get("oneOf"))]:
        for branch in branches:
            yield from _plain({**rest, **branch} if isinstance(branch, dict) else rest, root, followed)
    else:
        yield rest


def _at(root: Mapping[str, Any], reference: str) -> Mapping[str, Any]:
    """What a reference within a schema (``#/$defs/Colour``) refers to; empty where that is nothing."""
    found: Any = root
    for step in urllib.parse.unquote(reference).split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and reference.startswith("#") else {}


def _listed(value: Any) -> list[Any]:
    """A list as it is; what should be one and is not says nothing here, and is found out where it is compiled."""
    return value if isinstance(value, list) else []


def _kind_of(value: Any) -> str:
    return next((name for name, kind in _KINDS if isinstance(value, kind)), "string")
