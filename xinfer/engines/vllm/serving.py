"""vLLM's engine and application. Imports vLLM: only in a replica's process."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

import psutil
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.exceptions import VLLMClientError
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerBase

from xinfer.devices import Budget, Grant
from xinfer.engines.base import Load
from xinfer.engines.passthrough import PATHS, AsgiCaller
from xinfer.engines.vllm.arguments import (
    MIB,
    arguments,
    cpu_memory_arguments,
    cpu_workers,
    memory_arguments,
    suggestions,
)
from xinfer.engines.vllm.completions import WithoutThoughts
from xinfer.engines.vllm.gang import gang_arguments, gang_suggestions
from xinfer.engines.vllm.reranking import reranking_suggestions
from xinfer.engines.vllm.words import with_reasoning_content
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.ops import Op
from xinfer.spec import Adapter, ModelSpec

RATE_WINDOW_S = 2.0
"""Over which tokens per second are counted."""
OF_A_SERVER = frozenset({"CORSMiddleware", "PrometheusInstrumentatorMiddleware"})
"""What vLLM wraps around its application that is the gateway's business here: who may ask, and counting requests."""


class Serving:
    """One loaded model: ``caller`` answers with vLLM's own application."""

    def __init__(self, llm: AsyncLLM, caller: AsgiCaller, meter: "Meter", models: OpenAIServingModels) -> None:
        self.caller = caller
        self._llm = llm
        self._meter = meter
        self._models = models
        self._sleep_level = 0
        self._cached_for: set[tuple[str, str]] = set()
        """Names and paths of the adapters that were loaded since the start."""

    @classmethod
    async def start(cls, spec: ModelSpec, template: str, options: Mapping[str, Any], grant: Grant) -> Self:
        """Start the engine core (a child process, with its workers) and build the application around it.

        Raises:
            InvalidRequest: an option that vLLM does not know, or that does not fit the slice.
            LoadFailed: the slice is too small.
        """
        args = parsed_arguments(spec, template, options, grant)
        meter = Meter()
        llm = await asyncio.to_thread(_engine, args, meter)
        tasks = await llm.get_supported_tasks()
        app = build_app(args, tasks, llm.model_config)
        app.user_middleware = [one for one in app.user_middleware if one.cls.__name__ not in OF_A_SERVER]
        await init_app_state(llm, app.state, args, tasks)
        app.state.server = _NoServer()
        edits = {}
        if args.reasoning_parser:
            edits[Op.CHAT] = with_reasoning_content
            app.state.openai_serving_completion.engine_client = WithoutThoughts(llm)
        return cls(llm, AsgiCaller(app, PATHS, edits), meter, app.state.openai_serving_models)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Serve a LoRA adapter under its name.

        Raises:
            LoadFailed: vLLM does not take it; says why.
        """
        request = LoadLoRAAdapterRequest(lora_name=adapter.name, lora_path=adapter.path)
        answer = await self._models.load_lora_adapter(request)
        if isinstance(answer, ErrorResponse):
            raise LoadFailed(answer.error.message)
        key = (adapter.name, adapter.path)
        if key in self._cached_for:  # vLLM's cache knows it by these two, and its files may be others than before
            await self._llm.reset_prefix_cache(reset_running_requests=True)
        self._cached_for.add(key)

    async def unload_adapter(self, name: str) -> None:
        """Serve it no more. The engine drops it when it needs its place: requests that have begun still use it."""
        await self._models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))

    async def sleep(self, level: int) -> None:
        """Free the memory of weights and cache. What still runs is aborted: its time is over."""
        await self._llm.sleep(level, mode="abort")
        self._sleep_level = level

    async def wake(self) -> None:
        """Have both in memory again; after level 2, the weights from disk."""
        if self._sleep_level == 1:
            await self._llm.wake_up()
        else:
            await self._llm.wake_up(tags=["weights"])
            await self._llm.collective_rpc("reload_weights")
            await self._llm.wake_up(tags=["kv_cache"])
        self._sleep_level = 0

    def load_report(self) -> Load:
        """What the scheduler said after its last step."""
        return self._meter.load if self.caller.running else Load()

    def failure(self) -> str:
        """Why it can serve no more; empty while it can."""
        return "vLLM's engine core died; the log of the replica says why" if self._llm.errored else ""

    def close(self) -> None:
        """End the processes of vLLM."""
        self._llm.shutdown(timeout=0)


class Meter(StatLoggerBase):  # type: ignore[misc]  # vLLM has no types here
    """Keeps the last word of the scheduler, for routing."""

    def __init__(self) -> None:
        self.load = Load()
        self._since = time.monotonic()
        self._tokens = 0
        self._rate = 0.0

    def __call__(self, *_: Any) -> Self:
        """VLLM asks for a factory; there is one engine, so the meter is its own."""
        return self

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,  # noqa: ARG002  vLLM's interface
        engine_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """After every step of the scheduler."""
        if iteration_stats is not None:
            self._tokens += iteration_stats.num_generation_tokens
            elapsed = time.monotonic() - self._since
            if elapsed >= RATE_WINDOW_S:
                self._rate, self._tokens, self._since = self._tokens / elapsed, 0, time.monotonic()
        if scheduler_stats is not None:
            self.load = Load(
                running=scheduler_stats.num_running_reqs,
                queued=scheduler_stats.num_waiting_reqs,
                kv_usage=scheduler_stats.kv_cache_usage,
                tokens_per_s=self._rate,
            )

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class _NoServer:
    """Where vLLM would tell its web server to stop. Ours asks ``failure`` instead."""

    should_exit = False


def parsed_arguments(spec: ModelSpec, template: str, options: Mapping[str, Any], grant: Grant) -> Any:
    """The arguments of ``vllm serve`` for a launch and what was granted to it, as vLLM's own parser reads them.

    Raises:
        InvalidRequest: an option that vLLM does not know, or that does not fit the slice.
        LoadFailed: the slice is too small.
    """
    cards = [budget for budget in grant.budgets if budget.kind != "cpu"]
    members = grant.seat.size if grant.seat is not None else 1
    memory = _memory(cards, grant.budgets, options, members)
    suggested = suggestions(spec, template, options, len(cards)) | reranking_suggestions(spec)
    if grant.seat is not None:
        suggested |= gang_suggestions(grant.seat, len(cards), options)
        memory |= gang_arguments(grant.seat)
    return _parse(arguments(spec, grant.model_uid, suggested, options, memory))


_NO_JSON = re.compile(r"cannot be converted to <function loads at \w+>")
"""How vLLM's parser says that a value is no JSON."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM has no types here
    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"vLLM: {_NO_JSON.sub('is no JSON', message)}", param="options")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:  # noqa: ARG002  argparse calls it so
        """What asks for its help or its version; by itself, argparse would end the replica."""
        raise InvalidRequest("vLLM: this shows something and ends, which is nothing to launch with", param="options")


