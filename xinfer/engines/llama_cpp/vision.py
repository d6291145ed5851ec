"""Images to what a language model reads, with the encoder that belongs to it (an mmproj file) and libmtmd."""

import ctypes
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c
import llama_cpp.mtmd_cpp as m
import numpy as np

from xinfer.engines.llama_cpp.images import ImageSpan, stand_in
from xinfer.engines.llama_cpp.library import NO_ROOM, Context, Model, loading
from xinfer.engines.media import Image
from xinfer.engines.token_engine.tokenizer import begun
from xinfer.errors import EngineFailed, InvalidRequest, LoadFailed

MARK = "<__media__>"
"""Stands for an image in the text of a prompt."""
KEPT_PIECES = 16
"""Encoded pieces of images that are kept: a conversation sends its images again with every turn."""
LOW_DETAIL = 512
"""The longest side of an image with ``detail`` low, in pixels."""


class Picture:
    """A piece of an image, encoded. Freed with the object.

    Args:
        pointer: of the library's chunk, which is the object's own.
        tokens: that it takes.
        positions: that it takes.
        vectors: one for each token.
    """

    def __init__(self, pointer: Any, tokens: int, positions: int, vectors: Any) -> None:
        self.pointer = pointer
        self.tokens = tokens
        self.positions = positions
        self.vectors = vectors
        weakref.finalize(self, m.mtmd_input_chunk_free, pointer).atexit = False


Piece = list[int] | Picture
"""Of what stands for an image: tokens around it, or a part of it."""


