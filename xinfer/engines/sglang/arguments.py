"""From the options of a launch, the slice and the model to the arguments of SGLang's server. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from xinfer.devices import Budget
from xinfer.engines.passthrough.command_line import ServerKind
from xinfer.engines.sglang.gang import split_alone
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.generation.dialects import Dialect
from xinfer.ops import GENERATIVE_KINDS
from xinfer.spec import ModelShape, ModelSpec

SERVER = ServerKind(
    title="SGLang",
    ours={
        "model": "model_path",
        "model_path": "model_path",
        "served_model_name": "model_uid",
        "host": "",
        "port": "",
        "api_key": "",
        "admin_api_key": "",
        "config": "",
        "ssl_keyfile": "",
        "ssl_certfile": "",
        "ssl_keyfile_password": "",
        "fastapi_root_path": "",
        "grpc_mode": "",
        "smg_grpc_mode": "",
        "tokenizer_worker_num": "",
        "nnodes": "n_worker",
        "node_rank": "n_worker",
        "dist_init_addr": "n_worker",
    },
    tool_parsers={
        Dialect.HERMES: "qwen",
        Dialect.QWEN_XML: "qwen3_coder",
        Dialect.LLAMA_JSON: "llama3",
        Dialect.MISTRAL: "mistral",
        Dialect.DEEPSEEK_V3: "deepseekv3",
        Dialect.DEEPSEEK_V31: "deepseekv31",
        Dialect.DEEPSEEK_V32: "deepseekv32",
        Dialect.DEEPSEEK_V4: "deepseekv4",
        Dialect.GLM: "glm45",
        Dialect.GLM_TIGHT: "glm47",
        Dialect.HARMONY: "gpt-oss",
        Dialect.KIMI: "kimi_k2",
        Dialect.MINIMAX: "minimax-m2",
    },
    reasoning_parsers={
        Dialect.THINK_TAGS: "qwen3",
        Dialect.DEEPSEEK_THINK: "deepseek-r1",
        Dialect.MISTRAL: "mistral",
        Dialect.HARMONY: "gpt-oss",
    },
)

FRACTION = "mem_fraction_static"
TOKENS = "max_total_tokens"
STEPS = 1_000
"""Fractions are rounded down to three decimals."""
MIB = 1024 * 1024

CPU_PROCESSES_MIB = 2_300
"""The replica and SGLang's server, scheduler and detokenizer on a CPU, before weights and cache; seen with 0.5.23."""
DYNAMIC_MIB = 768
"""On an accelerator, beside weights and cache: what the driver takes for a process, and captured graphs."""
DYNAMIC_PERCENT = 8
"""Of the slice, on top: activations, which grow with the size of models and so with that of slices."""
LEAST_TOKENS = 512
"""A cache of fewer serves nobody."""

DTYPE_BYTES = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}
CPU_ARGUMENTS: dict[str, Any] = {
    "device": "cpu",
    "disable_overlap_schedule": True,  # it overlaps the work of a card with that of the CPU
}


def suggestions(spec: ModelSpec, template: str, options: Mapping[str, Any], cards: int) -> dict[str, Any]:
    """What the model, its chat ``template`` and the number of cards suggest, where the launch says nothing."""
    suggested: dict[str, Any] = {
        "sleep_on_idle": True,  # else its scheduler keeps a core busy, which the neighbours of this replica need
        "enable_cache_report": True,  # how much of a prompt was there already, in the usage of every answer
        "log_level_http": "warning",  # a line for every request helps nobody who has our metrics
    }
    if not cards:
        suggested |= CPU_ARGUMENTS
    if spec.kind not in GENERATIVE_KINDS:
        return suggested | {"is_embedding": True}
    if "chat_template" not in options:
        suggested |= SERVER.parsers(template)
    return suggested | split_alone(options, cards)


