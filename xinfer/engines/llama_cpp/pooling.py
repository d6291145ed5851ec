"""Embedding and rerank requests for a GGUF model."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from xinfer.devices import Grant
from xinfer.engines.base import JSON_HEAD, Call, Frame, Progress, parse_options
from xinfer.engines.batch_engine import Prepared
from xinfer.engines.batch_queue import BatchLimits
from xinfer.engines.llama_cpp.encoder import Encoder
from xinfer.engines.llama_cpp.options import LlamaCppOptions
from xinfer.engines.pooling_engine import Input, PoolingEngine, PoolingModel, checked_numbers, refuse_instruction
from xinfer.engines.token_engine import TOKEN_OPS, JobMaker, Limits, Tokenization
from xinfer.errors import ContextOverflow, XinferError
from xinfer.spec import ModelSpec


class LlamaPoolingEngine(PoolingEngine):
    """Serves one embedding or rerank model."""

    _encoder: Encoder
    _tokens: Tokenization

    def open(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> BatchLimits:
        """See ``BatchEngine.open``."""
        encoder = self._encoder = Encoder(spec, parse_options(LlamaCppOptions, options, "llama.cpp"), grant, progress)
        self.model = PoolingModel(
            kind=spec.kind,
            longest=encoder.max_length,
            vocabulary=encoder.vocabulary_size,
            dimensions=encoder.dimensions,
            normalizes=encoder.normalizes,
            sizes=spec.matryoshka_dims or None,
        )
        tokenizer = encoder.tokenizer
        limits = Limits(context_length=encoder.max_length, vocabulary_size=encoder.vocabulary_size)
        self._tokens = Tokenization(JobMaker(tokenizer, None, limits, frozenset(), "llama.cpp"), tokenizer, limits)
        return BatchLimits(max_tokens=encoder.batch_tokens, max_items=encoder.batch_items, max_padding=1.0)

    def phrased(self, query: str, instruction: str | None, limit: int) -> str:
        """See ``PoolingEngine.phrased``; it stands as it is."""
        refuse_instruction(instruction)
        tokens = self._encoder.query_tokens(query)
        if tokens >= limit:
            raise ContextOverflow(
                f"'query' has {tokens} tokens with what is put around it, which leaves no room for a document: the "
                f"limit is {limit}",
                param="query",
            )
        return query

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See ``Engine.serve``."""
        if call.op not in TOKEN_OPS:
            async for frame in super().serve(call):
                yield frame
            return
        body = await asyncio.to_thread(self._tokens.serve, call)
        yield JSON_HEAD
        yield body

    def prepare(self, inputs: Sequence[Input]) -> Sequence[Prepared | XinferError]:
        """See ``BatchEngine.prepare``."""
        tokenized = [self._ids(item) for item in inputs]
        return [self.checked(item, ids, ids) for item, ids in zip(inputs, tokenized, strict=True)]

    def run(self, payloads: Sequence[list[int]]) -> Sequence[Any]:
        """See ``BatchEngine.run``."""
        results = self._encoder.run(payloads)
        totals = [result if isinstance(result, float) else float(result.sum()) for result in results]
        return [checked_numbers(result, total) for result, total in zip(results, totals, strict=True)]

    def _ids(self, item: Input) -> list[int]:
        if isinstance(item.content, tuple):
            query, document = item.content
            return self._encoder.pair_ids(query, document, item.limit or self._encoder.max_length)
        if isinstance(item.content, str):
            return self._encoder.text_ids(item.content, item.limit)
        return item.content[: item.limit]
