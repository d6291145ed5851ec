"""Fields of chats and completions that SGLang calls otherwise than the other engines here do, and would ignore."""

from typing import Any

import msgspec

from xinfer.engines.passthrough.words import GUIDED, STRUCTURE, Fields, encoder, is_given, reworded
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.structured import Structure, StructureKind, structure_of

OWN = ("json_schema", "regex", "ebnf")
"""In which SGLang is told the form of an answer, beside OpenAI's field."""
FORMAT = "response_format"
DEFINES = "::="
"""What every rule of a grammar has that SGLang can read."""


class _Asked(msgspec.Struct, kw_only=True):
    """The fields that are taken out; SGLang's own stay where they are."""

    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_json_object: bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    guided_decoding_backend: str | None = None
    response_format: dict[str, Any] | None = None
    """Only looked at: SGLang knows it."""


def in_sglangs_words(body: bytes) -> bytes:
    """A request as SGLang reads it: the form of the answer, and whether the model thinks first.

    Raises:
        InvalidRequest: the form is asked for twice, or a field is not what it must be; names it.
        UnsupportedParameter: a form that SGLang does not know.
    """
    return reworded(body, (GUIDED, STRUCTURE), _move_structure)


def _move_structure(fields: Fields) -> bool:
    named = [name for name in fields if name == STRUCTURE or name.startswith(GUIDED)]
    given = {name: fields.pop(name) for name in named}
    if not any(map(is_given, given.values())):
        return bool(given)
    structure = structure_of(_asked(given | {name: fields[name] for name in fields if name == FORMAT}))
    if structure is None or structure.param.startswith(FORMAT):
        return True
    if twice := next((name for name in OWN if is_given(fields.get(name))), None):
        first = structure.param
        raise InvalidRequest(f"an answer has one form: leave out either {first!r} or {twice!r}", param=first)
    name, form = _form(structure)
    fields[name] = msgspec.Raw(encoder.encode(form))
    return True


def _asked(given: Fields) -> _Asked:
    known = _Asked.__struct_fields__
    if unknown := next((name for name in given if name not in known and is_given(given[name])), None):
        raise UnsupportedParameter(f"{unknown!r} is not supported here; leave it out", param=unknown)
    try:
        return msgspec.json.decode(encoder.encode(given), type=_Asked)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).rpartition(" - at ")
        param = path.strip("`").removeprefix("$.").partition("[")[0]
        raise InvalidRequest(f"{param!r} is wrong: {reason[:1].lower()}{reason[1:]}", param=param) from None


def _form(structure: Structure) -> tuple[str, Any]:
    """The field that asks SGLang for it, and its value."""
    if structure.white_space is not None:
        raise UnsupportedParameter(
            "SGLang has one pattern of white space for all requests: launch the model with "
            "constrained_json_whitespace_pattern, and leave it out of the request",
            param=structure.param,
        )
    match structure.kind:
        case StructureKind.JSON:
            schema = {"name": "answer", "schema": msgspec.Raw(structure.definition.encode())}
            return FORMAT, {"type": "json_schema", "json_schema": schema}
        case StructureKind.REGEX:
            return "regex", structure.definition
        case StructureKind.CHOICE:
            choices = msgspec.json.decode(structure.definition, type=list[str])
            return "ebnf", "root ::= " + " | ".join(encoder.encode(choice).decode() for choice in choices)
        case StructureKind.GRAMMAR:
            if DEFINES not in structure.definition:
                raise UnsupportedParameter(
                    "SGLang reads grammars in EBNF only, in which a rule is 'root ::= ...'", param=structure.param
                )
            return "ebnf", structure.definition
