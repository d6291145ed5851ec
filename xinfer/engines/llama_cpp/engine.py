import importlib.metadata
import importlib.util
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import Available, Call, EngineMemory, Frame, Load, Match, Progress, Requirements
from xinfer.engines.llama_cpp.options import LlamaCppOptions
from xinfer.engines.llama_cpp.requirements import LIBRARY, REQUIREMENTS
from xinfer.engines.token_engine import LoadedModel, ServesAdapters, TokenEngine
from xinfer.ops import GENERATIVE_KINDS, Kind, Op
from xinfer.spec import Adapter, Format, ModelSpec

if TYPE_CHECKING:
    from xinfer.engines.llama_cpp.pooling import LlamaPoolingEngine

DEVICE_KINDS = ("cuda", "hip", "metal", "musa", "sycl", "vulkan", "cann", "opencl")
"""As the libraries of llama.cpp are called that compute on them."""


class LlamaCppEngine(ServesAdapters, TokenEngine[LlamaCppOptions]):
    """Chooses by the kind of the model: continuous batching for language models, batches of texts for the others."""

    name: ClassVar[str] = "llama.cpp"
    title: ClassVar[str] = "GGUF models with llama.cpp, on CPU or accelerators; continuous batching"
    ops: ClassVar[frozenset[Op]] = TokenEngine.ops | {Op.EMBEDDING, Op.RERANK}
    formats: ClassVar[frozenset[Format]] = frozenset({Format.GGUF})
    install: ClassVar[str] = 'pip install "xinfer[llama-cpp]"'
    requirements: ClassVar[tuple[Requirements, ...]] = REQUIREMENTS
    preference: ClassVar[int] = 60
    Options: ClassVar[type[msgspec.Struct]] = LlamaCppOptions
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=256,
        accelerator_mib=512,
        context_options=("max_model_len", "context_length"),
        needs_whole_context=False,
        shared_context=True,
        cache_options=("n_ctx",),
        cache_step=256,
        concurrency_options=("n_parallel", "max_num_seqs"),
        concurrency=4,
        kv_dtype_options=("type_k", "cache_type_k"),
        value_dtype_options=("type_v", "cache_type_v"),
        kv_dtype="float16",
        batch_token_options=("n_ubatch",),
        batch_tokens=512,
        windowed_cache=False,
        fills_budget=True,
    )

    def __init__(self) -> None:
        super().__init__()
        self._pooling: LlamaPoolingEngine | None = None

    @classmethod
    def available(cls) -> Available:
        """Whether the library is installed."""
        if importlib.util.find_spec("llama_cpp") is None:
            return Available(False, f"{LIBRARY} is not installed: {cls.install}")
        return Available(True, version=importlib.metadata.version(LIBRARY), cpu_only=_cpu_build())

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Every GGUF file; what it holds shows when it is loaded."""
        if spec.format not in cls.formats:
            return Match(False, f"llama.cpp reads GGUF files, and this model is in the format {spec.format}")
        if spec.kind not in {*GENERATIVE_KINDS, Kind.EMBEDDING, Kind.RERANK}:
            return Match(False, f"llama.cpp has no use for a model of type {spec.kind}")
        return Match(True)

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:  # noqa: ARG003  the contract
        """Those in the library's own format."""
        if not adapter.path.lower().endswith(".gguf"):
            return Match(
                False,
                "llama.cpp takes adapters as GGUF files; convert it with llama.cpp's convert_lora_to_gguf.py, and give "
                "the path of the file",
            )
        return Match(True)

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """See ``Engine.load``."""
        if spec.kind in GENERATIVE_KINDS:
            await super().load(spec, options, grant, progress)
            return
        from xinfer.engines.llama_cpp.pooling import LlamaPoolingEngine  # noqa: PLC0415 - imports the library

        pooling = LlamaPoolingEngine()
        await pooling.load(spec, options, grant, progress)
        self._pooling = pooling

    def open_model(self, spec: ModelSpec, options: LlamaCppOptions, grant: Grant, progress: Progress) -> LoadedModel:
        """Load a language model. See ``loading.py``."""
        progress("importing", 0.0)
        from xinfer.engines.llama_cpp.loading import load_generator  # noqa: PLC0415 - imports the library

        model = load_generator(spec, options, grant, progress)
        self.read_adapter = model.read_adapter
        return model

    def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """See ``Engine.serve``."""
        return super().serve(call) if self._pooling is None else self._pooling.serve(call)

    def load_report(self) -> Load:
        """See ``Engine.load_report``."""
        return super().load_report() if self._pooling is None else self._pooling.load_report()

    async def close(self) -> None:
        """See ``Engine.close``. The library gives memory back when the last request has let go of it."""
        if self._pooling is not None:
            await self._pooling.close()
        await super().close()


def _cpu_build() -> str:
    """Why the installed library computes on the CPU whatever devices there are; empty: it does not.

    Every kind of device has a library of its own beside the one for CPUs.
    """
    spec = importlib.util.find_spec("llama_cpp")
    folders = [Path(folder) / "lib" for folder in (spec.submodule_search_locations or ())] if spec else []
    names = [file.name for folder in folders for file in folder.glob("*ggml-*")]
    if any("ggml-cpu" in name for name in names) and not any(kind in name for name in names for kind in DEVICE_KINDS):
        return f"its {LIBRARY} is built for the CPU"
    return ""
