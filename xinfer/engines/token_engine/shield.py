"""Keeps what clients write from being read as tokens that steer the model.

A chat template writes its marks (``<|im_end|>`` and the like) as text, and so can a client in a message. Before a
template is rendered, such marks in the client's strings are cut in two with a letter that occurs nowhere else; after
it, the text is tokenized piece by piece between these cuts, so that only the template's own marks are whole.
"""

import itertools
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
        self._tokens = frozenset(token for token in control_tokens if len(token) > 1)
        self._sizes = sorted(set(map(len, self._tokens)))
        # A template may join two strings of the client, so a mark that only begins at the end of one is cut as well.
        self._beginnings = frozenset(token[:size] for token in self._tokens for size in range(1, len(token)))
        letters = "".join(re.escape(letter) for letter in sorted({token[0] for token in self._tokens}))
        self._first_letter = re.compile(f"[{letters}]") if letters else None

    def cut(self, content: T) -> tuple[T, str]:
        """The content with every mark in its strings cut, and the letter that cuts; empty if there is nothing to cut.

        Args:
            content: what JSON can hold.

        Raises:
            InvalidRequest: no letter is left to cut with.
        """
        strings = _strings(content)
        if not any(map(self._starts, strings)):
            return content, ""
        used = set().union(*strings)
        letter = next((chr(code) for code in _PRIVATE_LETTERS if chr(code) not in used), None)
        if letter is None:
            raise InvalidRequest("the messages use every private letter of Unicode; leave some out", param="messages")
        return self._with_cuts(content, letter), letter

    def _starts(self, text: str) -> list[int]:
        """Where marks start, also those inside others."""
        if self._first_letter is None:
            return []
        places = [found.start() for found in self._first_letter.finditer(text)]
        return [
            place
            for place in places
            if any(text[place : place + size] in self._tokens for size in self._sizes)
            or (len(text) - place < self._sizes[-1] and text[place:] in self._beginnings)
        ]

    def _with_cuts(self, content: Any, letter: str) -> Any:
        if isinstance(content, str):
            ends = [0, *(start + 1 for start in self._starts(content)), len(content)]
            return letter.join(content[start:end] for start, end in itertools.pairwise(ends))
        if isinstance(content, dict):
            return {self._with_cuts(key, letter): self._with_cuts(value, letter) for key, value in content.items()}
        if isinstance(content, list | tuple):
            return [self._with_cuts(item, letter) for item in content]
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
