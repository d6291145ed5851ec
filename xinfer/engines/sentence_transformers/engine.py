"""The engine. See ``models`` for what runs the models, and ``engines.pooling_engine`` for what requests become."""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import Available, EngineMemory, Match, Progress, parse_options
from xinfer.engines.batch_engine import Prepared
from xinfer.engines.batch_queue import BatchLimits
from xinfer.engines.pooling_engine import Input, PoolingEngine, PoolingModel, checked_numbers
from xinfer.engines.sentence_transformers.folder import ModelFolder
from xinfer.engines.sentence_transformers.options import TOKENS_ON_ACCELERATOR, TOKENS_PER_THREAD, Options
from xinfer.engines.torch_device import cpu_build, pick_device
from xinfer.engines.transformers_library import known_model_types
from xinfer.errors import InvalidRequest, XinferError
from xinfer.ops import Kind, Op
from xinfer.spec import Format, ModelSpec

if TYPE_CHECKING:
    from xinfer.engines.sentence_transformers.models import Model, Reranker, Tokens

PLANNED_THREADS = 4
"""CPU threads that an estimate counts on; how many a replica gets is known only when it starts."""


class SentenceTransformersEngine(PoolingEngine):
    """Embedding models and cross-encoders, micro-batched over concurrent requests."""

    name: ClassVar[str] = "sentence_transformers"
    title: ClassVar[str] = "embedding and rerank models in the format of Sentence Transformers"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.EMBEDDING, Op.RERANK})
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS, Format.PICKLE})
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
            return Match(ok=False, reason=f"it loads safetensors and pickles, and this model is in {spec.format}")
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

        from xinfer.engines.sentence_transformers.loading import load_model  # noqa: PLC0415 - needs torch

        torch.set_num_threads(max(1, grant.threads))
        progress("reading weights", 0.5)
        folder = ModelFolder(spec.source)
        prompt = _prompt(folder, chosen)
        device = pick_device(chosen.device, grant)
        model = self._model = load_model(spec.kind, folder, chosen, device, prompt)
        if chosen.max_length is not None:
            model.max_length = min(model.max_length, chosen.max_length)
        progress("warming up", 0.9)
        self.model = PoolingModel(
            kind=spec.kind,
            longest=model.max_length,
            vocabulary=model.vocabulary,
            dimensions=int(model.run([([0, 0], None)]).shape[1]),
            normalizes=model.normalizes,
            sizes=_matryoshka(spec, folder),
            prompt=prompt,
            own_tokens=model.tokenizer.own_tokens(pair=spec.kind is Kind.RERANK),
        )
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
        return [self.checked(item, encoded[0], encoded) for item, encoded in zip(inputs, tokens, strict=True)]

    def run(self, payloads: Sequence["Tokens"]) -> Sequence[Any]:
        """See ``BatchEngine.run``."""
        rows = self._model.run(payloads)
        results = list(rows) if self.model.kind is Kind.EMBEDDING else [float(row[0]) for row in rows]
        return [checked_numbers(result, total) for result, total in zip(results, rows.sum(1).tolist(), strict=True)]

    def phrased(self, query: str, instruction: str | None, limit: int) -> str:
        """See ``PoolingEngine.phrased``."""
        return cast("Reranker", self._model).phrased(query, instruction, limit)

    def _tokenize(self, contents: Sequence[Any], limit: int | None) -> "Sequence[Tokens]":
        if self.model.kind is Kind.RERANK:
            assert limit is not None, "pairs are always cut"
            return self._model.tokenizer.pairs(contents, limit)
        return [(ids, None) for ids in self._model.tokenizer.texts(contents, limit)]


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
