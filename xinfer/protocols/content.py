"""The parts of a message's content: text, and images by URL. Pure; nothing is fetched here."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import msgspec

from xinfer.errors import InvalidRequest, UnsupportedParameter

Detail = Literal["auto", "low", "high"]
DETAILS = ("auto", "low", "high")
OTHER_MEDIA = {
    "video_url": "videos",
    "video": "videos",
    "input_audio": "sound",
    "audio_url": "sound",
    "audio": "sound",
    "file": "files",
}
"""Kinds of parts that no model reads here, and what they carry."""
IMAGE_ROLES = ("user", "tool")
LONGEST_SHOWN = 60
"""Characters of an URL that an error repeats."""


class ImagePart(msgspec.Struct, frozen=True):
    """An image that a message refers to. ``where`` names it in errors: ``messages[0].content[1].image_url``."""

    where: str
    url: str
    detail: Detail = "auto"
    """How much of it the client wants looked at: low is an image of at most 512 x 512 pixels."""


def check_content(content: Any, where: str, role: str, *, images: bool) -> None:
    """Check the content of a message, a string or a list of parts.

    Args:
        content: as it came.
        where: names it in errors.
        role: who speaks.
        images: whether the model sees; else images are refused.

    Raises:
        InvalidRequest: it is malformed.
        UnsupportedParameter: a kind of part that the model does not read.
    """
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{where} must be a string or a non-empty list of parts", param=where)
    for index, part in enumerate(content):
        _check_part(part, f"{where}[{index}]", role, images=images)


def image_parts(messages: Sequence[dict[str, Any]]) -> list[ImagePart]:
    """The images of checked messages, in order."""
    return [
        ImagePart(f"messages[{message}].content[{index}].image_url", *_url_and_detail(part["image_url"]))
        for message, index, part in _parts(messages)
        if part["type"] == "image_url"
    ]


def read_data_url(image: ImagePart) -> bytes:
    """The bytes in a ``data:`` URL.

    Raises:
        InvalidRequest: it is no image, or not in base64, or that is broken.
    """
    head, comma, payload = image.url.partition(",")
    kind, *options = head[len("data:") :].lower().split(";")
    if not comma or not kind.strip().startswith("image/") or "base64" not in [option.strip() for option in options]:
        raise InvalidRequest(
            f"{image.where} must start like 'data:image/png;base64,'; it starts with {image.url[:LONGEST_SHOWN]!r}",
            param=image.where,
        )
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{image.where} is not valid base64: {error}", param=image.where) from None


def _parts(messages: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Every part with the numbers of its message and of itself."""
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            for index, part in enumerate(content):
                yield number, index, part


def _check_part(part: Any, at: str, role: str, *, images: bool) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequest(f'{at} must be an object with a type, such as {{"type": "text"}}', param=at)
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{at}.text must be a string", param=f"{at}.text")
    elif kind == "image_url":
        _check_image(part.get("image_url"), f"{at}.image_url", role, images=images)
    else:
        what = f"no {OTHER_MEDIA[kind]} here" if kind in OTHER_MEDIA else "no such parts"
        reads = "text and images (image_url)" if images else "text"
        raise UnsupportedParameter(
            f"{at}.type {kind!r} is not supported: this model reads {reads}, {what}", param=f"{at}.type"
        )


def _check_image(image: Any, at: str, role: str, *, images: bool) -> None:
    if not images:
        raise UnsupportedParameter(
            f"{at}: this model reads text only; leave images out, or ask one that sees", param=at
        )
    if role not in IMAGE_ROLES:
        raise UnsupportedParameter(
            f"{at}: images are read in messages of {' and '.join(IMAGE_ROLES)}, and this one is of {role}", param=at
        )
    url, detail = _url_and_detail(image)
    if not isinstance(url, str) or not url.lower().startswith(("data:", "http://", "https://")):
        raise InvalidRequest(f"{at} must have a URL that starts with data:, http:// or https://", param=at)
    if detail not in DETAILS:
        raise InvalidRequest(f"{at}.detail must be one of: {', '.join(DETAILS)}", param=f"{at}.detail")


def _url_and_detail(image: Any) -> tuple[str, Detail]:
    """Of either form: the URL itself, or an object that has it."""
    if isinstance(image, dict):
        return image.get("url", ""), cast("Detail", image.get("detail") or "auto")
    return image or "", "auto"
