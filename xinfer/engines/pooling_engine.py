"""The base of engines that make a vector or a score of a text: embedding and rerank requests in, JSON bodies out.

Inputs of concurrent requests run together, as ``batch_engine`` has it. A subclass loads the model and says what it is
(``open`` sets ``model``), turns ``Input`` into tokens (``prepare``) and computes (``run``).
"""

import asyncio
import functools
import math
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from xinfer.engines.base import JSON_HEAD, Call, Frame
from xinfer.engines.batch_engine import BatchEngine, Prepared
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, UnsupportedParameter, XinferError
from xinfer.ops import Kind, Op
from xinfer.protocols.embeddings import EmbeddingsRequest, encode_embeddings, parse_embeddings
from xinfer.protocols.rerank import encode_rerank, parse_rerank

LARGE_BODY = 256 * 1024
"""Bytes of a request from which on decoding it is left to a thread."""
LARGE_ANSWER = 100_000
"""Numbers of an answer from which on encoding it is left to a thread."""

T = TypeVar("T")


class Input(msgspec.Struct, frozen=True):
    """One thing to tokenize: a text, a query and a document, or token ids."""

    content: str | tuple[str, str] | list[int]
    limit: int | None
    """Cut to so many tokens; ``None``: too long an input is an error."""
    param: str
    """Its place in the request, for error messages."""


class PoolingModel(msgspec.Struct, frozen=True, kw_only=True):
    """What requests have to know of a loaded model."""

    kind: Kind
    longest: int
    """Tokens of an input."""
    vocabulary: int
    """Token ids are below this."""
    dimensions: int
    normalizes: bool
    """Its vectors have unit length."""
    sizes: tuple[int, ...] | None = None
    """To which its vectors may be cut (Matryoshka); empty: to any; ``None``: they must not be cut."""
    prompt: str = ""
    """What is put before every text."""
    own_tokens: int = 0
    """Tokens that are put around every text, or pair of texts, and stay when it is cut."""


