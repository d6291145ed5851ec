"""Launches of models that have no files here, and of models that another one stands in for."""

import pytest

from xinfer import catalog, plugins
from xinfer.devices import Device
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.protocol import EngineOffer, LaunchRequest, WorkerHello
from xinfer.spec import Deployment, Format
from xinfer.supervisor.registry import Registry

GPU = Device(device_id="GPU-0", kind="cuda", memory_mib=24_000, cores=100, name="NVIDIA L4", uuid="GPU-0")
CPU = Device(device_id="cpu", kind="cpu", memory_mib=16_000, cores=8)
WORKER = WorkerHello(
    worker_id="w",
    incarnation="1",
    name="one",
    address="127.0.0.1:1",
    host_id="h",
    version="0",
    devices=(GPU, CPU),
    engines={"remote": EngineOffer(True), "echo": EngineOffer(True)},
)
OPTIONS = {"base_url": "https://api.example.com/v1"}


def resolve(model_name: str, engine: str = "remote", **words: object) -> Deployment:
    options = OPTIONS if engine == "remote" else {}
    request = LaunchRequest(model_name=model_name, model_engine=engine, **{"options": options, **words})
    return Registry(catalog.builtin(), plugins.engines()).resolve(request, [WORKER], 0.0)


def test_any_name_will_do_and_a_cpu_is_enough():
    found = resolve("openai/gpt-x")
    assert (found.model_uid, found.spec.name, found.spec.format) == ("openai/gpt-x", "openai/gpt-x", Format.NONE)
    assert found.spec.kind is Kind.LLM
    assert "chat" in found.spec.abilities
    assert found.request.device_kind == "cpu"


def test_a_name_of_the_catalog_is_not_looked_up():
    assert resolve("demo-chat").spec.format is Format.NONE


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.RERANK])
def test_the_launch_says_what_it_is(kind):
    assert resolve("far", model_type=kind.value).spec.kind is kind


def test_the_device_is_the_users_to_choose():
    assert resolve("far", n_gpu=1).request.device_kind == "accelerator"
    assert resolve("far", gpu_idx=(0,)).request.device_kind == "accelerator"


def test_what_it_cannot_be_is_refused():
    with pytest.raises(InvalidRequest) as refusal:
        resolve("far", model_format="gguf")
    assert refusal.value.param == "model_format"
    with pytest.raises(InvalidRequest, match="needs the option 'base_url'") as refusal:
        resolve("far", options={})
    assert refusal.value.param == "base_url"


def test_a_model_stands_in_for_another_but_not_for_itself():
    assert resolve("echo", "echo", fallback="far/model").fallback == "far/model"
    assert resolve("echo", "echo").fallback == ""
    for wrong in ("echo", "/absolute", "a b"):
        with pytest.raises(InvalidRequest) as refusal:
            resolve("echo", "echo", fallback=wrong)
        assert refusal.value.param == "fallback"
