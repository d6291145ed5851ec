"""Embedding and rerank requests in, JSON bodies out; inputs of concurrent requests run together."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from xinfer.devices import Grant
from xinfer.engines.base import JSON_HEAD, Call, Frame, Progress, parse_options
from xinfer.engines.batch_engine import BatchEngine, Prepared
from xinfer.engines.batch_queue import BatchLimits
from xinfer.engines.llama_cpp.encoder import Encoder, unit
from xinfer.engines.llama_cpp.options import LlamaCppOptions
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, UnsupportedParameter, XinferError
from xinfer.ops import Kind, Op
from xinfer.protocols.embeddings import EmbeddingsRequest, encode_embeddings, parse_embeddings
from xinfer.protocols.rerank import encode_rerank, parse_rerank
from xinfer.spec import Format, ModelSpec

LARGE_BODY = 256 * 1024
"""Bytes of a request from which on decoding it is left to a thread."""
LARGE_ANSWER = 100_000
"""Numbers of an answer from which on encoding it is left to a thread."""

T = TypeVar("T")


class Input(msgspec.Struct, frozen=True):
    """One thing to tokenize. ``limit``: cut to so many tokens; ``None``: too long an input is an error."""

    content: str | tuple[str, str] | list[int]
    limit: int | None
    param: str
    """Its place in the request, for error messages."""


class PoolingEngine(BatchEngine):
    """Serves one embedding or rerank model."""

    _encoder: Encoder

    def __init__(self) -> None:
        super().__init__()
        self._spec = ModelSpec(name="", kind=Kind.EMBEDDING, source="", format=Format.GGUF)

    def open(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> BatchLimits:
        """See ``BatchEngine.open``."""
        self._spec = spec
        encoder = self._encoder = Encoder(spec, parse_options(LlamaCppOptions, options, "llama.cpp"), grant, progress)
        return BatchLimits(max_tokens=encoder.batch_tokens, max_items=encoder.batch_items, max_padding=1.0)

    def prepare(self, inputs: Sequence[Input]) -> Sequence[Prepared | XinferError]:
        """See ``BatchEngine.prepare``."""
        return [self._checked(item, self._ids(item)) for item in inputs]

    def run(self, payloads: Sequence[list[int]]) -> Sequence[Any]:
        """See ``BatchEngine.run``."""
        results = self._encoder.run(payloads)
        if not all(math.isfinite(result if isinstance(result, float) else float(result.sum())) for result in results):
            raise EngineFailed("the model computed values that are no numbers (NaN or infinite)")
        return results

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See ``Engine.serve``."""
        if call.op is Op.EMBEDDING and self._spec.kind is Kind.EMBEDDING:
            body = await self._embed(call)
        elif call.op is Op.RERANK and self._spec.kind is Kind.RERANK:
            body = await self._rerank(call)
        else:
            raise InvalidRequest(
                f"{call.model!r} is a model of type {self._spec.kind}, which has no {call.op}", param="model"
            )
        yield JSON_HEAD
        yield body

    async def _embed(self, call: Call) -> bytes:
        request = await _in_thread_if(len(call.body) > LARGE_BODY, parse_embeddings, call.body)
        self._check_dimensions(request)
        limit = self._limit(request.truncate_prompt_tokens)
        name = "input" if len(request.inputs) == 1 else "input[{}]"
        contents: Iterable[str | list[int]] = request.inputs
        answer = await self.submit(
            [Input(content, limit, name.format(index)) for index, content in enumerate(contents)]
        )

        def finish() -> bytes:
            return encode_embeddings(
                self._cut(answer.results, request.dimensions),
                model=call.model or request.model,
                prompt_tokens=answer.tokens,
                as_base64=request.base64,
            )

        return await _in_thread_if(len(request.inputs) * self._encoder.dimensions > LARGE_ANSWER, finish)

    async def _rerank(self, call: Call) -> bytes:
        request = await _in_thread_if(len(call.body) > LARGE_BODY, parse_rerank, call.body)
        limit = self._limit(request.truncate_prompt_tokens) or self._encoder.max_length
        answer = await self.submit(
            [
                Input((request.query, document), limit, f"documents[{index}]")
                for index, document in enumerate(request.documents)
            ]
        )
        return encode_rerank(
            request,
            answer.results,
            request_id=call.request_id,
            model=call.model or request.model,
            prompt_tokens=answer.tokens,
        )

    def _limit(self, asked: int | None) -> int | None:
        """Where inputs are cut; never beyond what the model takes."""
        longest = self._encoder.max_length
        return None if asked is None else longest if asked == -1 else min(asked, longest)

    def _ids(self, item: Input) -> list[int]:
        if isinstance(item.content, tuple):
            query, document = item.content
            return self._encoder.pair_ids(query, document, item.limit or self._encoder.max_length)
        if isinstance(item.content, str):
            return self._encoder.text_ids(item.content, item.limit)
        return item.content[: item.limit]

    def _checked(self, item: Input, ids: list[int]) -> Prepared | XinferError:
        longest, size = self._encoder.max_length, self._encoder.vocabulary_size
        if len(ids) > longest:
            return ContextOverflow(
                f"the model takes at most {longest} tokens and {item.param!r} has {len(ids)}; shorten it, or let it be"
                " cut with 'truncate_prompt_tokens': -1",
                param=item.param,
            )
        if not ids:
            return InvalidRequest(f"{item.param!r} has no tokens", param=item.param)
        if max(ids) >= size:
            return InvalidRequest(
                f"{item.param!r} has the token id {max(ids)}, and the model's last one is {size - 1}", param=item.param
            )
        return Prepared(len(ids), ids)

    def _check_dimensions(self, request: EmbeddingsRequest) -> None:
        """Only models trained for it (Matryoshka) have vectors that may be cut.

        Raises:
            InvalidRequest: more than the model has, or a size it was not trained for.
            UnsupportedParameter: the model's vectors cannot be cut, as far as is known.
        """
        asked, own, sizes = request.dimensions, self._encoder.dimensions, self._spec.matryoshka_dims
        if asked is None or asked == own:
            return
        if not sizes:
            raise UnsupportedParameter(
                f"this model has vectors of {own} dimensions that cannot be cut; leave 'dimensions' out",
                param="dimensions",
            )
        if asked not in sizes:
            choice = ", ".join(map(str, sizes))
            raise InvalidRequest(
                f"this model has vectors of {own} dimensions; 'dimensions' may be that or one of {choice}",
                param="dimensions",
            )

    def _cut(self, vectors: Sequence[Any], dimensions: int | None) -> Sequence[Any]:
        """The first ``dimensions`` of each vector, of unit length again where the model's are."""
        if dimensions is None or dimensions == self._encoder.dimensions:
            return vectors
        short = np.stack([vector[:dimensions] for vector in vectors])
        return list(unit(short) if self._encoder.normalizes else short)


async def _in_thread_if(heavy: bool, function: Callable[..., T], *args: Any) -> T:
    """Call a function, in a thread when it would hold up the event loop."""
    return await asyncio.to_thread(function, *args) if heavy else function(*args)
