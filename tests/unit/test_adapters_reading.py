"""Adapters as they lie on disk, and as users name them."""

import json

import msgspec
import pytest
from fakes.gguf_file import gguf_bytes, write_gguf_lora
from fakes.lora import write_lora
from pydantic import ValidationError

from xinfer.api.launching import LaunchBody, launch_request
from xinfer.catalog import builtin, read_adapter
from xinfer.cli.adapter_options import repeat_lists
from xinfer.engines.vllm import adapters as vllm
from xinfer.engines.vllm.sleep import accepts_sleep
from xinfer.errors import InvalidRequest
from xinfer.spec import Adapter, Format

DEMO = next(spec for spec in builtin().find("demo-chat") if spec.format is Format.SAFETENSORS)
DEMO_GGUF = next(spec for spec in builtin().find("demo-chat") if spec.format is Format.GGUF)
OTHER = {"mlp.down_proj": (64, 32)}


def read(folder, spec=DEMO):
    return read_adapter(Adapter(name="a", path=str(folder)), spec)


def reconfigure(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def test_an_adapter_says_its_rank_and_what_it_was_made_for(tmp_path):
    folder = reconfigure(write_lora(tmp_path / "a", seed=1, rank=8), rank_pattern={"o_proj": 24})
    assert read(folder) == Adapter(name="a", path=str(folder), rank=24, base="demo-chat")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"), "can run code"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"12345678901"), "cut off"),
        (lambda folder: reconfigure(folder, peft_type="LOHA"), "no LoRA adapter"),
        (lambda folder: reconfigure(folder, r=0), "no LoRA adapter"),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path, spoil, reason):
    folder = write_lora(tmp_path / "a", seed=1)
    spoil(folder)
    with pytest.raises(InvalidRequest, match=reason):
        read(folder)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match=r"made for llama.*32 x 64 in the adapter and 128 x 384 in the model"):
        read(write_lora(tmp_path / "shape", seed=1, modules=OTHER, base="llama"))
    with pytest.raises(InvalidRequest, match=r"no module layers\.7\.mlp\.down_proj"):
        read(write_lora(tmp_path / "layers", seed=1, layers=(7,)))
    elsewhere = msgspec.structs.replace(DEMO, source=str(tmp_path / "on-workers-only"))
    assert read(tmp_path / "shape", elsewhere).rank == 4, "where the model cannot be read, its engine judges"


def test_a_gguf_adapter_says_its_rank_and_what_it_was_made_for(tmp_path):
    shapes = {"blk.0.ffn_down.weight": (384, 128)}
    file = write_gguf_lora(tmp_path / "a.gguf", seed=1, shapes=shapes, architecture="qwen3", rank=6)
    assert read(file, DEMO_GGUF) == Adapter(name="a", path=str(file), rank=6, base="toy")
    with pytest.raises(InvalidRequest, match="give the folder that peft wrote"):
        read(file, DEMO)


@pytest.mark.parametrize(
    ("architecture", "shapes", "reason"),
    [
        ("llama", {"blk.0.ffn_down.weight": (384, 128)}, r"made for toy: its architecture is llama and the .* qwen3"),
        ("qwen3", {"blk.0.ffn_down.weight": (64, 32)}, "32 x 64 in the adapter and 128 x 384 in the model"),
        ("qwen3", {"blk.7.ffn_down.weight": (384, 128)}, r"no tensor blk\.7\.ffn_down"),
    ],
)
def test_a_gguf_adapter_of_another_model_is_refused(tmp_path, architecture, shapes, reason):
    file = write_gguf_lora(tmp_path / "a.gguf", seed=1, shapes=shapes, architecture=architecture)
    with pytest.raises(InvalidRequest, match=reason):
        read(file, DEMO_GGUF)
    elsewhere = msgspec.structs.replace(DEMO_GGUF, source=str(tmp_path / "on-workers-only.gguf"))
    assert read(file, elsewhere).rank == 4, "where the model cannot be read, its engine judges"