def arguments(
    spec: ModelSpec,
    model_uid: str,
    suggested: Mapping[str, Any],
    options: Mapping[str, Any],
    memory: Mapping[str, Any],
) -> list[str]:
    """The command line: the options of the launch over what is suggested, and the memory over both.

    Raises:
        InvalidRequest: an option that is not the launch's to set; names it.
    """
    fixed = {"model_path": spec.source, "served_model_name": model_uid}
    return SERVER.command_line(suggested, options, memory, fixed)


def memory_arguments(budgets: Sequence[Budget], free_mib: Sequence[int], options: Mapping[str, Any]) -> dict[str, Any]:
    """How much of each accelerator SGLang may take for weights and cache, as its share of what is **free** there.

    It has one share for all cards of a replica: the smallest. What else it needs comes out of the slice as well.

    Args:
        budgets: of the cards.
        free_mib: what is free on each of them before it starts.
        options: of the launch.

    Raises:
        LoadFailed: the slice has no room for more than SGLang itself.
        InvalidRequest: the launch asks for more than the slice has.
    """
    rooms = [budget.memory_mib - DYNAMIC_MIB - budget.memory_mib * DYNAMIC_PERCENT // 100 for budget in budgets]
    if min(rooms) <= 0:
        smallest = min(budget.memory_mib for budget in budgets)
        raise LoadFailed(
            f"SGLang takes about {DYNAMIC_MIB} MiB of a card before any weights, and the slice has {smallest} MiB; "
            "launch it with more memory (--gpumem)"
        )
    shares = [room * STEPS // max(1, free) for room, free in zip(rooms, free_mib, strict=True)]
    share = min(1.0, min(shares) / STEPS)
    given = options.get(FRACTION)
    if given is None:
        return {FRACTION: share}
    if float(given) > share:
        raise InvalidRequest(
            f"{FRACTION} {given} is a share of the {min(free_mib)} MiB that are free, and the slice leaves "
            f"{min(rooms)} MiB for weights and cache, which is {share:g}; leave it out, or ask for more memory "
            "(--gpumem)",
            param=FRACTION,
        )
    return {}


def cpu_memory_arguments(budget: Budget, spec: ModelSpec, free_mib: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a CPU: how many tokens the cache may hold, from what the slice leaves beside processes and weights.

    Where the size of a token is not known, it is a share of the free memory.

    Raises:
        LoadFailed: the slice has no room even for the processes.
        InvalidRequest: the launch asks for more than the slice has.
    """
    room = budget.memory_mib - CPU_PROCESSES_MIB - spec.weights_mib
    per_token = token_bytes(spec.shape, str(options.get("dtype", "auto"))) if spec.shape else 0
    tokens = room * MIB // per_token if per_token else LEAST_TOKENS
    if room <= 0 or tokens < LEAST_TOKENS:
        raise LoadFailed(
            f"SGLang's processes take about {CPU_PROCESSES_MIB} MiB on a CPU and the weights {spec.weights_mib} MiB, "
            f"and the slice has {budget.memory_mib} MiB; launch it with more memory (--gpumem)"
        )
    given = options.get(TOKENS)
    if given is not None and per_token and int(given) > tokens:
        raise InvalidRequest(
            f"{TOKENS} {given} are {int(given) * per_token // MIB} MiB, and the slice leaves {room} MiB for the cache; "
            "leave it out, or ask for more memory (--gpumem)",
            param=TOKENS,
        )
    if given is not None or FRACTION in options:
        return {}
    return {TOKENS: tokens} if per_token else {FRACTION: min(0.9, (room + spec.weights_mib) / max(1, free_mib))}


def token_bytes(shape: ModelShape, dtype: str) -> int:
    """What the cache takes for one token, in bytes; 0: it cannot be told."""
    layers = shape.attention_layers + shape.sliding_layers
    if shape.kv_lora_rank:
        width = shape.kv_lora_rank + shape.qk_rope_head_dim
    else:
        width = shape.kv_heads * (shape.head_dim + shape.value_dim)
    return layers * width * DTYPE_BYTES.get(dtype, DTYPE_BYTES.get(shape.dtype, 2))
