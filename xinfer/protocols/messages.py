"""Checking the messages of a chat request. They stay as they came, because chat templates read them."""

from typing import Any

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.content import check_content

_ROLES = ("system", "developer", "user", "assistant", "tool")
_STRINGS = ("name", "reasoning_content", "reasoning", "refusal", "tool_call_id")
_FIELDS = frozenset(
    {
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
        "reasoning",
        "refusal",
        "annotations",
    }
)


def check_message(message: dict[str, Any], where: str, *, images: bool = False) -> None:
    """Check one message.

    Args:
        message: as it came.
        where: names it in errors, for instance ``messages[2]``.
        images: whether the model sees; else images are refused.

    Raises:
        InvalidRequest: an unknown role, a missing or wrong field.
        UnsupportedParameter: a kind of content or a field that is not implemented.
    """
    role = _checked_role(message, where)
    for name in message.keys() - _FIELDS:
        if message[name] is not None:
            raise UnsupportedParameter(f"{where}.{name} is not supported; leave it out", param=f"{where}.{name}")
    for name in _STRINGS:
        if not isinstance(message.get(name, ""), str | None):
            raise InvalidRequest(f"{where}.{name} must be a string", param=f"{where}.{name}")
    calls = message.get("tool_calls")
    if calls is not None:
        _check_tool_calls(role, calls, where)
    content = message.get("content")
    if content is not None:
        check_content(content, f"{where}.content", role, images=images)
    elif role != "assistant" or not (calls or message.get("refusal")):
        raise InvalidRequest(
            f"{where}.content is missing: it must be a string or a list of parts", param=f"{where}.content"
        )
    if role == "tool" and not message.get("tool_call_id"):
        raise InvalidRequest(
            f"{where}.tool_call_id is missing: a tool message says which call it answers",
            param=f"{where}.tool_call_id",
        )


def _checked_role(message: dict[str, Any], where: str) -> str:
    role = message.get("role")
    if role == "function":
        raise InvalidRequest(
            f"{where}.role 'function' is no longer used: send role 'tool' with 'tool_call_id'", param=f"{where}.role"
        )
    if isinstance(role, str) and role in _ROLES:
        return role
    problem = f"is {role!r}" if "role" in message else "is missing"
    raise InvalidRequest(f"{where}.role {problem}; it must be one of: {', '.join(_ROLES)}", param=f"{where}.role")


def _check_tool_calls(role: str, calls: Any, where: str) -> None:
    at = f"{where}.tool_calls"
    if role != "assistant":
        raise InvalidRequest(f"{at} is only allowed in messages of the assistant", param=at)
    if not isinstance(calls, list):
        raise InvalidRequest(f"{at} must be a list", param=at)
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(
                f"{at}[{index}].function must be an object with a name", param=f"{at}[{index}].function"
            )
        if not isinstance(function.get("arguments"), str):
            raise InvalidRequest(
                f"{at}[{index}].function.arguments must be a string that holds JSON",
                param=f"{at}[{index}].function.arguments",
            )
        if call.get("type", "function") != "function":
            raise UnsupportedParameter(
                f"{at}[{index}].type must be 'function'; other kinds are not supported", param=f"{at}[{index}].type"
            )
