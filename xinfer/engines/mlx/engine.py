import importlib.metadata
import importlib.util
import platform
import sys
from typing import ClassVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import Available, EngineMemory, Match, Progress, Requirements
from xinfer.engines.mlx.options import MlxOptions
from xinfer.engines.token_engine import GRAMMAR_PACKAGES, LoadedModel, TokenEngine
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

ON_APPLE = sys.platform == "darwin" and platform.machine() == "arm64"


class MlxEngine(TokenEngine[MlxOptions]):
    """See the package."""

    name: ClassVar[str] = "mlx"
    title: ClassVar[str] = "language models on Apple silicon, with mlx-lm; continuous batching"
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS, Format.MLX})
    install: ClassVar[str] = 'pip install "xinfer[mlx]"'
    requirements: ClassVar[tuple[Requirements, ...]] = (
        Requirements(
            packages=("mlx-lm==0.32.2", "mlx" if ON_APPLE else "mlx[cpu]", *GRAMMAR_PACKAGES),
            imports=("mlx_lm",),
            disk_mib=800,
        ),
    )
    preference: ClassVar[int] = 60 if ON_APPLE else 15
    Options: ClassVar[type[msgspec.Struct]] = MlxOptions
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=512,
        dtype_options=("dtype",),
        cpu_dtype="" if ON_APPLE else "float32",
        context_options=("max_model_len",),
        needs_whole_context=False,
        concurrency_options=("max_num_seqs",),
        concurrency=MlxOptions().max_num_seqs,
        batch_token_options=("prefill_chunk",),
        batch_tokens=MlxOptions().prefill_chunk,
        grows=True,
    )

    @classmethod
    def available(cls) -> Available:
        """Whether mlx-lm is installed, and what it computes on here."""
        missing = [name for name in ("mlx", "mlx_lm") if importlib.util.find_spec(name) is None]
        if missing:
            return Available(False, f"{' and '.join(missing)} not installed: {cls.install}")
        where = "" if ON_APPLE else "it computes on the CPU here, which is for trying it out"
        return Available(True, where, importlib.metadata.version("mlx-lm"), cpu_only=where)

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Language models in safetensors; whether mlx-lm knows the architecture shows when it loads."""
        if spec.kind is not Kind.LLM:
            return Match(False, f"mlx serves language models, and this is a model for {spec.kind}")
        if spec.format not in cls.formats:
            return Match(False, f"mlx reads safetensors, and this model is in the format {spec.format}")
        return Match(True)

    def open_model(self, spec: ModelSpec, options: MlxOptions, grant: Grant, progress: Progress) -> LoadedModel:
        """Import, read, check. See ``loading.py``."""
        progress("importing", 0.0)
        from xinfer.engines.mlx.loading import load_model  # noqa: PLC0415 - imports mlx

        return load_model(spec, options, grant, progress)
