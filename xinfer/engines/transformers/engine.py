import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import Available, EngineMemory, Match, Progress, Requirements
from xinfer.engines.token_engine import GRAMMAR_PACKAGES, LoadedModel, TokenEngine
from xinfer.engines.torch_device import cpu_build
from xinfer.engines.transformers.changes import ChangesOfTransformers
from xinfer.engines.transformers.fitness import read_config, unfit
from xinfer.engines.transformers.imports import UNUSED_PACKAGES, without_packages
from xinfer.engines.transformers.options import TransformersOptions
from xinfer.engines.transformers.quantization import (
    CPU_UNPACKS,
    UNPACKS,
    installed,
    packages_for,
    unreadable,
)
from xinfer.engines.transformers_library import known_model_types
from xinfer.ops import GENERATIVE_KINDS
from xinfer.spec import Format, ModelSpec


class TransformersEngine(ChangesOfTransformers, TokenEngine[TransformersOptions]):
    """See the package."""

    name: ClassVar[str] = "transformers"
    title: ClassVar[str] = "language models of Hugging Face, also those that see, on CPU or CUDA; continuous batching"
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS, Format.PICKLE})
    install: ClassVar[str] = 'pip install "xinfer[transformers]"'
    requirements: ClassVar[tuple[Requirements, ...]] = (
        Requirements(
            packages=("torch==2.13.0", "transformers==5.19.0", "safetensors>=0.5", "pillow>=11", *GRAMMAR_PACKAGES),
            imports=("torch", "transformers", "PIL"),
            disk_mib=2_000,
        ),
    )
    preference: ClassVar[int] = 50
    Options: ClassVar[type[msgspec.Struct]] = TransformersOptions
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=560,
        dtype_options=("dtype", "torch_dtype"),
        cpu_dtype="float32",
        context_options=("max_model_len", "context_length"),
        needs_whole_context=False,
        concurrency_options=("max_num_seqs",),
        concurrency=TransformersOptions().max_num_seqs,
        windowed_cache=False,
        latent_cache=False,
        batch_token_options=("prefill_chunk",),
        batch_tokens=TransformersOptions().prefill_chunk,
        grows=True,
        quantized_keeps_dtype=True,
        quantize_options=("quantize",),
        unpacks=UNPACKS,
        cpu_unpacks=CPU_UNPACKS,
        cache_overhead=0.25,
    )

    @classmethod
    def available(cls) -> Available:
        """Whether torch and transformers are installed."""
        missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        if missing:
            return Available(False, f"{' and '.join(missing)} not installed: {cls.install}")
        version = importlib.metadata.version("transformers")
        return Available(True, version=version, cpu_only=cpu_build(), packages=installed())

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Models in safetensors that write, and may see, plain or quantized as it can read, with standard attention."""
        if spec.kind not in GENERATIVE_KINDS:
            return Match(False, f"transformers serves language models here, and this is a model for {spec.kind}")
        if spec.format not in cls.formats:
            return Match(False, f"it reads safetensors and pickles, and this model is in the format {spec.format}")
        reason = unreadable(spec.quantization) or unfit(read_config(Path(spec.source)), spec.kind)
        return Match(not reason, reason)

    @classmethod
    def packages_for(cls, spec: ModelSpec, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Those that read its quantized weights, or that quantize them."""
        return packages_for(spec, options.get("quantize"))

    @classmethod
    def needs_remote_code(cls, spec: ModelSpec) -> bool:
        """Whether the library has no classes for its type."""
        known = known_model_types()
        return spec.remote_code and bool(known) and spec.family not in known

    def open_model(
        self, spec: ModelSpec, options: TransformersOptions, grant: Grant, progress: Progress
    ) -> LoadedModel:
        """Import, read, check. See ``loading.py``."""
        progress("importing", 0.0)
        with without_packages(() if options.trust_remote_code else UNUSED_PACKAGES):
            from xinfer.engines.transformers.loading import load_model  # noqa: PLC0415 - imports torch

            model = load_model(spec, options, grant, progress)
        self.read_adapter = model.read_adapter
        return model
