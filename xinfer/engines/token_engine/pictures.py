"""Images in prompts: what an engine whose model sees brings, and how images reach a chat template."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from xinfer.engines.media import Image
from xinfer.errors import InvalidRequest


class ImageReader(Protocol):
    """Makes prompts with images, for one model. Used from several threads."""

    mark: str
    """What stands for an image in the text of a prompt. In what clients write it is mere text."""
    template_writes_mark: bool
    """Templates that read parts write it by themselves, for parts of the type image; False: it is given to them as the
    text of such a part."""

    def prompt(
        self,
        text: str,
        images: Sequence[Image],
        encode: Callable[[str], list[int]],
        beginning: Sequence[int] = (),
    ) -> tuple[list[int], Any]:
        """The tokens of a prompt, and what the runner has to know of its images: ``Sequence.images``.

        Args:
            text: with a mark for every image, in their order.
            images: at least one.
            encode: gives the tokens of a text, in which only what a template writes is more than text.
            beginning: tokens that come first, where the text does not write them itself: ``begun`` puts them there.

        Raises:
            InvalidRequest: an image cannot be read; ``param`` is its ``where``.
        """


def marked(messages: Sequence[Mapping[str, Any]], mark: str, *, as_parts: bool) -> list[Mapping[str, Any]]:
    """The messages with what a template understands in the place of images: a part of that type, or a text."""
    stand_in = {"type": "image"} if as_parts else {"type": "text", "text": mark}

    def with_stand_ins(content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return [stand_in if part["type"] == "image_url" else part for part in content]

    return [{**message, "content": with_stand_ins(message.get("content"))} for message in messages]


def check_marks(text: str, mark: str, images: Sequence[Image]) -> None:
    """Whether a template has written every image.

    Raises:
        InvalidRequest: it has not.
    """
    written = text.count(mark)
    if written != len(images):
        raise InvalidRequest(
            f"the messages have {len(images)} images, and the model's chat template has a place for {written} of them; "
            "put them into messages of the user",
            param=images[min(written, len(images) - 1)].where,
        )
