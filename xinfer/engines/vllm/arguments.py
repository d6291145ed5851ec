"""From the options of a launch, the slice and the model to the arguments of ``vllm serve``. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xinfer.devices import Budget
from xinfer.engines.vllm.parsers import reasoning_parser, tool_parser
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.generation.reasoning import thinks_unasked
from xinfer.ops import GENERATIVE_KINDS
from xinfer.spec import ModelSpec

OURS = {
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
}
"""Arguments that make no sense behind our endpoint, with the launch option that does what they would."""

UTILIZATION = "gpu_memory_utilization"
KV_BYTES = "kv_cache_memory_bytes"
STEPS = 10_000
"""Shares are rounded down to four decimals, so that those of one device never add up to more than it has."""
MIB = 1024 * 1024


def suggestions(spec: ModelSpec, template: str, options: Mapping[str, Any], cards: int) -> dict[str, Any]:
    """What the model, its chat ``template`` and the number of cards suggest, where the launch says nothing."""
    if spec.kind not in GENERATIVE_KINDS:
        return {"runner": "pooling"}
    suggested: dict[str, Any] = {"max_model_len": "auto"}  # the model's own, or the longest that its slice holds
    if "chat_template" not in options:
        if parser := tool_parser(template):
            suggested |= {"enable_auto_tool_choice": True, "tool_call_parser": parser}
        if parser := reasoning_parser(template):
            suggested["reasoning_parser"] = parser
            if not thinks_unasked(template):  # the parser would take every answer for thoughts that did not end
                suggested["default_chat_template_kwargs"] = {"enable_thinking": False}
    if cards > 1 and not {"tensor_parallel_size", "pipeline_parallel_size"} & set(options):
        suggested["tensor_parallel_size"] = cards
    return suggested


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
    for name in options:
        if name in OURS:
            instead = f"; say {OURS[name]} instead" if OURS[name] else ""
            raise InvalidRequest(f"xinfer sets vLLM's {name!r} itself{instead}", param=name)
    fixed = {"model": spec.source, "served_model_name": model_uid}
    return [word for name, value in {**suggested, **options, **memory, **fixed}.items() for word in _words(name, value)]


def _words(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    match value:
        case None:
            return []
        case True:
            return [flag]
        case False:
            return ["--no-" + flag.removeprefix("--")]
        case list() | tuple():
            return [flag, *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
        case dict():
            return [flag, json.dumps(value)]
        case _:
            return [f"{flag}={value}"]


def memory_arguments(budgets: Sequence[Budget], options: Mapping[str, Any]) -> dict[str, Any]:
    """How much of each accelerator vLLM may plan with: the slice, as a share of what it sees as the whole card.

    vLLM has one share for all cards of a replica: the smallest. What the launch itself says is kept, where the slice
    has room for it.

    Raises:
        InvalidRequest: the launch asks vLLM for more than the slice has.
    """
    share = min(budget.share for budget in budgets)
    return _within(share, min(budget.memory_mib for budget in budgets), budgets[0].total_mib, options)


def cpu_memory_arguments(
    budget: Budget, frontend_mib: int, seen_mib: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The same for a CPU, where vLLM's share is of the memory of a NUMA node and is that of its worker alone.

    ``frontend_mib`` is what the other processes of vLLM take; ``seen_mib`` is what vLLM sees as the node's memory.

    Raises:
        LoadFailed: the slice has no room even for the processes.
        InvalidRequest: the launch asks vLLM for more than the slice has.
    """
    left = budget.memory_mib - frontend_mib - SLACK_MIB
    if left < WORKER_MIB:
        raise LoadFailed(
            f"vLLM's processes take about {frontend_mib + SLACK_MIB + WORKER_MIB} MiB on a CPU before any weights, "
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
