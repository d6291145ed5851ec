"""From image files to what the runner reads: the library's own processor prepares each image by itself."""

import inspect
import io
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import PIL.Image
import PIL.ImageOps
import torch

from xinfer.engines.media import Image
from xinfer.engines.token_engine.tokenizer import begun
from xinfer.engines.transformers.pictures import Pictures, Span
from xinfer.errors import InvalidRequest, LoadFailed

LOW_DETAIL = 512
"""Pixels of the longer side of an image that is to be looked at in low detail."""
_OF_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
"""What processors make of the text, which comes from elsewhere here."""

PIL.Image.MAX_IMAGE_PIXELS = None  # the size of every image was looked at before its bytes come here


class _Prepared(NamedTuple):
    """One image, as the processor has it."""

    written: str
    """The text that stands for it."""
    placeholders: int
    """How many tokens of that text its pixels take the place of."""
    inputs: Mapping[str, Any]
    """What goes into the model."""


class ImagePrompts:
    """Implements ``token_engine.ImageReader`` for a model of the library.

    Args:
        processor: the model's.
        model: the model.

    Raises:
        LoadFailed: it lacks what is needed here.
    """

    template_writes_mark = True

    def __init__(self, processor: Any, model: Any) -> None:
        token = getattr(model.config, "image_token_id", None)
        mark = getattr(processor, "image_token", None)
        if not isinstance(token, int) or mark is None:
            raise LoadFailed(f"{type(model).__name__} has no token that stands for an image")
        self.mark = str(mark)
        self._token = token
        self._processor = processor
        self._dtype: torch.dtype = model.dtype
        self._wanted = frozenset(inspect.signature(model.forward).parameters) - _OF_TEXT
        self._rotary_of: Any = getattr(getattr(model, "model", None), "get_rope_index", None)
        """Of models that turn the tokens of an image by their place in it."""
        self._sees_ahead = hasattr(model, "create_masks_for_generate")
        """Tokens of an image see each other in both directions: such models bring masks of their own."""

    def prompt(
        self,
        text: str,
        images: Sequence[Image],
        encode: Callable[[str], list[int]],
        beginning: Sequence[int] = (),
    ) -> tuple[list[int], Pictures]:
        """See the protocol."""
        different = {image.digest: image for image in images}
        known = {digest: self._prepared(image) for digest, image in different.items()}
        prepared = [known[image.digest] for image in images]
        before, *pieces = text.split(self.mark)
        written = before + "".join(one.written + piece for one, piece in zip(prepared, pieces, strict=True))
        ids = begun(encode(written), beginning)
        spans = self._spans(ids, [one.placeholders for one in prepared])
        return ids, self._pictures(ids, spans, [one.inputs for one in prepared])

    def _prepared(self, image: Image) -> _Prepared:
        try:
            made = self._processor(
                images=[decoded(image)],
                text=[self.mark],
                return_tensors="pt",
                return_text_replacement_offsets=True,
            )
        except (ValueError, TypeError) as error:
            raise InvalidRequest(
                f"{image.where} cannot be prepared for this model: {error}", param=image.where
            ) from error
        replaced = made.get("text_replacement_offsets")
        if not replaced:
            raise LoadFailed("the installed transformers does not say what stands for an image; 5.19 does")
        count = int((made["input_ids"] == self._token).sum())
        inputs = {name: self._typed(value) for name, value in made.items() if name in self._wanted}
        return _Prepared(replaced[0][0]["replacement"], count, inputs)

    def _typed(self, value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self._dtype) if floats else value

    def _spans(self, ids: Sequence[int], counts: Sequence[int]) -> list[Span]:
        """Where the images are: so many placeholders belong to each."""
        places = [place for place, token in enumerate(ids) if token == self._token]
        assert len(places) == sum(counts)
        spans = []
        for count in counts:
            own, places = places[:count], places[count:]
            spans.append(Span(own[0], own[-1] + 1))
        return spans

    def _pictures(self, ids: list[int], spans: list[Span], inputs: list[Mapping[str, Any]]) -> Pictures:
        tokens = torch.tensor([ids])
        is_image = tokens == self._token
        rotary, shift = None, 0
        if self._rotary_of is not None:
            grids = {
                name: torch.cat([part[name] for part in inputs]) for name in inputs[0] if name.endswith("_grid_thw")
            }
            rotary, shifts = self._rotary_of(tokens, mm_token_type_ids=is_image.int(), **grids)
            shift = int(shifts[0, 0])
        return Pictures(
            spans, inputs, rotary=rotary, shift=shift, blocks=_runs(is_image[0]) if self._sees_ahead else None
        )


def decoded(image: Image) -> PIL.Image.Image:
    """The pixels, upright, in three colours; on white where it was transparent.

    Raises:
        InvalidRequest: the file is damaged.
    """
    try:
        found: PIL.Image.Image = PIL.Image.open(io.BytesIO(image.data), formats=[image.header.format.upper()])
        if found.width * found.height > image.header.pixels:
            raise ValueError("it says two different sizes")  # noqa: TRY301 - one of the ways in which a file is damaged
        found = PIL.ImageOps.exif_transpose(found)
        if found.mode == "I;16":
            found = _of_8_bits(found)
        if found.has_transparency_data:
            found = found.convert("RGBA")
            paper = PIL.Image.new("RGBA", found.size, "white")
            found = PIL.Image.alpha_composite(paper, found)
        found = found.convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise InvalidRequest(f"{image.where} is not an image that can be read: {error}", param=image.where) from error
    if image.detail == "low":
        found.thumbnail((LOW_DETAIL, LOW_DETAIL))
    return found


def _of_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey of 16 bits; if left to the conversion to colours, all that is above 255 would become white."""
    found = image.point(lambda value: value / 257).convert("L")
    if isinstance(clear := image.info.get("transparency"), int):
        found.info["transparency"] = clear // 257
    return found


def _runs(is_image: torch.Tensor) -> torch.Tensor:
    """A number for each run of placeholders; -1 elsewhere."""
    begins = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:-1]
    return torch.where(is_image, begins.cumsum(0) - 1, -1)