class PoolingEngine(BatchEngine):
    """Serves one embedding or rerank model. ``open`` sets ``model``."""

    model: PoolingModel

    @abstractmethod
    def prepare(self, inputs: Sequence[Input]) -> Sequence[Prepared | XinferError]:
        """See ``BatchEngine.prepare``; what ``checked`` makes of each input's tokens."""

    def phrased(self, query: str, instruction: str | None, limit: int) -> str:  # noqa: ARG002  models differ
        """What stands for the query in a pair of at most ``limit`` tokens.

        Raises:
            UnsupportedParameter: the model takes no instruction.
        """
        refuse_instruction(instruction)
        return query

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See ``Engine.serve``."""
        kind = self.model.kind
        if call.op is Op.EMBEDDING and kind is Kind.EMBEDDING:
            body = await self._embed(call)
        elif call.op is Op.RERANK and kind is Kind.RERANK:
            body = await self._rerank(call)
        else:
            raise InvalidRequest(f"{call.model!r} is a model of type {kind}, which has no {call.op}", param="model")
        yield JSON_HEAD
        yield body

    def checked(self, item: Input, ids: Sequence[int], payload: Any) -> Prepared | XinferError:
        """An input that is ready to run, or why it cannot.

        Args:
            item: as it came.
            ids: its tokens.
            payload: what runs.
        """
        model = self.model
        if len(ids) > model.longest:
            return ContextOverflow(
                f"the model takes at most {model.longest} tokens and {item.param!r} has {len(ids)}; shorten it, or let "
                "it be cut with 'truncate_prompt_tokens': -1",
                param=item.param,
            )
        if not ids:
            return InvalidRequest(f"{item.param!r} has no tokens", param=item.param)
        if isinstance(item.content, list) and max(ids) >= model.vocabulary:
            return InvalidRequest(
                f"{item.param!r} has the token id {max(ids)}, and the model's last one is {model.vocabulary - 1}",
                param=item.param,
            )
        return Prepared(len(ids), payload)

    async def _embed(self, call: Call) -> bytes:
        request = await _in_thread_if(len(call.body) > LARGE_BODY, parse_embeddings, call.body)
        self._check_dimensions(request)
        answer = await self.submit(self._inputs(request))

        def finish() -> bytes:
            vectors = self._cut(answer.results, request.dimensions)
            return encode_embeddings(
                vectors, model=call.model or request.model, prompt_tokens=answer.tokens, as_base64=request.base64
            )

        return await _in_thread_if(len(request.inputs) * self.model.dimensions > LARGE_ANSWER, finish)

    async def _rerank(self, call: Call) -> bytes:
        parse = functools.partial(parse_rerank, instructed=True)
        request = await _in_thread_if(len(call.body) > LARGE_BODY, parse, call.body)
        limit = self._limit(request.truncate_prompt_tokens) or self.model.longest
        query = self.phrased(request.query, request.instruction, limit)
        answer = await self.submit(
            [Input((query, document), limit, f"documents[{index}]") for index, document in enumerate(request.documents)]
        )
        return encode_rerank(
            request,
            answer.results,
            request_id=call.request_id,
            model=call.model or request.model,
            prompt_tokens=answer.tokens,
        )

    def _inputs(self, request: EmbeddingsRequest) -> list[Input]:
        """The texts with the prompt before them, or the token ids as they are."""
        limit = self._limit(request.truncate_prompt_tokens, own=isinstance(request.inputs[0], str))
        name = "input" if len(request.inputs) == 1 else "input[{}]"
        contents: Iterable[str | list[int]] = request.inputs
        return [
            Input(self.model.prompt + content if isinstance(content, str) else content, limit, name.format(index))
            for index, content in enumerate(contents)
        ]

    def _limit(self, asked: int | None, *, own: bool = True) -> int | None:
        """Where inputs are cut; never beyond what the model takes.

        Args:
            asked: by a request; -1: to what the model takes; None: nothing is cut.
            own: inputs get the model's own tokens.

        Raises:
            InvalidRequest: that leaves no room beside those.
        """
        if asked is None:
            return None
        around = self.model.own_tokens if own else 0
        if asked != -1 and asked <= around:
            raise InvalidRequest(
                f"'truncate_prompt_tokens' must be more than {around} here: so many tokens are the model's own",
                param="truncate_prompt_tokens",
            )
        return self.model.longest if asked == -1 else min(asked, self.model.longest)

    def _check_dimensions(self, request: EmbeddingsRequest) -> None:
        """Only models trained for it (Matryoshka) have vectors that may be cut.

        Raises:
            InvalidRequest: more than the model has, or a size it was not trained for.
            UnsupportedParameter: the model's vectors cannot be cut.
        """
        asked, own, sizes = request.dimensions, self.model.dimensions, self.model.sizes
        if asked is None or asked == own:
            return
        if sizes is None:
            raise UnsupportedParameter(
                f"this model has vectors of {own} dimensions that cannot be cut; leave 'dimensions' out",
                param="dimensions",
            )
        if asked > own or (sizes and asked not in sizes):
            choice = f"one of {', '.join(map(str, sizes))}" if sizes else "fewer"
            raise InvalidRequest(
                f"this model has vectors of {own} dimensions; 'dimensions' may be that or {choice}", param="dimensions"
            )

    def _cut(self, vectors: Sequence[Any], dimensions: int | None) -> Sequence[Any]:
        """The first ``dimensions`` of each vector, of unit length again where the model's are."""
        if dimensions is None or dimensions == self.model.dimensions:
            return vectors
        import numpy as np  # noqa: PLC0415 - comes with the library, not with the base install

        short = np.stack([vector[:dimensions] for vector in vectors])
        if self.model.normalizes:
            short /= np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
        return list(short)


def refuse_instruction(instruction: str | None) -> None:
    """For models that read a query and a document, and nothing else.

    Raises:
        UnsupportedParameter: there is an instruction.
    """
    if instruction is not None:
        raise UnsupportedParameter(
            "this model reads a query and a document only; leave 'instruction' out", param="instruction"
        )


def checked_numbers(result: T, total: float) -> T | EngineFailed:
    """What a model computed of one input; an error where these are no numbers. ``total``: the sum of them."""
    if math.isfinite(total):
        return result
    return EngineFailed("the model computed values that are no numbers (NaN or infinite)")


async def _in_thread_if(heavy: bool, function: Callable[..., T], *args: Any) -> T:
    """Call a function, in a thread when it would hold up the event loop."""
    return await asyncio.to_thread(function, *args) if heavy else function(*args)
