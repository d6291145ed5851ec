"""From options, slice and model to the command line of ``vllm serve``."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Budget
from xinfer.engines.vllm.arguments import (
    SERVER,
    UTILIZATION,
    WORKER_MIB,
    arguments,
    cpu_memory_arguments,
    cpu_workers,
    memory_arguments,
    suggestions,
)
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

CHAT = ModelSpec(name="m", kind=Kind.LLM, source="/models/m", format=Format.SAFETENSORS)
EMBED = ModelSpec(name="e", kind=Kind.EMBEDDING, source="/models/e", format=Format.SAFETENSORS)
HERMES = "{% if tools %}<tool_call>{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
CLOSED = HERMES + "{% if not enable_thinking %}<think>\n\n</think>{% endif %}"
OPEN = HERMES + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


def card(memory_mib: int, total_mib: int = 80_000) -> Budget:
    return Budget(device_id="gpu-0", kind="cuda", memory_mib=memory_mib, total_mib=total_mib)


def cpu(memory_mib: int) -> Budget:
    return Budget(device_id="cpu", kind="cpu", memory_mib=memory_mib, total_mib=24_000)


def test_options_become_words_of_a_command_line():
    words = arguments(
        CHAT,
        "uid",
        {"max_model_len": "auto"},
        {
            "max_model_len": 4096,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "lora_modules": ["a=/a", {"name": "b", "path": "/b"}],
            "speculative_config": {"method": "ngram"},
            "compilation_config.custom_ops+": "none",
            "seed": None,
        },
        {UTILIZATION: 0.5},
    )
    assert words == [
        "--max-model-len=4096",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--lora-modules",
        "a=/a",
        '{"name": "b", "path": "/b"}',
        "--speculative-config",
        '{"method": "ngram"}',
        "--compilation-config.custom_ops+=none",
        "--gpu-memory-utilization=0.5",
        "--model=/models/m",
        "--served-model-name=uid",
    ]


@pytest.mark.parametrize(("name", "hint"), [("model", "model_path"), ("served_model_name", "model_uid"), ("port", "")])
def test_what_xinfer_sets_is_not_the_launchs_to_set(name, hint):
    with pytest.raises(InvalidRequest, match=name) as refused:
        arguments(CHAT, "uid", {}, {name: "x"}, {})
    assert refused.value.param == name
    assert hint in refused.value.message


def test_parsers_are_told_from_the_template():
    assert suggestions(CHAT, HERMES, {}, 1) == {
        "max_model_len": "auto",
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
    }
    assert suggestions(CHAT, CLOSED, {}, 1)["default_chat_template_kwargs"] == {"enable_thinking": False}
    assert "default_chat_template_kwargs" not in suggestions(CHAT, OPEN, {}, 1)
    assert suggestions(CHAT, OPEN, {}, 1)["reasoning_parser"] == "qwen3"
    assert suggestions(CHAT, HERMES, {"chat_template": "/mine.jinja"}, 1) == {"max_model_len": "auto"}
    assert suggestions(EMBED, "", {}, 1) == {"runner": "pooling"}
    assert SERVER.parsers("") == {}


def test_several_cards_are_used_by_tensor_parallelism_unless_the_launch_says_how():
    assert suggestions(CHAT, "", {}, 2)["tensor_parallel_size"] == 2
    assert "tensor_parallel_size" not in suggestions(CHAT, "", {"pipeline_parallel_size": 2}, 2)
    assert suggestions(CHAT, "", {"data_parallel_size": 2}, 4)["tensor_parallel_size"] == 2
    assert "tensor_parallel_size" not in suggestions(CHAT, "", {"data_parallel_size": 4}, 4)


def test_the_share_of_a_card_is_the_slice_in_its_own_view():
    assert memory_arguments([card(8000)], {}) == {UTILIZATION: 0.1}
    assert memory_arguments([card(8000, total_mib=8000)], {}) == {UTILIZATION: 1.0}  # an enforcer shows only the slice
    assert memory_arguments([card(8000), card(4000)], {}) == {UTILIZATION: 0.05}  # one share for all cards


@given(total=st.integers(1000, 200_000), cuts=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12))
def test_the_shares_of_one_card_never_add_up_to_more_than_it_has(total, cuts):
    slices = [int(total * cut / sum(cuts)) for cut in cuts]
    shares = [memory_arguments([card(max(1, size), total)], {})[UTILIZATION] for size in slices]
    assert sum(share * total for share in shares) <= total + 1e-6


@given(node=st.integers(20_000, 500_000), first=st.integers(3000, 8000), second=st.integers(3000, 8000))
def test_two_replicas_on_one_cpu_stay_within_their_slices(node, first, second):
    for size in (first, second):
        share = cpu_memory_arguments(cpu(size), 1400, node, {})[UTILIZATION]
        assert share * node + 1400 <= size


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_workers_of_one_cpu_together_stay_within_the_slice(workers):
    options = {"tensor_parallel_size": workers}
    assert cpu_workers(options) == workers
    share = cpu_memory_arguments(cpu(9000), 1400, 24_000, options, workers)[UTILIZATION]
    assert 1400 + workers * share * 24_000 <= 9000
    with pytest.raises(LoadFailed, match=f"about {1400 + workers * (256 + WORKER_MIB)} MiB"):
        cpu_memory_arguments(cpu(1400 + workers * WORKER_MIB), 1400, 24_000, options, workers)


def test_workers_are_those_of_one_member_of_a_gang():
    assert cpu_workers({}) == cpu_workers({}, 2) == 1
    assert cpu_workers({"tensor_parallel_size": "4", "pipeline_parallel_size": 2}, 2) == 4
    with pytest.raises(InvalidRequest, match="tensor_parallel_size must be a number"):
        cpu_workers({"tensor_parallel_size": "many"})


def test_a_model_that_listens_is_no_pooling_model():
    assert suggestions(msgspec.structs.replace(EMBED, kind=Kind.SPEECH_RECOGNITION), "", {}, 1) == {}


def test_more_than_the_slice_is_refused_with_numbers():
    with pytest.raises(InvalidRequest, match="72000 MiB of 80000 MiB, but the slice has 8000 MiB"):
        memory_arguments([card(8000)], {UTILIZATION: 0.9})
    assert memory_arguments([card(8000)], {UTILIZATION: 0.05}) == {}
    with pytest.raises(InvalidRequest, match="8000 MiB"):
        memory_arguments([card(8000)], {"kv_cache_memory_bytes": 9000 * 1024 * 1024})


def test_a_slice_without_room_for_the_processes_says_what_they_take():
    with pytest.raises(LoadFailed, match=rf"about {1400 + 256 + WORKER_MIB} MiB .* the slice has 2000 MiB"):
        cpu_memory_arguments(cpu(2000), 1400, 24_000, {})
