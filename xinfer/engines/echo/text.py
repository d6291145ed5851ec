"""How echo understands a request: its tokens are words with the white space before them."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

_TOKEN = re.compile(r"\s*\S+|\s+$")


def tokens_of(text: str) -> list[str]:
    """Words, each with the white space before it; joined they are the text again."""
    return _TOKEN.findall(text)


def text_of(message: dict[str, Any]) -> str:
    """The text of a chat message, whose content is a string or a list of text parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def last_user_text(messages: Sequence[dict[str, Any]]) -> str:
    """What echo repeats: the last user message, else the last message."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message)
    return text_of(messages[-1])


class Answer:
    """The answer to one prompt: its tokens up to the limit or the first stop string.

    ``finish_reason`` and ``completion_tokens`` are known from the start, since there is nothing to compute.
    """

    def __init__(self, text: str, limit: int | None, stops: Sequence[str]) -> None:
        pieces = tokens_of(text)
        self.finish_reason = "stop"
        if limit is not None and len(pieces) > limit:
            pieces = pieces[:limit]
            self.finish_reason = "length"
        whole = "".join(pieces)
        cut = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=None)
        if cut is not None:
            self.finish_reason = "stop"
            whole = whole[:cut]
            pieces = tokens_of(whole)
        self.text = whole
        self.pieces = pieces

    @property
    def completion_tokens(self) -> int:
        """How many tokens it has."""
        return len(self.pieces)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)