class ImageEncoder:
    """The encoder of one model. ``pieces`` may be called in any thread, one image is encoded at a time.

    Args:
        path: the mmproj file.
        model: that it belongs to; stays loaded as long as this does.
        threads: of the CPU.
        use_gpu: it may go to an accelerator.
        longest: tokens that can be read at once.

    Raises:
        LoadFailed: it cannot be loaded, does not belong to the model, or is for something other than images.
    """

    def __init__(self, path: Path, model: Model, *, threads: int, use_gpu: bool, longest: int) -> None:
        params = m.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings = use_gpu, threads, False
        params.media_marker = MARK.encode()
        with loading(m.mtmd_helper_log_set) as reason:
            self.pointer = m.mtmd_init_from_file(os.fsencode(path), model.pointer, params)
        if not self.pointer:
            raise LoadFailed(f"llama.cpp cannot load {path.name}: {reason()}")
        weakref.finalize(self, m.mtmd_free, self.pointer).atexit = False
        if not m.mtmd_support_vision(self.pointer):
            raise LoadFailed(f"{path.name} is not for images")
        self._model = model
        self._width = int(c.llama_model_n_embd_inp(model.pointer))
        self._longest = longest
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Picture] = OrderedDict()

    def pieces(self, image: Image) -> list[tuple[int, Piece]]:
        """What an image is in a prompt, each piece with the token that stands for its content.

        Raises:
            InvalidRequest: it cannot be read.
        """
        bitmap = self._bitmap(image)
        chunks = m.mtmd_input_chunks_init()
        try:
            written = m.mtmd_input_text(text=MARK.encode(), text_len=len(MARK), add_special=False, parse_special=True)
            bitmaps = (m.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if m.mtmd_tokenize(self.pointer, chunks, ctypes.byref(written), bitmaps, 1):
                raise InvalidRequest(f"{image.where} cannot be prepared for this model", param=image.where)
            found = [m.mtmd_input_chunks_get(chunks, index) for index in range(m.mtmd_input_chunks_size(chunks))]
            return [self._piece(chunk, stand_in(image.digest, part), image) for part, chunk in enumerate(found)]
        finally:
            m.mtmd_input_chunks_free(chunks)
            m.mtmd_bitmap_free(bitmap)

    def read(self, context: Context, picture: Picture, position: int, sequence: int) -> bool:
        """Have a context read a picture. False: the cache has no room for it, and may have a part of it now.

        Raises:
            EngineFailed: the library cannot go on.
        """
        vectors = picture.vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        behind = c.llama_pos()
        with context.computing():
            code = m.mtmd_helper_decode_image_chunk(
                self.pointer,
                context.pointer,
                picture.pointer,
                vectors,
                position,
                sequence,
                context.batch_size,
                ctypes.byref(behind),
                m.mtmd_helper_post_decode_callback(),
                None,
            )
        if code not in {0, NO_ROOM}:
            raise EngineFailed(f"llama.cpp cannot read an image of {picture.tokens} tokens (it returned {code})")
        return bool(code == 0)

    def _bitmap(self, image: Image) -> Any:
        data = (ctypes.c_uint8 * len(image.data)).from_buffer_copy(image.data)
        bitmap = m.mtmd_helper_bitmap_init_from_buf(self.pointer, data, len(image.data), False)
        if not bitmap:
            raise InvalidRequest(
                f"{image.where} cannot be read by llama.cpp: it is damaged, or not in one of the formats that it reads "
                "(JPEG, PNG, GIF, BMP)",
                param=image.where,
            )
        width, height = m.mtmd_bitmap_get_nx(bitmap), m.mtmd_bitmap_get_ny(bitmap)
        if image.detail != "low" or max(width, height) <= LOW_DETAIL:
            return bitmap
        address = ctypes.cast(m.mtmd_bitmap_get_data(bitmap), ctypes.c_void_p).value
        assert address is not None, "a bitmap that was read has data"
        pixels = np.frombuffer((ctypes.c_uint8 * (width * height * 3)).from_address(address), np.uint8)
        small = np.ascontiguousarray(reduced(pixels.reshape(height, width, 3), LOW_DETAIL))
        m_small = m.mtmd_bitmap_init(
            small.shape[1], small.shape[0], small.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        )
        m.mtmd_bitmap_free(bitmap)
        return m_small

    def _piece(self, chunk: Any, token: int, image: Image) -> tuple[int, Piece]:
        if m.mtmd_input_chunk_get_type(chunk) == m.MTMD_INPUT_CHUNK_TYPE_TEXT:
            size = ctypes.c_size_t()
            ids = m.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))
            return token, [int(ids[index]) for index in range(size.value)]
        tokens = int(m.mtmd_input_chunk_get_n_tokens(chunk))
        if tokens > self._longest and m.mtmd_decode_use_non_causal(self.pointer, chunk):
            raise InvalidRequest(
                f"{image.where} is {tokens} tokens for this model, which has to read them at once, and it was launched "
                f"with n_ubatch={self._longest}: send a smaller image, or launch it with a higher n_ubatch",
                param=image.where,
            )
        with self._lock:
            known = self._known.get(token)
            if known is None:
                known = self._known[token] = self._encoded(chunk, tokens)
                if len(self._known) > KEPT_PIECES:
                    self._known.popitem(last=False)
            self._known.move_to_end(token)
        return token, known

    def _encoded(self, chunk: Any, tokens: int) -> Picture:
        code = m.mtmd_encode_chunk(self.pointer, chunk)
        if code:
            raise EngineFailed(f"llama.cpp cannot encode an image of {tokens} tokens (it returned {code})")
        count = tokens * self._width
        vectors = np.ctypeslib.as_array(m.mtmd_get_output_embd(self.pointer), (count,)).copy()
        positions = int(m.mtmd_input_chunk_get_n_pos(chunk))
        return Picture(m.mtmd_input_chunk_copy(chunk), tokens, positions, vectors)


class PromptsWithImages:
    """Implements ``token_engine.ImageReader``.

    Args:
        encoder: of the model.
    """

    mark = MARK
    template_writes_mark = False

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder

    def prompt(
        self,
        text: str,
        images: Sequence[Image],
        encode: Callable[[str], list[int]],
        beginning: Sequence[int] = (),
    ) -> tuple[list[int], tuple[ImageSpan, ...]]:
        """See the protocol."""
        first, *rest = text.split(MARK)
        ids = begun(encode(first), beginning)
        spans: list[ImageSpan] = []
        for image, behind in zip(images, rest, strict=True):
            for token, piece in self._encoder.pieces(image):
                if isinstance(piece, Picture):
                    spans.append(ImageSpan(len(ids), piece.tokens, piece.positions, piece))
                    ids += [token] * piece.tokens
                else:
                    ids += piece
            ids += encode(behind)
        if spans[-1].end == len(ids):
            raise InvalidRequest("a prompt cannot end with an image: put some text behind it", param="messages")
        return ids, tuple(spans)


def reduced(pixels: Any, longest: int) -> Any:
    """An image of [height, width, colours] whose longer side is at most ``longest``; every pixel is one of the old."""
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(height, width))
    rows, columns = (np.arange(max(1, round(size * scale))) / scale for size in (height, width))
    return pixels[rows.astype(int)[:, None], columns.astype(int)]