def test_a_gguf_file_that_is_no_adapter_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf_bytes({"general.architecture": "qwen3"}, {}))
    with pytest.raises(InvalidRequest, match="no LoRA adapter"):
        read(file, DEMO_GGUF)
    file.write_bytes(b"GGUF")
    with pytest.raises(InvalidRequest, match=r"adapter 'a'.*cut off"):
        read(file, DEMO_GGUF)


def adapters_in(**body):
    return [(one.name, one.path) for one in launch_request(LaunchBody(model_name="m", **body)).adapters]


@pytest.mark.parametrize(
    "modules", [["a=/x", "b=/y"], [{"name": "a", "path": "/x"}, "b=/y"], {"a": "/x", "b": "/y"}, None, "a=/x"]
)
def test_the_words_of_a_launch(modules):
    expected = [("a", "/x"), ("b", "/y")]
    count = 0 if modules is None else 1 if isinstance(modules, str) else 2
    assert adapters_in(lora_modules=modules) == expected[:count]


def test_the_words_of_xinference():
    config = {"lora_list": [{"lora_name": "a", "local_path": "/x"}], "image_lora_load_kwargs": None}
    assert adapters_in(peft_model_config=config, lora_modules=["b=/y"]) == [("b", "/y"), ("a", "/x")]


@pytest.mark.parametrize(
    "body",
    [
        {"lora_modules": ["a"]},
        {"lora_modules": ["=x"]},
        {"peft_model_config": {"lora_list": [{"lora_name": "a", "local_path": "/x", "lora_scale": 0.5}]}},
        {"peft_model_config": {"image_lora_fuse_kwargs": {"scale": 1}}},
    ],
)
def test_words_that_cannot_be_meant(body):
    with pytest.raises(InvalidRequest) as refused:
        adapters_in(**body)
    assert refused.value.param == next(iter(body))


def test_entries_without_a_path_are_no_launch():
    with pytest.raises(ValidationError):
        LaunchBody(model_name="m", lora_modules=[{"name": "a"}])


def test_an_option_with_several_words():
    line = "demo --lora-modules a=x b=y --replica 2 --lora-modules c=z last -lm d w"
    joined = "demo --lora-modules a=x --lora-modules b=y --replica 2 --lora-modules c=z last -lm d w"
    assert repeat_lists(line.split()) == joined.split()


# vLLM


def adapter(rank):
    return Adapter(name="a", path="/a", rank=rank)


def test_vllm_is_started_with_room_for_the_adapters_of_a_launch():
    assert vllm.options_with_adapters({"seed": 1}, []) == {"seed": 1}
    made = vllm.options_with_adapters({"max_loras": 2}, [adapter(4), adapter(33)])
    assert made == {"enable_lora": True, "max_lora_rank": 64, "max_loras": 2}
    assert vllm.options_with_adapters({"enable_lora": True}, [])["max_lora_rank"] == 16
    assert vllm.options_with_adapters({}, [adapter(8)] * 20)["max_loras"] == 8


@pytest.mark.parametrize(
    ("options", "rank", "reason"),
    [
        ({}, 8, "--enable-lora"),
        ({"enable_lora": True}, 17, "--max-lora-rank 32"),
        ({"enable_lora": True, "max_lora_rank": 512}, 600, "at most 512"),
        ({"enable_lora": True, "max_lora_rank": "many"}, 8, "must be one of"),
        ({"enable_lora": True, "max_lora_rank": 64}, 64, ""),
    ],
)
def test_vllm_says_why_it_takes_no_more(options, rank, reason):
    match = vllm.accepts_adapter(options, adapter(rank))
    assert match.ok == (not reason)
    assert reason in match.reason


def test_vllm_sleeps_where_it_was_started_for_that():
    assert accepts_sleep({"enable_sleep_mode": True}, 2).ok
    assert "--enable-sleep-mode" in accepts_sleep({}, 1).reason
    assert "1 and 2" in accepts_sleep({"enable_sleep_mode": True}, 3).reason
    assert accepts_sleep({"enable_sleep_mode": True, "enable_lora": True}, 1).ok
    assert "level 1 only" in accepts_sleep({"enable_sleep_mode": True, "enable_lora": True}, 2).reason
