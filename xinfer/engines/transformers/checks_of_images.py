"""Does a model see the same with our cache as with the library? Shown by running it on a small picture."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import PIL.Image
import torch

from xinfer.engines.image_header import ImageHeader
from xinfer.engines.media import Image
from xinfer.engines.transformers import attention
from xinfer.engines.transformers.checks import rounding
from xinfer.engines.transformers.images import ImagePrompts, decoded
from xinfer.engines.transformers.model import SlotModel
from xinfer.engines.transformers.pictures import Pictures
from xinfer.engines.transformers.shape import CacheShape
from xinfer.engines.transformers.tokenizer import FastTokenizer
from xinfer.errors import InvalidRequest, LoadFailed

_SIZE = (56, 40)
"""Pixels of the picture."""


def check_images(slots: SlotModel, reader: ImagePrompts, processor: Any, tokenizer: FastTokenizer) -> None:
    """Read a prompt with a picture as the library does, and in parts with our cache: tokens and logits must agree.

    Raises:
        LoadFailed: they do not, or the model does not run: its images need what this engine does not do.
    """
    name = type(slots.model).__name__
    text = f"see {reader.mark} this"
    picture = _picture()
    try:
        with torch.inference_mode():
            ids, pictures = reader.prompt(text, [picture], lambda text: tokenizer.encode(text, add_special=False))
            given = processor(images=[decoded(picture)], text=[text], add_special_tokens=False, return_tensors="pt")
            expected = _read_by_library(slots, given)
            found = _read_in_parts(slots, ids, pictures)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, InvalidRequest) as error:
        raise LoadFailed(f"{name} does not read images with the cache of this engine: {error}") from error
    if ids != given["input_ids"][0].tolist():
        raise LoadFailed(f"{name} reads other tokens around images than its tokenizer.json gives")
    apart = float((expected - found).abs().max() / expected.abs().max())
    if not apart <= rounding(slots):
        raise LoadFailed(
            f"{name} answers differently about images with the cache of this engine ({apart:.1e} apart): it combines "
            "them with text in a way that this engine does not know"
        )


def _picture() -> Image:
    """Something with edges and colours."""
    width, height = _SIZE
    pixels = bytes(value for y in range(height) for x in range(width) for value in (4 * x, 6 * y, 255 * (x > y)))
    file = io.BytesIO()
    PIL.Image.frombytes("RGB", _SIZE, pixels).save(file, "PNG")
    return Image("the picture", file.getvalue(), ImageHeader("PNG", width, height), digest="")


def _read_by_library(slots: SlotModel, given: Any) -> torch.Tensor:
    """The logits of the last token, with the library's own attention, masks and positions, and no cache."""
    with _own_attention(slots.model):
        inputs = given.to(slots.device, slots.model.dtype)
        logits: torch.Tensor = slots.model(**inputs, use_cache=False).logits
        return logits[0, -1].float()


def _read_in_parts(slots: SlotModel, ids: list[int], pictures: Pictures) -> torch.Tensor:
    slots.cache.resize(CacheShape(1, len(ids)))
    filled = 0
    logits = torch.empty(0)
    while filled < len(ids):
        size = pictures.size_of_pass(filled, len(ids) - filled)
        logits = slots.run(
            slice(0, 1),
            torch.tensor([ids[filled : filled + size]], device=slots.device),
            torch.arange(filled, filled + size, device=slots.device)[None],
            filled + size,
            plain=filled == 0 or size == 1,
            keep=1,
            seen=pictures.window(filled, size, slots.device),
        )
        filled += size
    return logits[0, -1].float()


@contextmanager
def _own_attention(model: Any) -> Iterator[None]:
    """Let the model compute attention as the library has it."""
    model.set_attn_implementation({"text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": attention.IMPLEMENTATION})
