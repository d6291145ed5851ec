"""From options, slice and model to the command line of SGLang's server, and what it says of its load."""

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.nvml.library import FakeCard, FakeDriver, compile_nvml
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Budget
from xinfer.engines.base import Load
from xinfer.engines.sglang.arguments import (
    CPU_PROCESSES_MIB,
    DYNAMIC_MIB,
    FRACTION,
    MIB,
    SERVER,
    TOKENS,
    arguments,
    cpu_memory_arguments,
    memory_arguments,
    suggestions,
    token_bytes,
)
from xinfer.engines.sglang.free_memory import free_mib
from xinfer.engines.sglang.server import RankLoad, summed
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.ops import Kind
from xinfer.spec import Format, ModelShape, ModelSpec

QWEN = ModelShape(layers=28, attention_layers=28, kv_heads=8, head_dim=128, value_dim=128, dtype="bfloat16")
DEEPSEEK = ModelShape(layers=61, attention_layers=61, kv_lora_rank=512, qk_rope_head_dim=64, dtype="bfloat16")
CHAT = ModelSpec(name="m", kind=Kind.LLM, source="/models/m", format=Format.SAFETENSORS, weights_mib=1200, shape=QWEN)
EMBED = ModelSpec(name="e", kind=Kind.EMBEDDING, source="/models/e", format=Format.SAFETENSORS)
HERMES = "{% if tools %}<tool_call>{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
CLOSED = HERMES + "{% if not enable_thinking %}<think>\n\n</think>{% endif %}"


def card(memory_mib: int, total_mib: int = 80_000) -> Budget:
    return Budget(device_id="gpu-0", kind="cuda", memory_mib=memory_mib, total_mib=total_mib)


def cpu(memory_mib: int) -> Budget:
    return Budget(device_id="cpu", kind="cpu", memory_mib=memory_mib, total_mib=24_000)


def test_options_become_words_of_a_command_line():
    words = arguments(
        CHAT,
        "uid",
        {"context_length": 1},
        {
            "context_length": 4096,
            "enable_lora": True,
            "disable_radix_cache": False,
            "lora_paths": ["a=/a", "b=/b"],
            "json_model_override_args": {"x": 1},
            "seed": None,
        },
        {FRACTION: 0.5},
    )
    assert words == [
        "--context-length=4096",
        "--enable-lora",
        "--lora-paths",
        "a=/a",
        "b=/b",
        "--json-model-override-args",
        '{"x": 1}',
        "--mem-fraction-static=0.5",
        "--model-path=/models/m",
        "--served-model-name=uid",
    ]


@pytest.mark.parametrize(
    ("name", "hint"), [("port", "itself$"), ("api_key", "itself$"), ("served_model_name", "say model_uid instead")]
)
def test_what_is_not_the_launchs_to_say_is_refused(name, hint):
    with pytest.raises(InvalidRequest, match=hint) as refusal:
        arguments(CHAT, "uid", {}, {name: "x"}, {})
    assert refusal.value.param == name


def test_model_and_cards_suggest_arguments():
    alone = suggestions(CHAT, CLOSED, {}, 1)
    assert alone["tool_call_parser"] == "qwen"
    assert alone["reasoning_parser"] == "qwen3"
    assert alone["default_chat_template_kwargs"] == {"enable_thinking": False}
    assert "tp_size" not in alone
    assert "device" not in alone
    assert suggestions(CHAT, HERMES, {}, 2)["tp_size"] == 2
    assert "tp_size" not in suggestions(CHAT, HERMES, {"pp_size": 2}, 2)
    assert "tp_size" not in suggestions(CHAT, HERMES, {"pp": 2}, 2)
    assert suggestions(CHAT, HERMES, {"dp_size": 2}, 4)["tp_size"] == 2
    assert suggestions(CHAT, HERMES, {"dp": 2, "enable_dp_attention": True}, 4)["tp_size"] == 4
    assert "tool_call_parser" not in suggestions(CHAT, HERMES, {"chat_template": "x"}, 1)
    assert suggestions(CHAT, "", {}, 0)["device"] == "cpu"
    assert suggestions(EMBED, "", {}, 1)["is_embedding"] is True


def test_every_dialect_has_a_parser_or_none():
    assert SERVER.parsers("no tools and no thoughts here") == {}
    assert all([*SERVER.tool_parsers.values(), *SERVER.reasoning_parsers.values()])


# --- memory of cards ---


