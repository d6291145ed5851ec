"""Launching what is in the catalog while its weights are nowhere on this machine: what a user is told."""

import socket

import pytest

from xinfer import plugins
from xinfer.catalog import builtin
from xinfer.devices import Device
from xinfer.errors import InvalidRequest
from xinfer.protocol import EngineOffer, LaunchRequest, WorkerHello
from xinfer.supervisor.peaks import Peaks, memory_of_engines
from xinfer.supervisor.registry import Registry

WORKER = WorkerHello(
    worker_id="w",
    incarnation="1",
    name="w",
    address="w:7000",
    host_id="w",
    version="0",
    devices=(Device(device_id="cpu0", kind="cpu", memory_mib=64_000, cores=4),),
    engines={name: EngineOffer(ok=True) for name in plugins.engines()},
)
REGISTRY = Registry(builtin(), plugins.engines())
ESTIMATING = Registry(builtin(), plugins.engines(), Peaks((), memory_of_engines(plugins.engines())).estimates)


def refusal(model_name, **words):
    with pytest.raises(InvalidRequest) as refused:
        REGISTRY.resolve(LaunchRequest(model_name=model_name, **words), [WORKER], now=1.0)
    return refused.value


def meant(model_name, **words):
    return REGISTRY.resolve(LaunchRequest(model_name=model_name, **words), [WORKER], now=1.0).spec


def test_weights_that_are_on_hubs_only_are_downloaded_by_whoever_runs_them():
    found = meant("qwen3", model_size_in_billions="0.6b", model_format="gguf", quantization="Q4_K_M")
    assert found.source == "hf:unsloth/Qwen3-0.6B-GGUF#Qwen3-0.6B-Q4_K_M.gguf"
    assert found.mirrors == ("ms:unsloth/Qwen3-0.6B-GGUF#Qwen3-0.6B-Q4_K_M.gguf",)
    assert found.weights_mib == 349


def test_an_estimate_needs_no_weights():
    error = refusal("qwen3", model_size_in_billions="30b-a3b", model_format="awq")
    assert "no such model_format" in error.message
    request = LaunchRequest(model_name="qwen3", model_size_in_billions=14, model_format="awq")
    found = REGISTRY.resolve(request, [WORKER], now=1.0)
    assert (found.spec.quantization, found.spec.source) == ("awq-int4", "hf:Qwen/Qwen3-14B-AWQ")
    assert found.engine in {"vllm", "sglang", "mlx"}, "engines that may read quantized weights"
    assert found.spec.shape.layers == 40


PICKLED = "sensevoice-small"
"""Of a kind that is served, but not its files."""


def test_a_model_that_no_engine_can_read_says_so():
    assert f"no engine can serve {PICKLED!r} here" in refusal(PICKLED).message


@pytest.mark.parametrize(
    "name", [name for name in builtin().names() if builtin().find(name)[0].ops and name != PICKLED]
)
def test_every_model_of_a_served_kind_has_an_engine_and_an_estimate_without_the_network(name, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    found = ESTIMATING.resolve(LaunchRequest(model_name=name), [WORKER], now=1.0)
    assert found.spec.name == name
    assert all(one.needed_mib > 0 for one in found.estimates)
    assert {one.device_kind for one in found.estimates} == {"cpu", "accelerator"}


def test_the_name_alone_means_the_default_size():
    found = meant("QWEN3")
    assert (found.size_in_billions, found.format, found.quantization) == (8, "gguf", "Q4_K_M"), "best on a CPU"


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B", "ms:Qwen/Qwen3-0.6B"])
def test_a_repository_of_the_catalog_is_its_model(name):
    found = meant(name)
    assert (found.name, found.size_in_billions, found.format) == ("qwen3", 0.6, "safetensors")


def test_of_any_other_repository_nothing_is_known():
    assert "me/mine is not in the catalog" in refusal("hf:me/mine").message
    assert "xinfer models pull 'hf:me/mine' downloads them" in refusal("hf:me/mine").message
    assert "me/mine is not in the catalog" in refusal("mine", model_path="ms:me/mine").message
    assert "should be like hf:OWNER/NAME" in refusal("hf:mine").message


@pytest.mark.parametrize(
    ("name", "kind"),
    [("kokoro", "speech-synthesis"), ("sdxl", "image")],
)
def test_a_kind_that_nothing_serves_is_said_first(name, kind):
    error = refusal(name)
    assert f"is a model for {kind}, which no engine here serves" in error.message
    assert "LLM, embedding, rerank" in error.message
    assert error.param == "model_type"


def test_an_engine_without_files_serves_no_such_kind_either():
    assert "no engine here serves" in refusal("tts-1", model_engine="remote", model_type="speech-synthesis").message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gemma", "did you mean embeddinggemma or gemma-2-it or gemma-3-it"),
        ("bge-large", "did you mean bge-large-en-v1.5 or bge-large-zh-v1.5"),
        ("qwen33", "did you mean qwen3"),
        ("zzz", "xinfer models catalog"),
    ],
)
def test_a_name_that_is_none_leads_to_one(name, hint):
    assert hint in refusal(name).message


def test_what_is_in_the_package_is_launched_as_ever():
    found = REGISTRY.resolve(LaunchRequest(model_name="demo-chat"), [WORKER], now=1.0)
    assert found.spec.source.startswith("builtin:demo-chat")
