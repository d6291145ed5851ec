"""Keeps what clients write from being read as tokens that steer the model.

A chat template writes its marks (``<|im_end|>`` and the like) as text, and so can a client in a message. Before a
template is rendered, such marks in the client's strings are cut in two with a letter that occurs nowhere else; after
it, the text is tokenized piece by piece between these cuts, so that only the template's own marks are whole.
"""

import re
from collections.abc import Collection
from typing import Any, TypeVar

from xinfer.errors import InvalidRequest

_PRIVATE_LETTERS = range(0xE000, 0xF900)

T = TypeVar("T")


class Shield:
    """Cuts the control tokens of one model.

    Args:
        control_tokens: as they are written.
    """

    def __init__(self, control_tokens: Collection[str]) -> None:
        tokens = {token for token in control_tokens if len(token) > 1}
        # A template may join two strings of the client, so a mark that only begins at the end of one is cut as well.
        begun = {token[:size] for token in tokens for size in range(1, len(token))}
        # Looking ahead from every letter finds marks that overlap, too.
        self._start = re.compile(f"(?={_any_of(tokens)}|{_any_of(begun)}\\Z).", re.DOTALL) if tokens else None

    def cut(self, content: T) -> tuple[T, str]:
        """The content with every mark in its strings cut, and the letter that cuts; empty if there is nothing to cut.

        Args:
            content: what JSON can hold.

        Raises:
            InvalidRequest: no letter is left to cut with.
        """
        if self._start is None:
            return content, ""
        strings = _strings(content)
        if not any(map(self._start.search, strings)):
            return content, ""
        used = set().union(*strings)
        letter = next((chr(code) for code in _PRIVATE_LETTERS if chr(code) not in used), None)
        if letter is None:
            raise InvalidRequest("the messages use every private letter of Unicode; leave some out", param="messages")
        return _with_cuts(content, self._start, letter), letter


def _any_of(texts: Collection[str]) -> str:
    return f"(?:{'|'.join(re.escape(text) for text in sorted(texts))})"


def _with_cuts(content: Any, start: re.Pattern[str], letter: str) -> Any:
    if isinstance(content, str):
        return start.sub(lambda found: found[0] + letter, content)
    if isinstance(content, dict):
        return {_with_cuts(key, start, letter): _with_cuts(value, start, letter) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_cuts(item, start, letter) for item in content]
    return content


def _strings(content: object) -> list[str]:
    """All strings in a JSON value, the names of fields included."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, dict):
        return [text for pair in content.items() for item in pair for text in _strings(item)]
    if isinstance(content, list | tuple):
        return [text for item in content for text in _strings(item)]
    return []
