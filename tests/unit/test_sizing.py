"""Estimates of memory against figures that were worked out by hand, and their properties."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer import plugins
from xinfer.catalog.shape import shape_of_config, text_config
from xinfer.catalog.weights import Tensors
from xinfer.engines.base import EngineMemory
from xinfer.ops import Kind
from xinfer.spec import Deployment, Estimate, Format, ModelShape, ModelSpec, ResourceRequest
from xinfer.supervisor import sizing
from xinfer.supervisor.peaks import memory_of_engines
from xinfer.supervisor.sizing import estimate, kv_bytes_per_token, kv_cache_bytes, weight_bytes

KIB = 1024
MIB = 1024 * KIB
PLAIN = EngineMemory(context_options=("max_len",), concurrency_options=("max_seqs",), dtype_options=("dtype",))

# The numbers of published config.json files.
QWEN3_06B = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "torch_dtype": "bfloat16",
}
MISTRAL_7B = {
    "model_type": "mistral",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "vocab_size": 32_000,
    "torch_dtype": "bfloat16",
}
GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 129_280,
    "torch_dtype": "bfloat16",
}
QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "moe_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "shared_expert_intermediate_size": 512,
    "intermediate_size": 5120,
}


def shape(config, **weights):
    return shape_of_config(config, Tensors(sum(weights.values()) // 2, weights))


def deployment(found=None, *, options=None, devices=1, engine="plain", kind=Kind.LLM, **spec):
    fields = {"name": "m", "kind": kind, "source": "/m", "format": Format.SAFETENSORS, "context_length": 4096, **spec}
    return Deployment(
        model_uid="m",
        spec=ModelSpec(shape=found, **fields),
        engine=engine,
        request=ResourceRequest(devices=devices),
        options=options or {},
    )


def per_token(config, element_bytes=2, devices=1, **choices):
    """Bytes of one token in all layers."""
    found = shape(config)
    layers = found.attention_layers + found.sliding_layers
    return layers * kv_bytes_per_token(found, element_bytes, devices, **choices)


def kv_mib(config, options, memory=PLAIN, devices=1):
    return estimate(deployment(shape(config), options=options, devices=devices), memory, "accelerator").kv_cache_mib


# Keys and values, by hand.


def test_grouped_query_attention_of_qwen3():
    assert per_token(QWEN3_06B) == 28 * 2 * 8 * 128 * 2 == 112 * KIB
    assert kv_mib(QWEN3_06B, {"max_len": 40_960}) == 40_960 * 112 // KIB
    assert per_token(QWEN3_06B, element_bytes=4) == 224 * KIB


def test_heads_are_shared_by_devices_and_repeated_where_they_are_fewer():
    assert [per_token(QWEN3_06B, devices=count) // KIB for count in (1, 2, 4, 8, 16)] == [112, 56, 28, 14, 14]


def test_latent_attention_of_deepseek_v3():
    assert per_token(DEEPSEEK_V3) == 61 * (512 + 64) * 2 == 70_272
    assert per_token(DEEPSEEK_V3, devices=8) == 70_272  # every device has the whole latent
    assert per_token(DEEPSEEK_V3, latent=False) == 61 * 128 * (192 + 128) * 2
    assert shape(DEEPSEEK_V3).intermediate == 18_432


def test_the_sliding_window_of_mistral():
    found = shape(MISTRAL_7B)
    assert (found.attention_layers, found.sliding_layers, found.window) == (0, 32, 4096)
    assert kv_mib(MISTRAL_7B, {"max_len": 32_768}) == 4096 * 128 // KIB
    unbounded = msgspec.structs.replace(PLAIN, windowed_cache=False)
    assert kv_mib(MISTRAL_7B, {"max_len": 32_768}, unbounded) == 32_768 * 128 // KIB


def test_five_of_six_layers_of_gemma3_slide():
    found = shape(GEMMA3_4B)
    assert (found.attention_layers, found.sliding_layers, found.window) == (5, 29, 1024)
    assert (found.heads, found.kv_heads, found.head_dim, found.vocabulary) == (8, 4, 256, 262_208)
    in_layer = 2 * 4 * 256 * 2
    assert kv_mib(GEMMA3_4B, {"max_len": 131_072}) == in_layer * (5 * 131_072 + 29 * 1024) // MIB
    assert text_config(GEMMA3_4B)["max_position_embeddings"] == 131_072


@pytest.mark.parametrize(
    ("config", "full", "sliding"),
    [
        (QWEN3_NEXT, 12, 0),
        ({**QWEN3_06B, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20}, 20, 8),
        ({**QWEN3_06B, "layer_types": ["sliding_attention", "full_attention"] * 14, "sliding_window": 128}, 14, 14),
        ({**QWEN3_06B, "layer_types": ["linear_attention"] * 21 + ["full_attention"] * 7}, 7, 0),
        ({**QWEN3_06B, "layers_block_type": ["mamba"] * 24 + ["attention"] * 4}, 4, 0),
        ({**QWEN3_06B, "hybrid_override_pattern": "M-M*" * 7}, 7, 0),
        ({**QWEN3_06B, "attn_layer_indices": [3, 9]}, 2, 0),
        ({**QWEN3_06B, "attn_layer_period": 8, "attn_layer_offset": 4}, 3, 0),
        ({"num_hidden_layers": 24, "hidden_size": 768, "state_size": 16}, 0, 0),
        ({**QWEN3_06B, "num_kv_shared_layers": 14}, 14, 0),
        ({**GEMMA3_4B["text_config"], "sliding_window_pattern": 2}, 17, 17),
        ({**QWEN3_06B, "use_sliding_window": None, "sliding_window": 64, "sliding_window_pattern": "LLLG"}, 7, 21),
        ({**MISTRAL_7B, "model_type": "llama4_text", "sliding_window": None, "attention_chunk_size": 8192}, 8, 24),
        ({**MISTRAL_7B, "model_type": "nobody_knows"}, 32, 0),
        ({"n_layer": 12, "n_embd": 768, "n_head": 12, "model_type": "gpt2"}, 12, 0),
        ({}, 0, 0),
    ],
)
def test_which_layers_keep_keys_and_values(config, full, sliding):
    found = shape(config)
    assert (found.attention_layers, found.sliding_layers) == (full, sliding)


def test_older_names_of_the_same_numbers():
    gpt2 = shape({"n_layer": 12, "n_embd": 768, "n_head": 12})
    assert (gpt2.kv_heads, gpt2.head_dim, gpt2.intermediate) == (12, 64, 4 * 768)
    assert shape({"n_layer": 1, "n_embd": 64, "n_head": 8, "multi_query": True}).kv_heads == 1
    assert shape({"hidden_size": True, "num_hidden_layers": "9", "vocab_size": -1, "d_model": 1e400}).hidden == 0


def test_the_type_of_the_cache():
    memory = msgspec.structs.replace(
        PLAIN, kv_dtype_options=("type_k", "cache_type_k"), value_dtype_options=("type_v",), kv_dtype="f16"
    )

    def in_type(**types):
        return kv_mib(QWEN3_06B, {"max_len": 32_768, **types}, memory)

    assert in_type() == 3584
    assert in_type(cache_type_k="q8_0") == math.ceil(3584 * (34 / 32 + 2) / 4)
    assert in_type(type_k="F32", type_v="f32") == 7168
    assert in_type(type_k=8) == 3584  # a number of the library: as if nothing was said
    together = msgspec.structs.replace(PLAIN, kv_dtype_options=("kv_cache_dtype",))
    sizes = [kv_mib(QWEN3_06B, {"max_len": 32_768, "kv_cache_dtype": word}, together) for word in ("auto", "fp8_e4m3")]
    assert sizes == [3584, 1792]


def test_a_cache_that_is_copied_as_it_grows_takes_more_than_its_content():
    growing = msgspec.structs.replace(PLAIN, cache_overhead=0.25)
    assert kv_mib(QWEN3_06B, {"max_len": 32_768}, growing) == 3584 * 5 // 4


# How many tokens.


def test_many_sequences_are_planned_with_the_tokens_that_most_have():
    found = estimate(deployment(shape(QWEN3_06B), options={"max_seqs": "64"}), PLAIN, "accelerator")
    assert (found.context_length, found.concurrency, found.kv_tokens) == (4096, 64, 64 * sizing.PLANNED_TOKENS)
    assert "64 sequences of 4096 tokens at once would need 262144" in found.notes[0]
    short = estimate(deployment(shape(QWEN3_06B), options={"max_len": 128, "max_seqs": 64}), PLAIN, "accelerator")
    assert (short.kv_tokens, short.notes) == (64 * 128, ())


def test_an_engine_that_can_do_with_less_than_the_whole_context_is_planned_with_less():
    modest = msgspec.structs.replace(PLAIN, needs_whole_context=False)
    wanted = deployment(shape(QWEN3_06B), context_length=131_072)
    assert estimate(wanted, PLAIN, "cpu").context_length == 131_072
    assert estimate(wanted, modest, "cpu").context_length == sizing.PLANNED_CONTEXT
    asked = deployment(shape(QWEN3_06B), context_length=131_072, options={"max_len": "32768"})
    assert estimate(asked, modest, "cpu").context_length == 32_768


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({}, 4096),
        ({"max_seqs": 64}, 4096),  # shorter ones
        ({"max_len": 1024}, 1024),  # as many as there is room for
        ({"max_len": 1024, "max_seqs": 64}, 65_536),
        ({"max_len": 900, "max_seqs": 64}, 65_536),  # each rounded up
        ({"max_len": 1024, "max_seqs": 64, "cache": 8192}, 8192),
    ],
)
def test_a_cache_that_is_divided_has_room_for_what_is_asked_for(asked, tokens):
    memory = msgspec.structs.replace(PLAIN, shared_context=True, cache_options=("cache",), cache_step=256)
    found = estimate(deployment(shape(QWEN3_06B), options=asked), memory, "cpu")
    assert (found.kv_tokens, found.notes) == (tokens, ())


def test_words_and_nonsense_in_options_are_left_to_the_engine():
    for options in (
        {"max_len": "auto"},
        {"max_len": None},
        {"max_len": -5},
        {"max_len": True},
        {"max_len": float("inf")},
    ):
        assert estimate(deployment(shape(QWEN3_06B), options=options), PLAIN, "cpu").context_length == 4096


def test_layers_without_keys_and_values_are_named():
    found = estimate(deployment(shape(QWEN3_NEXT)), PLAIN, "accelerator")
    assert "36 of 48 layers keep no keys and values; their states are not counted" in found.notes


# The other parts.


def test_weights_are_counted_in_the_type_that_they_are_loaded_in():
    found = shape(QWEN3_06B, BF16=1000, F32=100, I64=8)
    assert weight_bytes(found, "", quantized=False) == 1108
    assert weight_bytes(found, "float32", quantized=False) == 2108
    assert weight_bytes(found, "float16", quantized=False) == 1058
    assert weight_bytes(found, "float32", quantized=True) == 1108
    on_cpu = msgspec.structs.replace(PLAIN, cpu_dtype="float32")
    big = shape(QWEN3_06B, BF16=1200 * MIB)
    assert estimate(deployment(big), on_cpu, "cpu").weights_mib == 2400
    assert estimate(deployment(big), on_cpu, "accelerator").weights_mib == 1200
    assert estimate(deployment(big, options={"dtype": "bfloat16"}), on_cpu, "cpu").weights_mib == 1200
    assert estimate(deployment(big, options={"dtype": "auto"}), on_cpu, "cpu").weights_mib == 2400
    assert estimate(deployment(big, quantization="awq-int4"), on_cpu, "cpu").weights_mib == 1200


def test_activations_are_those_of_one_layer_and_the_logits():
    found = estimate(deployment(shape(QWEN3_06B), options={"max_seqs": 16}), PLAIN, "accelerator")
    layer = 2048 * (3 * 1024 + 3 * 3072) * 2
    logits = 16 * 151_936 * (2 + 4)
    assert found.activations_mib == math.ceil((layer + logits) / MIB) == 62


def test_models_that_generate_nothing_have_no_cache_and_no_logits():
    found = estimate(deployment(shape(QWEN3_06B), kind=Kind.EMBEDDING), PLAIN, "accelerator")
    assert (found.kv_cache_mib, found.kv_tokens, found.activations_mib) == (0, 0, 48)
    memory = msgspec.structs.replace(PLAIN, cpu_batch_tokens=1024)
    assert estimate(deployment(shape(QWEN3_06B), kind=Kind.RERANK), memory, "cpu").activations_mib == 24


def test_the_parts_add_up():
    memory = msgspec.structs.replace(PLAIN, cpu_mib=400, accelerator_mib=300)
    for kind, engine, driver in (("cpu", 400, 0), ("accelerator", 300, sizing.DRIVER_MIB)):
        found = estimate(deployment(shape(QWEN3_06B, BF16=1000 * MIB), devices=2), memory, kind)
        parts = [found.weights_mib, found.kv_cache_mib, found.activations_mib, found.engine_mib, found.driver_mib]
        assert parts[0] == 500
        assert parts[3:] == [engine, driver]
        assert found.safety_mib == max(sizing.LEAST_SAFETY_MIB, math.ceil(sum(parts) * 0.05))
        assert found.per_device_mib == sum(parts) + found.safety_mib == found.needed_mib
        assert found.total_mib == 2 * found.per_device_mib


def test_a_model_whose_files_nobody_read_is_estimated_by_a_rule_of_thumb_that_says_so():
    for unknown in (None, ModelShape(), ModelShape(hidden=8)):
        found = estimate(deployment(unknown, weights_mib=10_000), PLAIN, "accelerator")
        assert (found.weights_mib, found.per_device_mib) == (10_000, 12_000 + sizing.PROCESS_MIB)
        assert "rule of thumb" in found.notes[0]


def test_without_weights_there_is_only_the_engine():
    found = estimate(deployment(format=Format.NONE), EngineMemory(cpu_mib=99), "cpu")
    assert (found.per_device_mib, found.notes) == (99, ("it loads no weights",))


def test_messages_say_where_a_figure_comes_from():
    wanted = deployment(shape(QWEN3_06B, BF16=1200 * MIB), options={"max_len": 1024})
    found = estimate(wanted, PLAIN, "cpu")
    words = "estimated: weights 1200, KV cache 112, activations 49, engine 768, safety 107 MiB"
    assert sizing.in_words(found) == words
    told = msgspec.structs.replace(wanted, estimates=(found,))
    assert sizing.origin(told, "cpu") == words
    assert sizing.origin(told, "accelerator") == ""
    for request in (ResourceRequest(memory_mib=5), ResourceRequest(memory_percent=5)):
        assert sizing.origin(msgspec.structs.replace(told, request=request), "cpu") == ""
    assert sizing.in_words(estimate(wanted, PLAIN, "cpu", 700)) == "observed: such a replica used 700 MiB"


def test_what_a_launch_reserves():
    cpu, card = Estimate(device_kind="cpu", needed_mib=10), Estimate(device_kind="accelerator", needed_mib=20)
    known = msgspec.structs.replace(deployment(), estimates=(cpu, card))
    assert [sizing.memory_mib(known, kind) for kind in ("cpu", "accelerator", "")] == [10, 20, 20]
    asked = msgspec.structs.replace(known, request=ResourceRequest(memory_mib=5))
    assert sizing.memory_mib(asked, "cpu") == 5


def test_every_engine_declares_options_that_it_has():
    for engine in plugins.engines().values():
        memory = memory_of_engines(plugins.engines())(engine.name)
        named = {
            *memory.context_options,
            *memory.concurrency_options,
            *memory.dtype_options,
            *memory.kv_dtype_options,
            *memory.value_dtype_options,
            *memory.batch_token_options,
            *memory.cache_options,
        }
        if engine.Options.__struct_config__.forbid_unknown_fields:
            assert named <= {field.encode_name for field in msgspec.structs.fields(engine.Options)}, engine.name
    assert memory_of_engines({})("gone") == EngineMemory()


# Properties.

SHAPES = st.builds(
    ModelShape,
    layers=st.integers(1, 200),
    attention_layers=st.integers(0, 100),
    sliding_layers=st.integers(0, 100),
    window=st.sampled_from([0, 128, 4096]),
    hidden=st.integers(1, 20_000),
    intermediate=st.integers(0, 100_000),
    heads=st.integers(1, 256),
    kv_heads=st.integers(1, 256),
    head_dim=st.integers(1, 512),
    value_dim=st.integers(1, 512),
    kv_lora_rank=st.sampled_from([0, 512]),
    qk_rope_head_dim=st.sampled_from([0, 64]),
    vocabulary=st.integers(0, 300_000),
    dtype=st.sampled_from(["", "bfloat16", "float32", "float8"]),
    weight_bytes=st.dictionaries(st.sampled_from(["BF16", "F32", "I32", "Q4_K"]), st.integers(0, 10**13)),
)
ENGINES = st.builds(
    EngineMemory,
    context_options=st.just(("max_len",)),
    concurrency_options=st.just(("max_seqs",)),
    dtype_options=st.just(("dtype",)),
    cpu_dtype=st.sampled_from(["", "float32"]),
    needs_whole_context=st.booleans(),
    shared_context=st.booleans(),
    windowed_cache=st.booleans(),
    latent_cache=st.booleans(),
    grows=st.booleans(),
    fills_budget=st.booleans(),
)
LENGTHS = st.integers(1, 1_000_000)
MANY = st.integers(1, 2048)
DEVICE_KINDS = st.sampled_from(["cpu", "accelerator"])


@given(found=SHAPES, memory=ENGINES, kind=DEVICE_KINDS, length=LENGTHS, longer=LENGTHS, few=MANY, more=MANY)
def test_more_context_or_more_sequences_never_need_less(*, found, memory, kind, length, longer, few, more):
    def needs(context, concurrency):
        return estimate(deployment(found, options={"max_len": context, "max_seqs": concurrency}), memory, kind)

    length, longer = sorted((length, longer))
    few, more = sorted((few, more))
    assert needs(length, few).per_device_mib <= needs(longer, few).per_device_mib
    assert needs(length, few).per_device_mib <= needs(length, more).per_device_mib


@given(
    found=SHAPES,
    memory=ENGINES,
    kind=DEVICE_KINDS,
    model=st.sampled_from(Kind),
    devices=st.integers(1, 16),
    observed=st.none() | st.integers(0, 10**6),
)
def test_no_part_is_negative_and_more_devices_need_no_more_each(*, found, memory, kind, model, devices, observed):
    one = estimate(deployment(found, kind=model), memory, kind, observed)
    many = estimate(deployment(found, kind=model, devices=devices), memory, kind)
    parts = [
        value for name, value in msgspec.structs.asdict(one).items() if name.endswith("_mib") and value is not None
    ]
    assert min(parts) >= 0
    assert many.per_device_mib <= one.per_device_mib
    assert many.total_mib == many.per_device_mib * devices
    assert one.needed_mib >= one.weights_mib


@given(SHAPES, ENGINES, LENGTHS, MANY)
def test_a_window_and_a_latent_never_make_a_cache_larger_than_without(found, memory, tokens, sequences):
    wanted = sizing.Demand(tokens, sequences, tokens, 1, "", 2)
    bounded = kv_cache_bytes(found, msgspec.structs.replace(memory, windowed_cache=True), wanted)
    assert bounded <= kv_cache_bytes(found, msgspec.structs.replace(memory, windowed_cache=False), wanted)
