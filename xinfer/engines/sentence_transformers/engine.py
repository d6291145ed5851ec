"""The engine: embedding and rerank requests in, JSON bodies out. See ``models`` for what runs them."""

import asyncio
import importlib.metadata
import importlib.util
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import JSON_HEAD, Available, Call, EngineMemory, Frame, Match, Progress, parse_options
from xinfer.engines.batch_engine import BatchEngine, Prepared
from xinfer.engines.batch_queue import BatchLimits
from xinfer.engines.sentence_transformers.folder import ModelFolder
from xinfer.engines.sentence_transformers.options import TOKENS_ON_ACCELERATOR, TOKENS_PER_THREAD, Options
from xinfer.engines.torch_device import cpu_build, pick_device
from xinfer.engines.transformers_library import known_model_types
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, UnsupportedParameter, XinferError
from xinfer.ops import Kind, Op
from xinfer.protocols.embeddings import EmbeddingsRequest, encode_embeddings, parse_embeddings
from xinfer.protocols.rerank import encode_rerank, parse_rerank
from xinfer.spec import Format, ModelSpec

if TYPE_CHECKING:
    from xinfer.engines.sentence_transformers.models import Model, Tokens

LARGE_BODY = 256 * 1024
"""Bytes of a request from which on decoding it is left to a thread."""
PLANNED_THREADS = 4
"""CPU threads that an estimate counts on; how many a replica gets is known only when it starts."""
LARGE_ANSWER = 100_000
"""Numbers of an answer from which on encoding it is left to a thread."""

T = TypeVar("T")


class Input(msgspec.Struct, frozen=True):
    """One thing to tokenise: a text, a query and a document, or token ids."""

    content: str | tuple[str, str] | list[int]
    limit: int | None
    """Cut to so many tokens; ``None``: too long an input is an error."""
    param: str
    """Its place in the request, for error messages."""


