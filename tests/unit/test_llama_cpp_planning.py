"""How llama.cpp's memory is divided: layers, sequences and contexts, decided without the library."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Budget
from xinfer.engines.base import parse_options
from xinfer.engines.llama_cpp import ENGINE
from xinfer.engines.llama_cpp.options import FOR_VECTORS, LlamaCppOptions
from xinfer.engines.llama_cpp.planning import (
    LEAST_CACHE_MIB,
    MIB,
    SEQUENCES,
    WORKSPACE_MIB,
    Shape,
    cache_budget,
    cache_plan,
    offload,
)
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

SHAPE = Shape(layers=32, key_width=1024, value_width=1024, trained_context=32768, weight_bytes=4000 * MIB)
"""128 KiB for each token, as in a model of 8 billion parameters."""


def options(**given) -> LlamaCppOptions:
    return parse_options(LlamaCppOptions, given, "llama.cpp")


def gpu(memory_mib: int) -> Budget:
    return Budget(device_id="cuda-0", kind="cuda", memory_mib=memory_mib, total_mib=80_000)


def test_a_token_takes_its_keys_and_values_in_every_layer():
    assert SHAPE.token_bytes(options()) == 128 * 1024
    assert SHAPE.token_bytes(options(type_k="q8_0", cache_type_v="q4_0")) == 32 * 1024 * (34 + 18) // 32


@pytest.mark.parametrize(
    ("mib", "given_options", "sequences", "context"),
    [
        (16_384, {}, 16, 8192),  # 131,072 tokens
        (2048, {}, 4, 4096),  # rather fewer sequences than less context
        (100_000, {}, SEQUENCES, 32768),  # what the model was made for
        (512, {}, 1, 4096),
        (16_384, {"n_parallel": 4}, 4, 32768),
        (16_384, {"max_num_seqs": 64}, 64, 2048),
        (16_384, {"max_model_len": 1000}, 16, 1000),
        (16_384, {"max_model_len": 32768}, 4, 32768),  # as many of that length as there is room for
        (16_384, {"n_ctx": 8192, "max_model_len": 8192}, 1, 8192),
        (16_384, {"n_ctx": 8192, "n_parallel": 4}, 4, 2048),
        (16_384, {"n_ctx": 1000, "n_parallel": 3}, 3, 333),
    ],
)
def test_the_cache_is_divided(mib, given_options, sequences, context):
    plan = cache_plan(SHAPE, options(**given_options), mib)
    assert (plan.sequences, plan.context) == (sequences, context)


def test_what_does_not_fit_is_refused_with_numbers():
    with pytest.raises(LoadFailed, match=r"16 sequences of 16384 tokens take 32768 MiB.*leaves 16384 MiB"):
        cache_plan(SHAPE, options(n_parallel=16, context_length=16384), 16_384)


@pytest.mark.parametrize(
    ("given_options", "what"),
    [
        ({"n_ctx": 1024, "max_model_len": 2048}, "n_ctx=1024.*1 sequences of 2048"),
        ({"n_ctx": 2048, "max_model_len": 2048, "n_parallel": 2}, "n_ctx=2048.*2 sequences of 2048"),
        ({"n_ctx": 256, "n_parallel": 256}, "n_ctx=256.*256 sequences"),
        ({"n_ctx": 1024, "max_model_len": 2048, "kv_unified": True}, "n_ctx=1024.*1 sequences of 2048"),
    ],
)
def test_a_cache_without_room_for_what_shall_be_in_it_is_refused(given_options, what):
    with pytest.raises(LoadFailed, match=what):
        cache_plan(SHAPE, options(**given_options), 16_384)


@pytest.mark.parametrize(
    ("mib", "given_options", "sequences", "context", "tokens"),
    [
        (2048, {}, SEQUENCES, 16384, 16384),
        (2048, {"max_model_len": 1000}, SEQUENCES, 1000, 16384),
        (2048, {"max_model_len": 1000, "n_parallel": 2}, 2, 1000, 2048),
        (100_000, {"n_ctx": 8192}, SEQUENCES, 8192, 8192),
    ],
)
def test_one_cache_can_be_shared_by_all(mib, given_options, sequences, context, tokens):
    plan = cache_plan(SHAPE, options(kv_unified=True, **given_options), mib)
    assert (plan.sequences, plan.context, plan.tokens) == (sequences, context, tokens)


@given(st.integers(64, 200_000), st.integers(1, 256) | st.none(), st.integers(16, 32768) | st.none(), st.booleans())
def test_a_plan_fits_or_is_refused(mib, sequences, longest, unified):
    asked = options(n_parallel=sequences, max_model_len=longest, kv_unified=unified)
    try:
        plan = cache_plan(SHAPE, asked, mib)
    except LoadFailed:
        return
    assert plan.tokens * SHAPE.token_bytes(asked) <= max(mib, LEAST_CACHE_MIB) * MIB
    assert plan.context == longest if longest else 0 < plan.context <= SHAPE.trained_context
    assert plan.sequences == sequences if sequences else plan.sequences >= 1


def test_a_context_beyond_the_model_needs_scaled_positions():
    with pytest.raises(LoadFailed, match=r"40000.*32768.*rope_scaling_type"):
        cache_plan(SHAPE, options(max_model_len=40_000, n_parallel=1), 16_384)
    assert cache_plan(SHAPE, options(max_model_len=40_000, n_parallel=1, rope_scaling_type="yarn"), 16_384)


def test_a_file_that_says_nothing_of_a_context_needs_one():
    silent = msgspec.structs.replace(SHAPE, trained_context=0)
    with pytest.raises(LoadFailed, match="give max_model_len"):
        cache_plan(silent, options(), 16_384)
    assert cache_plan(silent, options(max_model_len=4096), 16_384).context == 4096


def test_the_cache_gets_what_the_lease_leaves():
    assert cache_budget(SHAPE, 8000) == 8000 - 4000 - WORKSPACE_MIB
    assert cache_budget(SHAPE, 10) == LEAST_CACHE_MIB
    assert cache_budget(SHAPE, None) > 0
    # Half of the weights are on the device, and half of the cache: twice of what is left there.
    assert cache_budget(SHAPE, 3000, 0.5) == 2 * (3000 - 2000 - WORKSPACE_MIB)
    assert cache_budget(SHAPE, 3000, 0.0) == cache_budget(SHAPE, None)


def test_as_many_layers_as_fit_go_to_the_accelerator():
    everything = SHAPE.layers + 1
    assert offload(SHAPE, options(), [gpu(24_000)]).layers == everything
    assert 0 < offload(SHAPE, options(), [gpu(2500)]).layers < everything
    assert offload(SHAPE, options(), [gpu(100)]).layers == 0
    assert offload(SHAPE, options(n_gpu_layers=7), [gpu(24_000)]).layers == 7
    assert offload(SHAPE, options(n_gpu_layers=-1), [gpu(100)]).layers == everything
    assert offload(SHAPE, options(n_gpu_layers="all"), [gpu(100)]).layers == everything
    assert (
        offload(SHAPE, options(offload_kqv=False), [gpu(2500)]).layers > offload(SHAPE, options(), [gpu(2500)]).layers
    )


def test_several_accelerators_share_as_they_were_leased():
    assert offload(SHAPE, options(), [gpu(8000), gpu(4000)]).split == (8000.0, 4000.0)
    assert offload(SHAPE, options(tensor_split=[1, 3]), [gpu(8000), gpu(4000)]).split == (1.0, 3.0)
    assert offload(SHAPE, options(tensor_split="1,3.5"), [gpu(8000), gpu(4000)]).split == (1.0, 3.5)
    assert offload(SHAPE, options(), [gpu(8000)]).split == ()


def test_options_have_the_names_of_other_engines_too():
    asked = options(max_num_seqs="4", context_length="512", cache_type_k="q8_0", flash_attn="on", n_gpu_layers="12")
    assert (asked.sequences, asked.sequence_tokens, asked.key_type, asked.value_type) == (4, 512, "q8_0", "f16")
    assert asked.flash_attention is True
    assert asked.n_gpu_layers == 12
    assert options().flash_attention is None
    assert options(flash_attn=False).flash_attention is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_ctx": 0},
        {"type_k": "f8"},
        {"n_parallel": 300},
        {"colour": 1},
        {"rope_freq_base": -5},
        {"rope_freq_scale": "nan"},
        {"yarn_orig_ctx": -3},
        {"yarn_ext_factor": "inf"},
        {"tensor_split": "1,,3"},
    ],
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        options(**wrong)


def test_what_needs_accelerators_is_known():
    assert options().needs_accelerators == options(n_gpu_layers=0).needs_accelerators == ""
    assert options(n_gpu_layers=-1).needs_accelerators == "n_gpu_layers=-1"
    assert options(tensor_split=[1, 3]).needs_accelerators == "tensor_split=1,3"
    assert options(main_gpu=1).needs_accelerators == "main_gpu=1"


def test_options_that_change_nothing_are_refused_unless_they_are_as_by_default():
    with pytest.raises(InvalidRequest, match="normalize=False changes nothing here, because it writes") as refused:
        options(normalize=False).refuse(FOR_VECTORS, "it writes")
    assert refused.value.param == "normalize"
    options(normalize=True, n_ctx=512).refuse(FOR_VECTORS, "it writes")


@pytest.mark.parametrize("kind", [Kind.LLM, Kind.EMBEDDING, Kind.RERANK])
def test_it_accepts_gguf_files_of_every_kind(kind):
    spec = ModelSpec(name="m", kind=kind, source="m.gguf", format=Format.GGUF)
    assert ENGINE.accepts(spec).ok
    other = ModelSpec(name="m", kind=kind, source="m", format=Format.SAFETENSORS)
    assert "safetensors" in ENGINE.accepts(other).reason