def _parse(argv: Sequence[str]) -> Any:
    try:
        args = make_arg_parser(_Parser()).parse_args(list(argv))
        validate_parsed_serve_args(args)
        _import_parsers(args)
        validate_api_server_args(args)
    except (ValueError, TypeError, VLLMClientError) as error:
        raise InvalidRequest(f"vLLM: {error}", param="options") from error
    except KeyError as error:  # a parser that it does not have
        raise InvalidRequest(f"vLLM: {error.args[0]}", param="options") from error
    return args


def _import_parsers(args: Any) -> None:
    """Files with parsers of the user's own, which vLLM reads where it opens its port.

    Raises:
        ValueError: it has no such parser of thoughts, which it would say only once the model is loaded.
    """
    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if args.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
    known = ReasoningParserManager.list_registered()
    if args.reasoning_parser and args.reasoning_parser not in known:
        raise ValueError(f"invalid reasoning parser: {args.reasoning_parser} (it has {', '.join(known)})")


def _engine(args: Any, meter: Meter) -> AsyncLLM:
    """Blocks until the core has loaded the model: not for the event loop."""
    engine_args = AsyncEngineArgs.from_cli_args(args)
    llm = AsyncLLM.from_vllm_config(
        engine_args.create_engine_config(),
        stat_loggers=[meter],
        enable_log_requests=False,
        disable_log_stats=True,  # the default logger, which writes lines; ours stays
    )
    # vLLM always has one for Prometheus too. Its registry is this process's own: nobody could read what it counts.
    loggers = llm.logger_manager.stat_loggers
    loggers[:] = [one for one in loggers if not isinstance(one, PrometheusStatLogger)]
    return llm


def _memory(
    cards: Sequence[Budget], budgets: Sequence[Budget], options: Mapping[str, Any], members: int
) -> dict[str, Any]:
    if cards:
        return memory_arguments(cards, options)
    if not budgets:
        return {}
    # Two processes are like this one: the one that answers requests, and the engine core.
    frontend_mib = 2 * psutil.Process().memory_info().rss // MIB
    seen_mib = _seen_by_cpu_worker_mib()
    return cpu_memory_arguments(budgets[0], frontend_mib, seen_mib, options, cpu_workers(options, members))


def _seen_by_cpu_worker_mib() -> int:
    """What vLLM takes for the memory of a CPU: that of a NUMA node, within the limits of the container."""
    from vllm.utils.cpu_resource_utils import (  # noqa: PLC0415  not in builds for accelerators alone
        get_allowed_cpu_list,
        get_memory_node_info,
        get_visible_memory_node,
    )

    node = get_allowed_cpu_list()[0].numa_node
    visible = get_visible_memory_node()
    return int(get_memory_node_info(node if node in visible else visible[0]).total_memory) // MIB