class SentenceTransformersEngine(BatchEngine):
    """Embedding models and cross-encoders, micro-batched over concurrent requests."""

    name: ClassVar[str] = "sentence_transformers"
    title: ClassVar[str] = "embedding and rerank models in the format of Sentence Transformers"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.EMBEDDING, Op.RERANK})
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS})
    install: ClassVar[str] = 'pip install "xinfer[sentence-transformers]"'
    preference: ClassVar[int] = 50
    Options: ClassVar[type[msgspec.Struct]] = Options
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=304,
        dtype_options=("dtype",),
        cpu_dtype="float32",
        context_options=("max_length",),
        batch_token_options=("max_batch_tokens",),
        batch_tokens=TOKENS_ON_ACCELERATOR,
        cpu_batch_tokens=PLANNED_THREADS * TOKENS_PER_THREAD,
    )

    _model: "Model"

    def __init__(self) -> None:
        super().__init__()
        self._kind = Kind.EMBEDDING
        self._dimensions = 0
        self._matryoshka: tuple[int, ...] | None = None
        self._prompt = ""

    @classmethod
    def available(cls) -> Available:
        """See ``Engine.available``."""
        for library in ("torch", "tokenizers", "safetensors", "sentence_transformers"):
            if importlib.util.find_spec(library) is None:
                return Available(ok=False, reason=f"{library} is not installed: {cls.install}")
        version = importlib.metadata.version("sentence-transformers")
        return Available(ok=True, version=version, cpu_only=cpu_build())

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """See ``Engine.accepts``."""
        if spec.kind not in {Kind.EMBEDDING, Kind.RERANK}:
            return Match(ok=False, reason=f"it serves embedding and rerank models, and this is of type {spec.kind}")
        if spec.format not in cls.formats:
            return Match(ok=False, reason=f"it loads safetensors, and this model is in {spec.format}")
        return Match(ok=True)

    @classmethod
    def needs_remote_code(cls, spec: ModelSpec) -> bool:
        """Whether the library has no classes for its type."""
        known = known_model_types()
        return spec.remote_code and bool(known) and spec.family not in known

    def open(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> BatchLimits:
        """See ``BatchEngine.open``."""
        chosen = parse_options(Options, options, self.name)
        progress("importing", 0.0)
        import torch  # noqa: PLC0415 - only in the replica's process

        from xinfer.engines.sentence_transformers.models import load_model  # noqa: PLC0415 - needs torch

        torch.set_num_threads(max(1, grant.threads))
        progress("reading weights", 0.5)
        folder = ModelFolder(spec.source)
        self._kind = spec.kind
        self._prompt = _prompt(folder, chosen)
        device = pick_device(chosen.device, grant)
        model = self._model = load_model(spec.kind, folder, chosen, device, self._prompt)
        if chosen.max_length is not None:
            model.max_length = min(model.max_length, chosen.max_length)
        progress("warming up", 0.9)
        self._dimensions = int(model.run([([0, 0], None)]).shape[1])
        self._matryoshka = _matryoshka(spec, folder)
        return chosen.limits(threads=max(1, grant.threads), on_cpu=device.type == "cpu", packed=model.packed)

    def prepare(self, inputs: Sequence[Input]) -> Sequence[Prepared | XinferError]:
        """See ``BatchEngine.prepare``."""
        tokens: list[Tokens] = [([], None)] * len(inputs)
        by_limit: dict[int | None, list[int]] = {}
        for place, item in enumerate(inputs):
            if isinstance(item.content, list):
                tokens[place] = (item.content[: item.limit], None)
            else:
                by_limit.setdefault(item.limit, []).append(place)
        for limit, places in by_limit.items():
            contents = [inputs[place].content for place in places]
            for place, encoded in zip(places, self._tokenize(contents, limit), strict=True):
                tokens[place] = encoded
        return [self._checked(item, encoded) for item, encoded in zip(inputs, tokens, strict=True)]

    def run(self, payloads: Sequence["Tokens"]) -> Sequence[Any]:
        """See ``BatchEngine.run``."""
        rows = self._model.run(payloads)
        if not math.isfinite(float(rows.sum())):
            raise EngineFailed("the model computed values that are no numbers (NaN or infinite)")
        return list(rows) if self._kind is Kind.EMBEDDING else [float(row[0]) for row in rows]

    async def serve(self, call: Call) -> AsyncIterator[Frame]:
        """See ``Engine.serve``."""
        if call.op is Op.EMBEDDING and self._kind is Kind.EMBEDDING:
            body = await self._embed(call)
        elif call.op is Op.RERANK and self._kind is Kind.RERANK:
            body = await self._rerank(call)
        else:
            raise InvalidRequest(
                f"{call.model!r} is a model of type {self._kind}, which has no {call.op}", param="model"
            )
        yield JSON_HEAD
        yield body

    async def _embed(self, call: Call) -> bytes:
        request = await _in_thread_if(len(call.body) > LARGE_BODY, parse_embeddings, call.body)
        self._check_dimensions(request)
        answer = await self.submit(self._inputs(request))

        def finish() -> bytes:
            vectors = self._cut(answer.results, request.dimensions)
            return encode_embeddings(
                vectors, model=call.model or request.model, prompt_tokens=answer.tokens, as_base64=request.base64
            )

        return await _in_thread_if(len(request.inputs) * self._dimensions > LARGE_ANSWER, finish)

    async def _rerank(self, call: Call) -> bytes:
        request = await _in_thread_if(len(call.body) > LARGE_BODY, parse_rerank, call.body)
        limit = self._limit(request.truncate_prompt_tokens) or self._model.max_length
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

    def _inputs(self, request: EmbeddingsRequest) -> list[Input]:
        """The texts with the prompt before them, or the token ids as they are."""
        limit = self._limit(request.truncate_prompt_tokens)
        single = len(request.inputs) == 1
        contents: Iterable[str | list[int]] = request.inputs
        return [
            Input(
                self._prompt + content if isinstance(content, str) else content,
                limit,
                "input" if single else f"input[{index}]",
            )
            for index, content in enumerate(contents)
        ]

    def _limit(self, asked: int | None) -> int | None:
        """Where inputs are cut; never beyond what the model takes."""
        if asked is None:
            return None
        return self._model.max_length if asked == -1 else min(asked, self._model.max_length)

    def _tokenize(self, contents: Sequence[Any], limit: int | None) -> "Sequence[Tokens]":
        if self._kind is Kind.RERANK:
            assert limit is not None, "pairs are always cut"
            return self._model.tokenizer.pairs(contents, limit)
        return [(ids, None) for ids in self._model.tokenizer.texts(contents, limit)]

    def _checked(self, item: Input, tokens: "Tokens") -> Prepared | XinferError:
        ids = tokens[0]
        longest = self._model.max_length
        if len(ids) > longest:
            return ContextOverflow(
                f"the model takes at most {longest} tokens and {item.param!r} has {len(ids)}; shorten it, or let it be"
                " cut with 'truncate_prompt_tokens': -1",
                param=item.param,
            )
        if not ids:
            return InvalidRequest(f"{item.param!r} has no tokens", param=item.param)
        if isinstance(item.content, list) and max(ids) >= self._model.vocabulary:
            return InvalidRequest(
                f"{item.param!r} has the token id {max(ids)}, and the model's last one is {self._model.vocabulary - 1}",
                param=item.param,
            )
        return Prepared(len(ids), tokens)

    def _check_dimensions(self, request: EmbeddingsRequest) -> None:
        """Only models trained for it (Matryoshka) have vectors that may be cut.

        Raises:
            InvalidRequest: more than the model has, or a size it was not trained for.
            UnsupportedParameter: the model's vectors cannot be cut.
        """
        asked = request.dimensions
        if asked is None or asked == self._dimensions:
            return
        if self._matryoshka is None:
            raise UnsupportedParameter(
                f"this model has vectors of {self._dimensions} dimensions that cannot be cut; leave 'dimensions' out",
                param="dimensions",
            )
        if asked > self._dimensions or (self._matryoshka and asked not in self._matryoshka):
            choice = f"one of {', '.join(map(str, self._matryoshka))}" if self._matryoshka else "fewer"
            raise InvalidRequest(
                f"this model has vectors of {self._dimensions} dimensions; 'dimensions' may be that or {choice}",
                param="dimensions",
            )

    def _cut(self, vectors: list[Any], dimensions: int | None) -> Sequence[Any]:
        """The first ``dimensions`` of each vector, of unit length again where the model's are."""
        if dimensions is None or dimensions == self._dimensions:
            return vectors
        import numpy as np  # noqa: PLC0415 - comes with torch, not with the base install

        short = np.stack([vector[:dimensions] for vector in vectors])
        if self._model.normalizes:
            short /= np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
        return list(short)


def _prompt(folder: ModelFolder, options: Options) -> str:
    """What is put before every text.

    Raises:
        InvalidRequest: both options are given, or the folder has no prompt of that name.
    """
    prompts = folder.prompts
    if options.prompt is not None and options.prompt_name is not None:
        raise InvalidRequest("give 'prompt' or 'prompt_name', not both", param="prompt_name")
    if options.prompt_name is None:
        return prompts.default if options.prompt is None else options.prompt
    if options.prompt_name not in prompts.named:
        names = ", ".join(sorted(prompts.named)) or "none"
        raise InvalidRequest(
            f"the model has no prompt {options.prompt_name!r}; its prompts are: {names}", param="prompt_name"
        )
    return prompts.named[options.prompt_name]


def _matryoshka(spec: ModelSpec, folder: ModelFolder) -> tuple[int, ...] | None:
    """The sizes that vectors may be cut to; empty: any; ``None``: they must not be cut."""
    sizes = spec.matryoshka_dims or folder.matryoshka_dims
    return sizes if sizes or folder.is_matryoshka else None


async def _in_thread_if(heavy: bool, function: Callable[..., T], *args: Any) -> T:
    """Call a function, in a thread when it would hold up the event loop."""
    return await asyncio.to_thread(function, *args) if heavy else function(*args)
