"""``tool_choice: {"type": "allowed_tools", ...}``: a part of the tools, in the words that models and servers know."""

from collections.abc import Sequence
from typing import Any, Literal, TypeGuard

import msgspec

from xinfer.errors import InvalidRequest

ALLOWED = "allowed_tools"
SHAPE = (
    '{"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", '
    '"tools": [{"type": "function", "function": {"name": ...}}]}}'
)

Json = dict[str, Any]
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def is_allowed_tools(choice: object) -> TypeGuard[Json]:
    """Whether a ``tool_choice`` is of this kind."""
    return isinstance(choice, dict) and choice.get("type") == ALLOWED


def narrowed(tools: Sequence[Json], choice: Json) -> tuple[list[Json], Literal["auto", "required"]]:
    """The tools that a choice allows, in the request's order, and the choice that is left among them.

    The model is shown no other tools, so it calls no other.

    Raises:
        InvalidRequest: the choice has another shape, or allows a tool that there is not.
    """
    given = choice.get(ALLOWED)
    listed = given.get("tools") if isinstance(given, dict) else None
    mode = given.get("mode", "auto") if isinstance(given, dict) else None
    names = [_name(tool) for tool in listed] if isinstance(listed, list) else []
    if not names or None in names or mode not in ("auto", "required"):
        raise InvalidRequest(f"'tool_choice' of this type must be {SHAPE}, with at least one tool", param="tool_choice")
    known = [_name(tool) for tool in tools]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise InvalidRequest(f"'tool_choice' allows {unknown!r}, which is not among the tools", param="tool_choice")
    return [tool for tool in tools if _name(tool) in names], mode


def without_allowed_tools(body: bytes) -> bytes:
    """The body of a chat for a server that does not know this choice: with the allowed tools alone.

    Any other body comes back as it is, without having been decoded.

    Raises:
        InvalidRequest: see ``narrowed``.
    """
    if b'"allowed_tools"' not in body:
        return body
    try:
        fields = _decoder.decode(body)
        choice = msgspec.json.decode(fields.get("tool_choice", b"null"))
        if not is_allowed_tools(choice):
            return body
        tools = msgspec.json.decode(fields.get("tools", b"[]"), type=list[Json])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body  # the server that reads all of it says what is wrong
    left, mode = narrowed(tools, choice)
    return _encoder.encode(fields | {"tools": left, "tool_choice": mode})


def _name(tool: object) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
