"""What form an answer shall have: OpenAI's ``response_format``, and the names that vLLM and Xinference have for it.

``structure_of`` reads them all into one ``Structure``. Whether its schema or grammar makes sense is found out where it
is compiled; here it is only made sure that one form is asked for, in the right shape.
"""

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from xinfer.errors import InvalidRequest, UnsupportedParameter

MAX_SIZE = 256 * 1024
"""Characters of a schema or grammar."""

MAX_CHOICES = 10_000


class StructureKind(StrEnum):
    """In what way a form is described."""

    JSON = "json"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


class Structure(msgspec.Struct, frozen=True, kw_only=True):
    """The form of an answer."""

    kind: StructureKind
    definition: str
    """A JSON schema, a regular expression, a JSON list of strings, or a grammar in Lark or GBNF."""
    param: str
    """The field that asks for it."""
    strict: bool = False
    """Keywords of the schema that cannot be held are refused, rather than left aside."""
    white_space: str | None = None
    """A regular expression for what may be between the parts of JSON; ``None``: as usual."""


class AsksForStructure(Protocol):
    """The fields of a request that ask for a form. All may be ``None``."""

    response_format: dict[str, Any] | None
    structured_outputs: dict[str, Any] | None
    guided_json: dict[str, Any] | str | None
    guided_json_object: bool | None
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None
    guided_whitespace_pattern: str | None


def structure_of(request: AsksForStructure) -> Structure | None:
    """The form that a request asks for; ``None``: any text.

    Raises:
        InvalidRequest: it asks for two forms, or one of the fields is not what it must be.
        UnsupportedParameter: a kind of form that is not implemented.
    """
    found = _guided(request)
    if request.structured_outputs is not None:
        found += _read_structured_outputs(request.structured_outputs)
    if request.response_format is not None:
        found += _read_response_format(request.response_format)
    if len(found) > 1:
        raise InvalidRequest(
            f"an answer has one form: leave out either {found[0].param!r} or {found[1].param!r}", param=found[1].param
        )
    if not found:
        return None
    structure = found[0]
    if len(structure.definition) > MAX_SIZE:
        raise InvalidRequest(
            f"{structure.param!r} has {len(structure.definition)} characters; at most {MAX_SIZE} are allowed",
            param=structure.param,
        )
    return structure


def _guided(request: AsksForStructure) -> list[Structure]:
    space = request.guided_whitespace_pattern
    found = []
    if request.guided_json is not None:
        found.append(_json(request.guided_json, "guided_json", strict=True, white_space=space))
    if request.guided_json_object:
        found.append(_json({"type": "object"}, "guided_json_object", white_space=space))
    if space is not None and not found:
        raise InvalidRequest(
            "'guided_whitespace_pattern' needs 'guided_json' or 'guided_json_object'", param="guided_whitespace_pattern"
        )
    if request.guided_regex is not None:
        found.append(_regex(request.guided_regex, "guided_regex"))
    if request.guided_choice is not None:
        found.append(_choice(request.guided_choice, "guided_choice"))
    if request.guided_grammar is not None:
        found.append(_grammar(request.guided_grammar, "guided_grammar"))
    return found


# --- response_format --------------------------------------------------------------------------------------------------


def _read_response_format(given: Mapping[str, Any]) -> list[Structure]:
    kind = given.get("type")
    if kind == "text":
        return []
    if kind == "json_object":
        # OpenAI's has no schema; several servers take one here.
        return [_json(given.get("schema") or {"type": "object"}, "response_format")]
    if kind != "json_schema":
        raise UnsupportedParameter(
            f"'response_format.type' must be 'text', 'json_object' or 'json_schema', not {kind!r}",
            param="response_format.type",
        )
    inner = given.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise InvalidRequest(
            '\'response_format.json_schema\' must be an object such as {"name": ..., "schema": {...}}',
            param="response_format.json_schema",
        )
    for field, allowed, rule in (("name", str, "a string"), ("strict", bool, "true or false")):
        if not isinstance(inner.get(field), allowed | None):
            where = f"response_format.json_schema.{field}"
            raise InvalidRequest(f"{where!r} must be {rule}", param=where)
    return [_json(inner["schema"], "response_format.json_schema.schema", strict=bool(inner.get("strict")))]


# --- structured_outputs -----------------------------------------------------------------------------------------------

_INERT = frozenset({"disable_fallback", "backend"})
"""They say how, not what."""


def _read_structured_outputs(given: Mapping[str, Any]) -> list[Structure]:
    named = {name: value for name, value in given.items() if value is not None and value is not False}
    space = named.pop("whitespace_pattern", None)
    if named.pop("disable_any_whitespace", None):
        space = ""
    if not isinstance(space, str | None):
        where = "structured_outputs.whitespace_pattern"
        raise InvalidRequest(f"{where!r} must be a string", param=where)
    readers: dict[str, Callable[[Any, str], Structure]] = {
        "json": lambda value, where: _json(value, where, strict=True, white_space=space),
        "json_object": lambda _value, where: _json({"type": "object"}, where, white_space=space),
        "regex": _regex,
        "choice": _choice,
        "grammar": _grammar,
    }
    found = []
    for name, value in named.items():
        where = f"structured_outputs.{name}"
        if name in readers:
            found.append(readers[name](value, where))
        elif name not in _INERT:
            raise UnsupportedParameter(f"{where!r} is not supported; leave it out", param=where)
    if not found:
        raise InvalidRequest(
            f"'structured_outputs' must have one of: {', '.join(readers)}",
            param="structured_outputs",
        )
    return found


# --- kinds ------------------------------------------------------------------------------------------------------------


def _json(given: Any, where: str, *, strict: bool = False, white_space: str | None = None) -> Structure:
    schema = given
    if isinstance(given, str):
        try:
            schema = msgspec.json.decode(given)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{where!r} is not valid JSON: {error}", param=where) from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{where!r} must be a JSON schema: an object, or a string that holds one", param=where)
    return Structure(
        kind=StructureKind.JSON,
        definition=json.dumps(schema, ensure_ascii=False),
        param=where,
        strict=strict,
        white_space=white_space,
    )


def _regex(given: Any, where: str) -> Structure:
    if not isinstance(given, str) or not given:
        raise InvalidRequest(f"{where!r} must be a regular expression: a string that is not empty", param=where)
    return Structure(kind=StructureKind.REGEX, definition=given, param=where)


def _choice(given: Any, where: str) -> Structure:
    if not isinstance(given, list) or not given or not all(isinstance(choice, str) and choice for choice in given):
        raise InvalidRequest(f"{where!r} must be a list of strings that are not empty", param=where)
    if len(given) > MAX_CHOICES:
        raise InvalidRequest(f"{where!r} has {len(given)} choices; at most {MAX_CHOICES} are allowed", param=where)
    return Structure(kind=StructureKind.CHOICE, definition=json.dumps(given, ensure_ascii=False), param=where)


def _grammar(given: Any, where: str) -> Structure:
    if not isinstance(given, str) or not given.strip():
        raise InvalidRequest(f"{where!r} must be a grammar in Lark or GBNF: a string that is not empty", param=where)
    return Structure(kind=StructureKind.GRAMMAR, definition=given, param=where)
