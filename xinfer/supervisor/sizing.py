"""How much memory a replica will need, where the launch does not say. Pure.

The estimate adds up what a replica keeps on one device, and each part has a formula that can be checked by hand:

- weights: the bytes of the tensors, by the headers of their files, in the type that they are loaded in;
- KV cache: per token and layer two vectors (a key, a value) for each KV head (Vaswani et al. 2017; grouped-query:
  Ainslie et al. 2023); one latent and one rotated key with multi-head latent attention (DeepSeek-V2, 2024, section
  2.1); no more tokens than the window in layers that slide (Mistral 7B, 2023). Cache that is paged (Kwon et al. 2023)
  holds tokens of any sequences, so it is planned by tokens;
- activations: what one layer has at once while a step's tokens pass through it, and the logits of each sequence;
- the engine's process, and on an accelerator what the driver takes for it.

What was observed of such a replica is better than any formula, see ``needed``.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from xinfer.engines.base import EngineMemory
from xinfer.ops import GENERATIVE_KINDS
from xinfer.spec import Deployment, Estimate, Format, ModelShape

MIB = 1024 * 1024
CPU = "cpu"
ACCELERATOR = "accelerator"
WEIGHTS_FACTOR = 1.2
"""Weights as loaded, plus activations and caches, relative to the weights on disk: where nothing else is known."""
PROCESS_MIB = 768
"""A Python process with a deep-learning library in it, before any weights."""
BARE_PROCESS_MIB = 192
"""A Python process that loads no weights."""
DRIVER_MIB = 512
"""A CUDA context with the kernels of the usual libraries: 300 to 600 MiB, by the card and its driver."""
SAFETY = 0.05
"""Allocators keep more than they were asked for."""
LEAST_SAFETY_MIB = 32
OBSERVED_SAFETY = 0.05
"""On top of an observed peak: the next run is a little different."""
PLANNED_CONTEXT = 8192
"""Tokens of one sequence, for engines that can do with less than the whole context."""
PLANNED_TOKENS = 512
"""Tokens of each of many sequences: few of them are as long as the longest at the same time."""
TYPE_BYTES: Mapping[str, float] = {
    "float32": 4,
    "float": 4,
    "f32": 4,
    "float16": 2,
    "half": 2,
    "f16": 2,
    "bfloat16": 2,
    "bf16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
    "nf4": 1 / 2 + 4 / 64,
    "fp4": 1 / 2 + 4 / 64,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one number by the words of launch options, config.json and the caches of llama.cpp."""
