"""Images in prompts: where they are, which positions they take, and how prompts with them are compared. Pure.

In the tokens of a prompt, a piece of an image is a run of one number below zero, which stands for its content: prompts
have a beginning in common exactly where they have the same text and the same images.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple


class ImageSpan(NamedTuple):
    """A piece of an image in a prompt, which is read as a whole."""

    start: int
    """The index of its first token."""
    tokens: int
    positions: int
    """By how much the position of what follows is higher; M-RoPE models put many tokens of an image at one."""
    picture: Any
    """For the one who reads it."""

    @property
    def end(self) -> int:
        """The index of the first token behind it."""
        return self.start + self.tokens


def stand_in(digest: str, part: int) -> int:
    """The token that stands for the content of a piece of an image, the ``part``-th."""
    name = f"{part}:{digest}".encode()
    return -1 - int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")


def position_of(index: int, spans: Sequence[ImageSpan]) -> int:
    """The position of a token that is in no image."""
    return index - sum(span.tokens - span.positions for span in spans if span.end <= index)


def whole_images(length: int, spans: Sequence[ImageSpan]) -> int:
    """So many of the first tokens of a prompt, or fewer if they would end inside of an image."""
    return next((span.start for span in spans if span.start < length < span.end), length)


def before_image(filled: int, length: int, spans: Sequence[ImageSpan]) -> int:
    """How many of the tokens from ``filled`` to ``length`` come before the next image."""
    return min((span.start for span in spans if span.start >= filled), default=length) - filled


def image_at(index: int, spans: Sequence[ImageSpan]) -> ImageSpan | None:
    """The image that begins there."""
    return next((span for span in spans if span.start == index), None)
