"""Fields of chats and completions for which the servers of other engines have other words than the engines here.

Bodies are decoded only where such a field may be in them: what clients write is in strings, in which quotes are
escaped, so a field's name between bare quotes is a field.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest
from xinfer.generation.dialects import THINKING_SWITCHES
from xinfer.ops import Op

FREE_TEXT = frozenset({Op.CHAT, Op.COMPLETION})
"""Operations whose requests may have such fields."""
GUIDED = "guided_"
"""How the fields begin that ask for a form of the answer, each in its own way."""
STRUCTURE = "structured_outputs"
TEMPLATE, THINKING = "chat_template_kwargs", "enable_thinking"

Fields = dict[str, msgspec.Raw]
_decoder = msgspec.json.Decoder(Fields)
encoder = msgspec.json.Encoder()


def reworded(body: bytes, forms: tuple[str, ...], move_form: Callable[[Fields], bool]) -> bytes:
    """A request as another server reads it: the form of the answer, and whether the model thinks first.

    Args:
        body: of the request; what is no JSON comes back as it is, for the server to refuse.
        forms: how the names of the fields begin that ask for a form in words that the server does not know.
        move_form: puts it into the server's words; says whether it changed a field.

    Raises:
        InvalidRequest: a field is not what it must be, or what ``move_form`` raises.
    """
    if not any(f'"{name}'.encode() in body for name in (*forms, TEMPLATE, THINKING)):
        return body
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    changed = (move_form(fields), _move_thinking(fields))
    return encoder.encode(fields) if any(changed) else body


def is_given(value: msgspec.Raw | None) -> bool:
    """Whether a field asks for anything."""
    return value is not None and bytes(value) != b"null"


def _move_thinking(fields: Fields) -> bool:
    """Whether to think becomes an argument of the template, by both names. Arguments may be a string with an object."""
    thinks = bytes(fields.pop(THINKING, b"null"))
    given = _decoded(fields.get(TEMPLATE, msgspec.Raw(b"null")))
    if thinks not in (b"null", b"true", b"false"):
        raise InvalidRequest(f"{THINKING!r} must be true or false", param=THINKING)
    if thinks == b"null" and not isinstance(given, str | dict):
        return False
    arguments = _decoded(given) if isinstance(given, str) else given
    if not isinstance(arguments, dict | None):
        raise InvalidRequest(f"{TEMPLATE!r} must be an object, or a string that holds one as JSON", param=TEMPLATE)
    said = {} if thinks == b"null" else {THINKING: thinks == b"true"}
    told = {**(arguments or {}), **said}
    # Templates look at one of the names, and servers at one of them to tell thoughts from answers.
    for name, other in (THINKING_SWITCHES, THINKING_SWITCHES[::-1]):
        if name in told:
            told.setdefault(other, told[name])
    fields[TEMPLATE] = msgspec.Raw(encoder.encode(told))
    return bool(said) or told != given


def _decoded(value: msgspec.Raw | str) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(
            f"{TEMPLATE!r} must be an object, or a string that holds one as JSON", param=TEMPLATE
        ) from None