SHORT_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgKMG])")
"""16k is 16,000, and 16K is 16,384."""
POWERS = {"k": 1, "m": 2, "g": 3}
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Types of tensors that an engine converts to the one that it computes in. Others are quantised and stay."""


class Demand(NamedTuple):
    """What a launch asks of an engine, whatever device it runs on; options as they are or what stands for them."""

    context: int
    """Tokens of the longest sequence."""
    concurrency: int
    kv_tokens: int
    """Tokens in the cache, of all sequences together."""
    batch_tokens: int
    weight_type: str
    """What weights are converted to; empty: they stay."""
    kv_bytes: float
    """Of one number in the cache."""
    quantize: str = ""
    """What plain weights become, but for the embeddings; empty: they are not quantized."""


def estimate(
    deployment: Deployment, memory: EngineMemory, device_kind: str, observed_mib: int | None = None
) -> Estimate:
    """What a replica needs on each of its devices, from its options and the shape of its model.

    Args:
        deployment: what to serve; what it asks for in MiB is not looked at.
        memory: what its engine declares.
        device_kind: "cpu" or "accelerator".
        observed_mib: the highest peak of such replicas on one device; None: there was none.
    """
    spec = deployment.spec
    wanted = demand(deployment, memory, on_cpu=device_kind == CPU)
    blank = Estimate(
        device_kind=device_kind,
        devices=_devices(deployment),
        context_length=wanted.context,
        concurrency=wanted.concurrency,
    )
    if spec.format is Format.NONE:
        found = msgspec.structs.replace(blank, engine_mib=memory.cpu_mib, notes=("it loads no weights",))
    elif spec.shape is None or not spec.shape.hidden or not spec.shape.layers:
        found = _by_rule_of_thumb(spec.weights_mib, blank)
    else:
        found = _by_shape(deployment, spec.shape, memory, wanted, blank)
    each = _sum(found)
    found = msgspec.structs.replace(found, per_device_mib=each, total_mib=each * found.devices)
    return needed(found, memory, observed_mib)


def needed(found: Estimate, memory: EngineMemory, observed_mib: int | None) -> Estimate:
    """The estimate with what a launch reserves: the observed peak and a little more, where there is a peak.

    A peak is what a replica needed for what it was asked, not for all that it may be asked. So it never goes below the
    weights and the activations of a full step; and where the cache grows with use, it can only show that the estimate
    is too low, because nobody knows how much of the cache was in use.
    """
    if observed_mib is None or memory.fills_budget:
        return msgspec.structs.replace(found, observed_mib=None, needed_mib=found.per_device_mib)
    least = found.weights_mib + found.driver_mib
    if found.batch_tokens:  # else the activations are a guess
        least += found.activations_mib
    if memory.grows:
        least = found.per_device_mib
    seen = math.ceil(observed_mib * (1 + OBSERVED_SAFETY))
    return msgspec.structs.replace(found, observed_mib=observed_mib, needed_mib=max(seen, least))


def memory_mib(deployment: Deployment, device_kind: str = "") -> int:
    """MiB that one replica needs on each of its devices: what was asked for, else what was estimated at its launch.

    ``device_kind`` is "cpu" or "accelerator"; empty: the most of both.
    """
    if deployment.request.memory_mib is not None:
        return deployment.request.memory_mib
    known = [one.needed_mib for one in deployment.estimates if device_kind in ("", one.device_kind)]
    if known:
        return max(known)
    spec = deployment.spec  # launched by an xinfer that kept no estimates
    if spec.format is Format.NONE:
        return BARE_PROCESS_MIB
    blank = Estimate(device_kind=device_kind, devices=_devices(deployment))
    return _sum(_by_rule_of_thumb(spec.weights_mib, blank))


def demand(deployment: Deployment, memory: EngineMemory, *, on_cpu: bool) -> Demand:
    """What the launch asks for, by the names that the engine gave its options."""
    options = deployment.options
    asked = number(options, memory.context_options)
    made_for = deployment.spec.context_length or 0
    context = asked or made_for or PLANNED_CONTEXT
    if not (asked or memory.needs_whole_context):
        context = min(context, PLANNED_CONTEXT)
    together = number(options, memory.concurrency_options)
    concurrency = together or memory.concurrency
    planned = max(context, concurrency * min(context, PLANNED_TOKENS))
    if memory.shared_context:
        part = math.ceil(context / memory.cache_step) * memory.cache_step
        planned = number(options, memory.cache_options) or part * (together or 1 if asked else 1)
    quantize = _word(options, memory.quantize_options)
    said = _word(options, memory.dtype_options)
    converts = on_cpu and not (memory.quantized_keeps_dtype and (quantize or _is_quantized(deployment)))
    weight_type = said or (memory.cpu_dtype if converts else "")
    batch = (memory.cpu_batch_tokens if on_cpu else 0) or memory.batch_tokens
    return Demand(
        context=context,
        concurrency=concurrency,
        kv_tokens=planned if deployment.spec.kind in GENERATIVE_KINDS else 0,
        batch_tokens=number(options, memory.batch_token_options) or batch,
        weight_type=weight_type,
        kv_bytes=_kv_bytes(deployment, memory, weight_type),
        quantize=quantize,
    )


def weight_bytes(shape: ModelShape, weight_type: str, *, quantized: bool) -> float:
    """Bytes of the weights as loaded: plain ones in ``weight_type``, quantised ones as they lie."""
    size = TYPE_BYTES.get(weight_type)
    if quantized or size is None:
        return sum(shape.weight_bytes.values())
    return sum(
        stored * size / STORED_BYTES[kind] if kind in STORED_BYTES else stored
        for kind, stored in shape.weight_bytes.items()
    )


def loaded_weight_bytes(deployment: Deployment, memory: EngineMemory, wanted: Demand, *, on_cpu: bool) -> float:
    """Bytes of the weights once the engine has read them: as they lie, converted, quantised, or unpacked to plain ones.

    Quantising leaves the embeddings and the output as they were.
    """
    shape = deployment.spec.shape or ModelShape()
    plain = TYPE_BYTES.get(wanted.weight_type or shape.dtype, 2)
    if wanted.quantize:
        embeddings = min(shape.parameters, shape.embedding_tables * shape.vocabulary * shape.hidden)
        return (shape.parameters - embeddings) * TYPE_BYTES[wanted.quantize] + embeddings * plain
    if deployment.spec.quantization.startswith(memory.cpu_unpacks if on_cpu else memory.unpacks):
        return shape.parameters * plain
    return weight_bytes(shape, wanted.weight_type, quantized=_is_quantized(deployment))


def kv_cache_bytes(shape: ModelShape, memory: EngineMemory, wanted: Demand, devices: int = 1) -> float:
    """Bytes of the cache of keys and values on each of ``devices`` that share the heads of every layer."""
    per_token = kv_bytes_per_token(shape, wanted.kv_bytes, devices, latent=memory.latent_cache)
    sliding = wanted.kv_tokens
    if memory.windowed_cache and shape.window:
        sliding = min(sliding, wanted.concurrency * shape.window)
    return per_token * (shape.attention_layers * wanted.kv_tokens + shape.sliding_layers * sliding)


def kv_bytes_per_token(shape: ModelShape, element_bytes: float, devices: int = 1, *, latent: bool = True) -> float:
    """Bytes that one token takes in one layer, on each of ``devices``.

    A latent is whole on every device; a device has at least one head, so that heads are repeated where they are fewer.
    """
    if shape.kv_lora_rank and latent:
        return (shape.kv_lora_rank + shape.qk_rope_head_dim) * element_bytes
    heads = math.ceil(shape.kv_heads / devices)
    return heads * (shape.head_dim + shape.value_dim) * element_bytes


def activation_bytes(deployment: Deployment, wanted: Demand, devices: int = 1) -> float:
    """Bytes of what one layer has at once for the tokens of a step, and of the logits of every sequence.

    A layer has the residual stream, its normalised copy and its own result, and either queries, keys, values and what
    attention makes of them, or the three intermediate vectors of a gated feed-forward part (Shazeer 2020). Heads and
    intermediate vectors are shared by the devices. Logits are computed in the type of the weights and sampled from in
    float32.
    """
    shape = deployment.spec.shape or ModelShape()
    number = TYPE_BYTES.get(wanted.weight_type or shape.dtype, 2)
    attention = shape.heads * (shape.head_dim + shape.value_dim) + shape.kv_heads * (shape.head_dim + shape.value_dim)
    per_token = 3 * shape.hidden + max(attention, 3 * shape.intermediate) / devices
    logits = wanted.concurrency * shape.vocabulary * (number + 4) if deployment.spec.kind in GENERATIVE_KINDS else 0
    return wanted.batch_tokens * per_token * number + logits


def in_words(found: Estimate) -> str:
    """Where the figure comes from: "estimated: weights 5, KV cache 96, activations 3, engine 512, safety 32 MiB"."""
    if found.observed_mib is not None and found.needed_mib != found.per_device_mib:
        return f"observed: such a replica used {found.observed_mib} MiB"
    parts = {
        "weights": found.weights_mib,
        "KV cache": found.kv_cache_mib,
        "activations": found.activations_mib,
        "engine": found.engine_mib,
        "driver": found.driver_mib,
        "safety": found.safety_mib,
    }
    return f"estimated: {', '.join(f'{name} {mib}' for name, mib in parts.items() if mib)} MiB"


def origin(deployment: Deployment, device_kind: str) -> str:
    """Where the memory of a replica comes from, for messages; empty where it was asked for, or nobody knows."""
    if deployment.request.memory_mib is not None or deployment.request.memory_percent is not None:
        return ""
    found = [one for one in deployment.estimates if one.device_kind == device_kind]
    return in_words(found[0]) if found else ""


def _devices(deployment: Deployment) -> int:
    """All that share one replica, on whichever worker."""
    return max(1, deployment.request.devices * deployment.request.workers)


def _by_shape(
    deployment: Deployment, shape: ModelShape, memory: EngineMemory, wanted: Demand, blank: Estimate
) -> Estimate:
    on_cpu, devices = blank.device_kind == CPU, blank.devices
    parts = msgspec.structs.replace(
        blank,
        weights_mib=_mib(loaded_weight_bytes(deployment, memory, wanted, on_cpu=on_cpu) / devices),
        kv_cache_mib=_mib(kv_cache_bytes(shape, memory, wanted, devices) * (1 + memory.cache_overhead)),
        activations_mib=_mib(activation_bytes(deployment, wanted, devices)),
        engine_mib=memory.cpu_mib if on_cpu else memory.accelerator_mib,
        driver_mib=0 if on_cpu else DRIVER_MIB,
        kv_tokens=wanted.kv_tokens if shape.attention_layers + shape.sliding_layers else 0,
        batch_tokens=wanted.batch_tokens,
        notes=_notes(shape, memory, wanted),
    )
    return msgspec.structs.replace(parts, safety_mib=max(LEAST_SAFETY_MIB, math.ceil(SAFETY * _sum(parts))))


def _by_rule_of_thumb(weights_mib: int, blank: Estimate) -> Estimate:
    """For models whose files are not known here."""
    each = math.ceil(weights_mib / blank.devices)
    return msgspec.structs.replace(
        blank,
        weights_mib=each,
        activations_mib=max(0, math.ceil(weights_mib * WEIGHTS_FACTOR / blank.devices) - each),
        engine_mib=PROCESS_MIB,
        notes=(f"a rule of thumb ({WEIGHTS_FACTOR} times the weights): what the model's files say is not known here",),
    )


def _notes(shape: ModelShape, memory: EngineMemory, wanted: Demand) -> tuple[str, ...]:
    notes = []
    asked = wanted.concurrency * wanted.context
    if 0 < wanted.kv_tokens < asked and not memory.shared_context:
        notes.append(
            f"the cache has room for {wanted.kv_tokens} tokens; {wanted.concurrency} sequences of {wanted.context} "
            f"tokens at once would need {asked}"
        )
    rest = shape.layers - shape.attention_layers - shape.sliding_layers
    if rest > 0 and wanted.kv_tokens:
        notes.append(f"{rest} of {shape.layers} layers keep no keys and values; their states are not counted")
    return tuple(notes)


def _kv_bytes(deployment: Deployment, memory: EngineMemory, weight_type: str) -> float:
    """Bytes of a number in the cache: of a key and of a value on average."""
    plain = TYPE_BYTES.get(memory.kv_dtype or weight_type or (deployment.spec.shape or ModelShape()).dtype, 2)
    keys = TYPE_BYTES.get(_word(deployment.options, memory.kv_dtype_options), plain)
    if not memory.value_dtype_options:
        return keys
    return (keys + TYPE_BYTES.get(_word(deployment.options, memory.value_dtype_options), plain)) / 2


def _is_quantized(deployment: Deployment) -> bool:
    return deployment.spec.format is Format.GGUF or deployment.spec.quantization != "none"


def number(options: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first of these options that is a number above 0; else 0. Command lines send "4096", and vLLM's know "4k"."""
    for name in names:
        value = options.get(name)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                found = _written_out(value)
            except (ValueError, OverflowError):
                continue  # the engine's own Options refuse it, or it is a word such as "auto"
            if found > 0:
                return found
    return 0


def _written_out(value: float | str) -> int:
    short = SHORT_NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if short is None:
        return int(value)
    return int(float(short[1]) * (1000 if short[2].islower() else 1024) ** POWERS[short[2].lower()])


def _word(options: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these options that names a type; else nothing."""
    words = (str(options.get(name) or "").lower() for name in names)
    return next((word for word in words if word in TYPE_BYTES), "")


def _sum(found: Estimate) -> int:
    return (
        found.weights_mib
        + found.kv_cache_mib
        + found.activations_mib
        + found.engine_mib
        + found.driver_mib
        + found.safety_mib
    )


def _mib(size: float) -> int:
    return math.ceil(size / MIB)
