import importlib.metadata
import importlib.util
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psutil

from xinfer.devices import Grant
from xinfer.engines.base import (
    Available,
    Call,
    EngineMemory,
    Frame,
    Load,
    Match,
    Progress,
    Requirements,
)
from xinfer.engines.passthrough.words import FREE_TEXT
from xinfer.engines.sglang import gang
from xinfer.engines.sglang.adapters import require_cards
from xinfer.engines.sglang.arguments import (
    CPU_PROCESSES_MIB,
    DYNAMIC_MIB,
    arguments,
    cpu_memory_arguments,
    memory_arguments,
    suggestions,
)
from xinfer.engines.sglang.changes import ChangesOfSglang
from xinfer.engines.sglang.checks import check_request
from xinfer.engines.sglang.free_memory import free_cpu_mib, free_mib
from xinfer.engines.sglang.requirements import REQUIREMENTS
from xinfer.engines.sglang.seeds import DETERMINISTIC, check_seed
from xinfer.engines.sglang.server import SglangServer
from xinfer.engines.sglang.words import in_sglangs_words
from xinfer.generation.chat_template import template_text
from xinfer.generation.judging import is_judge
from xinfer.ops import GENERATIVE_KINDS, TEXT_OPS, Kind, Op
from xinfer.protocols.tool_choice import without_allowed_tools
from xinfer.spec import Format, ModelSpec


class SglangOptions(msgspec.Struct, frozen=True):
    """Any argument of ``sglang serve``, with underscores. SGLang itself checks them when the model is loaded."""


class SglangEngine(ChangesOfSglang):
    """See the package."""

    name: ClassVar[str] = "sglang"
    title: ClassVar[str] = "SGLang: high throughput on accelerators, with a radix tree of shared prefixes"
    ops: ClassVar[frozenset[Op]] = TEXT_OPS | {Op.EMBEDDING, Op.RERANK, Op.SCORE, Op.CLASSIFY}
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS})
    install: ClassVar[str] = "xinfer engine install sglang"
    requirements: ClassVar[tuple[Requirements, ...]] = REQUIREMENTS
    preference: ClassVar[int] = 30
    accelerator_preference: ClassVar[int | None] = 80
    Options: ClassVar[type[msgspec.Struct]] = SglangOptions
    profiles_memory: ClassVar[bool] = True
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=CPU_PROCESSES_MIB,
        accelerator_mib=DYNAMIC_MIB,
        dtype_options=("dtype",),
        context_options=("context_length",),
        needs_whole_context=False,
        concurrency_options=("max_running_requests",),
        concurrency=16,
        kv_dtype_options=("kv_cache_dtype",),
        batch_token_options=("chunked_prefill_size",),
        fills_budget=True,
    )

    @classmethod
    def available(cls) -> Available:
        """Whether SGLang is installed."""
        if importlib.util.find_spec("sglang") is None:
            return Available(False, f"SGLang is not installed: {cls.install}")
        return Available(True, version=importlib.metadata.version("sglang"))

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Models in safetensors; whether SGLang knows the architecture shows when it loads."""
        if spec.format not in cls.formats:
            return Match(False, f"SGLang reads safetensors, and this model is in the format {spec.format}")
        if not spec.ops & cls.ops:
            return Match(False, f"SGLang serves no models for {spec.kind} here")
        if spec.kind is Kind.RERANK and is_judge(Path(spec.source)):
            return Match(False, "it is a language model that is asked for its judgement, which SGLang is not told")
        return Match(True)

    @classmethod
    def accepts_gang(cls, options: Mapping[str, Any], size: int) -> Match:
        """Whether these options leave it to xinfer where SGLang runs, and can be shared by so many."""
        return gang.accepts_gang(options, size)

    @classmethod
    def gang_environment(cls, host: str) -> Mapping[str, str]:
        """Where the others reach it."""
        return {"SGLANG_HOST_IP": host}

    def __init__(self) -> None:
        super().__init__()
        self._server: SglangServer | None = None
        self._keeps_seeds = False
        self._vocabulary = 0

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """Start SGLang's server and wait until it answers, which one that follows does when it has joined.

        Raises:
            InvalidRequest: an option is not the launch's to set, or does not fit the slice or the device.
            LoadFailed: the slice is too small, or the server ended; with what it said.
        """
        progress("starting SGLang", 0.0)
        self._keeps_seeds = bool(options.get(DETERMINISTIC))
        self._vocabulary = spec.shape.vocabulary if spec.shape else 0
        cards = [budget for budget in grant.budgets if budget.kind != "cpu"]
        require_cards(options, len(cards))
        if cards:
            memory = memory_arguments(cards, free_mib(cards, grant.env), options)
        elif grant.budgets:
            memory = cpu_memory_arguments(grant.budgets[0], spec, free_cpu_mib(), options)
        else:
            memory = {}
        template = template_text(Path(spec.source)) if spec.kind in GENERATIVE_KINDS else ""
        suggested = suggestions(spec, template, options, len(cards))
        if grant.seat is not None:
            suggested |= gang.gang_suggestions(grant.seat, len(cards), options)
            memory |= gang.gang_arguments(grant.seat)
        argv = arguments(spec, grant.model_uid or spec.name, suggested, options, memory)
        env = {} if cards else {"SGLANG_USE_CPU_ENGINE": "1"}
        if grant.seat is not None and not cards:
            env |= gang.cpu_environment(psutil.Process().cpu_affinity(), grant.env)
        self._server = await SglangServer.start(argv, env, progress)
        progress("ready", 1.0)

    def serve(self, call: Call) -> AsyncIterator[Frame]:
        """Let SGLang's server answer.

        Raises:
            UnsupportedParameter: a seed or another thing that it would ignore, or an adapter where it has none.
            InvalidRequest: what would end its server, or a form of the answer that makes no sense.
        """
        assert self._server is not None
        check_request(call.body, self._vocabulary)
        if not self._keeps_seeds:
            check_seed(call.body)
        if call.op in FREE_TEXT:
            call = msgspec.structs.replace(call, body=in_sglangs_words(without_allowed_tools(call.body)))
        return self._server.caller.serve(self.with_adapter(call))

    def load_report(self) -> Load:
        """What SGLang said of itself last, a second ago at most; in between, how many requests it has."""
        if self._server is None or not self._server.caller.running:
            return Load()
        return msgspec.structs.replace(
            self._server.load, running=max(0, self._server.caller.running - self._server.load.queued)
        )

    def failure(self) -> str:
        """Why the server ended."""
        return self._server.failure if self._server is not None else ""

    async def close(self) -> None:
        """End the server."""
        if self._server is not None:
            await self._server.close()
