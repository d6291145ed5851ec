"""From the options of a launch, the slice and the model to the arguments of ``vllm serve``. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from xinfer.devices import Budget
from xinfer.engines.passthrough.command_line import ServerKind
from xinfer.engines.vllm.gang import WORDS
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.generation.dialects import Dialect
from xinfer.ops import GENERATIVE_KINDS, Kind
from xinfer.spec import ModelSpec

SERVER = ServerKind(
    title="vLLM",
    ours={
        "model": "model_path",
        "served_model_name": "model_uid",
        "host": "",
        "port": "",
        "uds": "",
        "api_key": "",
        "config": "",
        "ssl_keyfile": "",
        "ssl_certfile": "",
        "root_path": "",
        "middleware": "",
        "headless": "",
        "nnodes": "n_worker",
        "node_rank": "n_worker",
        "master_addr": "n_worker",
        "master_port": "n_worker",
    },
    tool_parsers={
        Dialect.HERMES: "hermes",
        Dialect.QWEN_XML: "qwen3_coder",
        Dialect.LLAMA_JSON: "llama3_json",
        Dialect.MISTRAL: "mistral",
        Dialect.DEEPSEEK_V3: "deepseek_v3",
        Dialect.DEEPSEEK_V31: "deepseek_v31",
        Dialect.DEEPSEEK_V32: "deepseek_v32",
        Dialect.DEEPSEEK_V4: "deepseek_v4",
        Dialect.GLM: "glm45",
        Dialect.GLM_TIGHT: "glm47",
        Dialect.SEED: "seed_oss",
        Dialect.GRANITE: "granite",
        Dialect.HARMONY: "openai",
        Dialect.KIMI: "kimi_k2",
        Dialect.MINIMAX: "minimax_m2",
    },
    reasoning_parsers={
        Dialect.THINK_TAGS: "qwen3",
        Dialect.DEEPSEEK_THINK: "deepseek_r1",
        Dialect.MISTRAL: "mistral",
        Dialect.HARMONY: "openai_gptoss",
    },
    negates=True,
)

UTILIZATION = "gpu_memory_utilization"
KV_BYTES = "kv_cache_memory_bytes"
STEPS = 10_000
"""Shares are rounded down to four decimals, so that those of one device never add up to more than it has."""
MIB = 1024 * 1024


def suggestions(spec: ModelSpec, template: str, options: Mapping[str, Any], cards: int) -> dict[str, Any]:
    """What the model, its chat ``template`` and the number of cards suggest, where the launch says nothing."""
    if spec.kind is Kind.SPEECH_RECOGNITION:
        return {}
    if spec.kind not in GENERATIVE_KINDS:
        return {"runner": "pooling"}
    suggested: dict[str, Any] = {"max_model_len": "auto"}  # the model's own, or the longest that its slice holds
    if "chat_template" not in options:
        suggested |= SERVER.parsers(template)
        if "tool_call_parser" in suggested:
            suggested["enable_auto_tool_choice"] = True
    return suggested | WORDS.alone(options, cards)


def arguments(
    spec: ModelSpec,
    model_uid: str,
    suggested: Mapping[str, Any],
    options: Mapping[str, Any],
    memory: Mapping[str, Any],
) -> list[str]:
    """The command line for ``vllm serve``: the options of the launch over what is suggested, and the memory over both.

    Raises:
        InvalidRequest: an option that is not the launch's to set; names it.
    """
    fixed = {"model": spec.source, "served_model_name": model_uid}
    return SERVER.command_line(suggested, options, memory, fixed)


def memory_arguments(budgets: Sequence[Budget], options: Mapping[str, Any]) -> dict[str, Any]:
    """How much of each accelerator vLLM may plan with: the slice, as a share of what it sees as the whole card.

    vLLM has one share for all cards of a replica: the smallest. What the launch itself says is kept, where the slice
    has room for it.

    Raises:
        InvalidRequest: the launch asks vLLM for more than the slice has.
    """
    share = min(budget.share for budget in budgets)
    return _within(share, min(budget.memory_mib for budget in budgets), budgets[0].total_mib, options)


def cpu_workers(options: Mapping[str, Any], members: int = 1) -> int:
    """How many worker processes one member of a gang starts on a CPU, which is one device for all of them.

    Raises:
        InvalidRequest: one of the numbers is none.
    """
    count = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        given = options.get(name) or 1
        if not str(given).isdigit():
            raise InvalidRequest(f"{name} must be a number of processes, not {given!r}", param=name)
        count *= int(given)
    return max(1, count // members)


def cpu_memory_arguments(
    budget: Budget, frontend_mib: int, seen_mib: int, options: Mapping[str, Any], workers: int = 1
) -> dict[str, Any]:
    """The same for a CPU, where vLLM's share is of the memory of a NUMA node and is that of one of its workers.

    ``frontend_mib`` is what the other processes of vLLM take; ``seen_mib`` is what vLLM sees as the node's memory.

    Raises:
        LoadFailed: the slice has no room even for the processes.
        InvalidRequest: the launch asks vLLM for more than the slice has.
    """
    left = (budget.memory_mib - frontend_mib) // workers - SLACK_MIB
    if left < WORKER_MIB:
        needed = frontend_mib + workers * (SLACK_MIB + WORKER_MIB)
        raise LoadFailed(
            f"vLLM's processes take about {needed} MiB on a CPU before any weights, "
            f"and the slice has {budget.memory_mib} MiB; launch it with more memory (--gpumem)"
        )
    return _within(left * STEPS // max(1, seen_mib) / STEPS, left, seen_mib, options)


WORKER_MIB = 900
"""A worker process of vLLM on a CPU, before weights and cache: 800 MiB were seen, with torch 2.13 and vLLM 0.32."""
SLACK_MIB = 256
"""By which a worker was seen to grow (157 MiB) after it has measured itself and sized its cache."""


def _within(share: float, room_mib: int, seen_mib: int, options: Mapping[str, Any]) -> dict[str, Any]:
    given = options.get(UTILIZATION)
    if given is not None and float(given) > share:
        raise InvalidRequest(
            f"{UTILIZATION} {given} is {int(float(given) * seen_mib)} MiB of {seen_mib} MiB, but the slice has "
            f"{room_mib} MiB for it; leave it out, or ask for more memory (--gpumem)",
            param=UTILIZATION,
        )
    cache = options.get(KV_BYTES)
    if isinstance(cache, int) and cache > room_mib * MIB:
        raise InvalidRequest(
            f"{KV_BYTES} {cache} is more than the {room_mib} MiB that the slice has for it", param=KV_BYTES
        )
    return {} if given is not None else {UTILIZATION: min(1.0, share)}