def test_the_share_is_of_what_is_free():
    alone = memory_arguments([card(20_000)], [80_000], {})[FRACTION]
    beside = memory_arguments([card(20_000)], [40_000], {})[FRACTION]
    assert alone == 0.22  # (20,000 - 768 - 8 %) / 80,000
    assert beside == 0.44


@given(st.integers(1_000, 100_000), st.integers(1, 100_000))
def test_weights_and_cache_leave_room_for_the_rest(memory_mib, free):
    share = memory_arguments([card(memory_mib)], [free], {})[FRACTION]
    assert 0 <= share <= 1
    assert share * free <= memory_mib - DYNAMIC_MIB


def test_several_cards_share_the_smallest():
    assert memory_arguments([card(20_000), card(10_000)], [80_000, 80_000], {}) == memory_arguments(
        [card(10_000)], [80_000], {}
    )


def test_a_slice_that_is_too_small_says_how_much_there_is():
    with pytest.raises(LoadFailed, match=r"about 768 MiB .* the slice has 800 MiB"):
        memory_arguments([card(800)], [80_000], {})


def test_the_launch_may_ask_for_less_but_not_for_more():
    assert memory_arguments([card(20_000)], [80_000], {FRACTION: 0.1}) == {}
    with pytest.raises(InvalidRequest, match=r"mem_fraction_static 0\.9 .* 80000 MiB .* 17632 MiB") as refusal:
        memory_arguments([card(20_000)], [80_000], {FRACTION: 0.9})
    assert refusal.value.param == FRACTION


# --- memory of a CPU ---


def test_a_token_takes_what_its_keys_and_values_take():
    assert token_bytes(QWEN, "auto") == 112 * 1024
    assert token_bytes(QWEN, "float32") == 224 * 1024
    assert token_bytes(DEEPSEEK, "auto") == 61 * 576 * 2


def test_on_a_cpu_the_slice_says_how_many_tokens():
    room = 1_000
    budget = cpu(CPU_PROCESSES_MIB + CHAT.weights_mib + room)
    assert cpu_memory_arguments(budget, CHAT, 9_000, {}) == {TOKENS: room * MIB // (112 * 1024)}
    assert cpu_memory_arguments(budget, CHAT, 9_000, {TOKENS: 600}) == {}
    with pytest.raises(InvalidRequest, match="max_total_tokens 90000"):
        cpu_memory_arguments(budget, CHAT, 9_000, {TOKENS: 90_000})


def test_on_a_cpu_a_slice_that_is_too_small_says_what_is_taken():
    with pytest.raises(LoadFailed, match=r"2300 MiB on a CPU and the weights 1200 MiB, and the slice has 3500 MiB"):
        cpu_memory_arguments(cpu(3_500), CHAT, 9_000, {})


def test_on_a_cpu_a_model_of_unknown_shape_gets_a_share():
    assert cpu_memory_arguments(cpu(4_300), EMBED, 8_000, {}) == {FRACTION: 0.25}


# --- what is free ---


def test_what_is_free_is_read_from_the_cards_that_the_process_sees(tmp_path: Path):
    """By UUID or by number, in the order of the process; in a process of its own, because NVML is loaded only once."""
    driver = FakeDriver(tmp_path / "cards")
    driver.show(FakeCard("GPU-a", total=24_000, used=4_000), FakeCard("GPU-b", total=24_000, used=10_000))
    code = (
        "from xinfer.engines.sglang.free_memory import free_mib\n"
        "from xinfer.devices import Budget\n"
        "cards = [Budget(device_id=str(i), kind='cuda', memory_mib=1, total_mib=15_000) for i in range(2)]\n"
        "for seen in ('GPU-b,GPU-a', '1,0', 'GPU-b', 'GPU-b,GPU-x'):\n"
        "    print(free_mib(cards, {'CUDA_VISIBLE_DEVICES': seen}))\n"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), **driver.environment(compile_nvml(tmp_path / "nvml"))}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[14000, 15000]", "[14000, 15000]", "[15000, 15000]", "[15000, 15000]"]


def test_where_nobody_can_tell_all_of_it_counts():
    assert free_mib([card(1, total_mib=7)], {}) == [7]


# --- load ---


def test_the_load_of_several_schedulers():
    ranks = [
        RankLoad(
            num_running_reqs=2, num_waiting_reqs=1, num_waiting_uncached_tokens=9, token_usage=0.5, gen_throughput=3
        ),
        RankLoad(num_running_reqs=1, token_usage=0.1, gen_throughput=4),
    ]
    assert summed(ranks) == Load(running=3, queued=1, tokens_queued=9, kv_usage=0.3, tokens_per_s=7.0)
    assert summed([]) == Load()
