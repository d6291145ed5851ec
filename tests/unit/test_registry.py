"""From a launch in a user's words to a Deployment, with made-up engines and workers."""

from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from fakes.gguf_file import smallest_gguf

from xinfer.catalog.families import Catalog, read_family
from xinfer.devices import Device
from xinfer.engines.base import Match, NoOptions
from xinfer.errors import InvalidRequest
from xinfer.protocol import EngineOffer, LaunchRequest, WorkerHello
from xinfer.spec import Format
from xinfer.supervisor.registry import Registry, check_model_uid

FAMILY = b"""
[[models]]
name = "tiny"
aliases = ["tiny-chat"]
kind = "LLM"
abilities = ["chat"]

[[models.variants]]
format = "safetensors"
source = "%(folder)s"
size_in_billions = 0.5

[[models.variants]]
format = "gguf"
source = "%(folder)s/../unit"
quantization = "Q4_K_M"
size_in_billions = 0.5

[[models]]
name = "vectors"
kind = "embedding"

[[models.variants]]
format = "safetensors"
source = "/nowhere/vectors"
"""


class Threads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    threads: int = 1


class TorchEngine:
    name: ClassVar[str] = "torch_engine"
    formats: ClassVar = frozenset({Format.SAFETENSORS})
    install: ClassVar[str] = "pip install 'xinfer[torch-engine]'"
    preference: ClassVar[int] = 10
    Options: ClassVar = Threads

    @classmethod
    def accepts(cls, spec):
        return Match(True) if spec.format in cls.formats else Match(False, f"does not load {spec.format.value}")


class GgufEngine(TorchEngine):
    name = "gguf.engine"
    formats = frozenset({Format.GGUF})
    install = ""
    preference = 5
    Options = NoOptions


FOLDER = Path(__file__).parent
"""Stands for the weights: these engines do not look inside."""
ENGINES = {engine.name: engine for engine in (TorchEngine, GgufEngine)}
CATALOG = Catalog({"tiny": read_family(FAMILY % {b"folder": bytes(FOLDER)}, "tiny.toml")})
REGISTRY = Registry(CATALOG, ENGINES)


def worker(name, *, engines=("torch_engine", "gguf.engine"), gpus=0, missing="not installed"):
    devices = [Device(device_id="cpu0", kind="cpu", memory_mib=1000, cores=4)]
    devices += [Device(device_id=f"gpu{i}", kind="cuda", index=i, memory_mib=1000, cores=100) for i in range(gpus)]
    offers = {
        name: EngineOffer(name in engines, "" if name in engines else missing)
        for name in ("torch_engine", "gguf.engine")
    }
    return WorkerHello(
        worker_id=f"id-{name}",
        incarnation="1",
        name=name,
        address=f"{name}.host:7000",
        host_id=name,
        version="0",
        devices=tuple(devices),
        engines=offers,
    )


CPU_WORKERS = (worker("w1"), worker("w2"))


def resolve(model_name="tiny", workers=CPU_WORKERS, **fields):
    return REGISTRY.resolve(LaunchRequest(model_name=model_name, **fields), workers, now=5.0)


def refused(match, param, **fields):
    with pytest.raises(InvalidRequest, match=match) as error:
        resolve(**fields)
    assert error.value.param == param


def test_a_name_alone_takes_the_preferred_engine():
    found = resolve()
    assert (found.model_uid, found.engine, found.spec.source) == ("tiny", "torch_engine", str(FOLDER))
    assert (found.replicas, found.created_at, found.request.device_kind) == (1, 5.0, "any")


def test_an_engine_may_be_the_better_one_on_accelerators_only():
    class CardEngine(TorchEngine):
        name = "card.engine"
        preference = 1
        accelerator_preference = 99

    registry = Registry(CATALOG, {**ENGINES, CardEngine.name: CardEngine})
    offer = {CardEngine.name: EngineOffer(ok=True)}
    for gpus, chosen in ((0, "torch_engine"), (1, "card.engine")):
        hello = worker("w", gpus=gpus)
        hello = msgspec.structs.replace(hello, engines=hello.engines | offer)
        assert registry.resolve(LaunchRequest(model_name="tiny"), [hello], now=5.0).engine == chosen
        assert registry.resolve(LaunchRequest(model_name="tiny", n_gpu=None), [hello], now=5.0).engine == "torch_engine"


def test_aliases_and_case_do_not_matter():
    assert resolve("Tiny-Chat").model_uid == "tiny"


@pytest.mark.parametrize("name", ["Torch-Engine", "torch.engine", "TORCH_ENGINE"])
def test_engines_are_named_as_people_write_them(name):
    assert resolve(model_engine=name).engine == "torch_engine"


def test_the_engine_decides_between_formats():
    found = resolve(model_engine="gguf-engine")
    assert (found.spec.format, found.engine) == (Format.GGUF, "gguf.engine")


def test_weights_that_are_not_there_are_named():
    refused("torch_engine: there is nothing at /nowhere/vectors on this machine", "model_engine", model_name="vectors")


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gguf").write_bytes(smallest_gguf())
    for found in (resolve("mine.gguf"), resolve("named", model_path="./mine.gguf")):
        assert found.spec.source == str(tmp_path / "mine.gguf")
    assert resolve("named", model_path="mine.gguf").model_uid == "named"


def test_the_best_engine_that_some_worker_offers_is_taken():
    assert resolve(workers=[worker("w1", engines=["gguf.engine"])]).engine == "gguf.engine"


def test_filters_choose_a_variant():
    assert resolve(model_format="ggufv2", quantization="q4_k_m", model_size_in_billions="0_5").spec.format == "gguf"
    assert resolve(model_format="pytorch", model_type="llm").spec.format == "safetensors"


@pytest.mark.parametrize(
    ("match", "param", "fields"),
    [
        (r"no model 'tinny' .*did you mean tiny\?", "model_name", {"model_name": "tinny"}),
        (r"no model '' .*there are: tiny, vectors", "model_name", {"model_name": ""}),
        (r"no engine 'vLLM'; the known ones are: gguf.engine, torch_engine", "model_engine", {"model_engine": "vLLM"}),
        ("no model_type 'poem'; there are: LLM", "model_type", {"model_type": "poem"}),
        ("no such model_type; there is: LLM", "model_type", {"model_type": "embedding"}),
        ("no such model_format; there is: gguf, safetensors", "model_format", {"model_format": "awq"}),
        ("no such quantization; there is: Q4_K_M", "quantization", {"model_format": "gguf", "quantization": "int4"}),
        ("no such model_size_in_billions; there is: 0.5", "model_size_in_billions", {"model_size_in_billions": 7}),
        ("must be a number", "model_size_in_billions", {"model_size_in_billions": "big"}),
        ("no option 'speed'; its options are: threads", "speed", {"options": {"speed": 1}}),
        ("Expected `int`", "threads", {"options": {"threads": "many"}}),
        ("replica must be between 1 and", "replica", {"replica": 0}),
        ("replica must be between 1 and", "replica", {"replica": 5000}),
        ("memory_mib", "memory_mib", {"memory_mib": 0}),
        ("there is no GPU: .*w1.* have only a CPU", "n_gpu", {"n_gpu": 1}),
        ("there is no GPU", "gpu_idx", {"gpu_idx": (0,)}),
        ("n_gpu must be", "n_gpu", {"n_gpu": "some"}),
        ("n_gpu must be", "n_gpu", {"n_gpu": -1}),
        ("asks for none", "gpu_idx", {"n_gpu": None, "gpu_idx": (0,)}),
        ("cannot be shared by 2 replicas", "gpu_idx", {"replica": 2, "gpu_idx": (0,)}),
        (r"no worker is called '10.0.0.9'; there are: w1 \(w1.host:7000\), w2", "worker_ip", {"worker_ip": "10.0.0.9"}),
        ("environment variable", "envs", {"envs": {"A=B": "c"}}),
        ("nothing at /nowhere", "model_path", {"model_path": "/nowhere"}),
    ],
)
def test_what_is_wrong_is_named(match, param, fields):
    refused(match, param, **fields)


def test_a_missing_library_is_explained_per_engine():
    workers = [worker("w1", engines=[], missing="pip install it")]
    refused(
        "no engine can serve 'tiny' here: torch_engine, gguf.engine: no worker has it: pip install it$",
        "model_engine",
        workers=workers,
    )


@pytest.mark.parametrize("model_uid", ["a b", "..", "a/../b", "/etc", "a//b", "a/", "", "-a", "x" * 129, "a?b", "ü"])
def test_uids_that_could_not_be_in_a_url_or_a_file_name_are_refused(model_uid):
    with pytest.raises(InvalidRequest, match="no model_uid"):
        check_model_uid(model_uid)


@pytest.mark.parametrize("model_uid", ["a", "Qwen/Qwen3-0.6B", "my_model:v1", "0"])
def test_uids_that_are_fine(model_uid):
    assert check_model_uid(model_uid) == model_uid


@pytest.mark.parametrize("name", ["w2", "id-w2", "w2.host", "w2.host:7000"])
def test_a_worker_is_named_by_name_id_host_or_address(name):
    assert resolve(worker_ip=name).request.worker == name


def test_only_the_wanted_worker_has_to_offer_the_engine():
    workers = [worker("w1"), worker("w2", engines=["gguf.engine"])]
    assert resolve(workers=workers, worker_ip="w2").engine == "gguf.engine"


def test_gpus():
    workers = [worker("w1", gpus=2), worker("w2")]
    assert resolve(workers=workers, n_gpu="2").request.devices == 2
    assert resolve(workers=workers, n_gpu=1).request.device_kind == "accelerator"
    assert resolve(workers=workers, n_gpu=None).request.device_kind == "cpu"
    assert resolve(workers=workers, n_gpu=0).request.device_kind == "cpu"
    shared = resolve(workers=workers, replica=2, gpu_idx=(1, 0)).request
    assert (shared.devices, shared.device_indices) == (1, (0, 1))
    refused("needs 3 GPUs on one worker, the most there are is 2", "n_gpu", workers=workers, n_gpu=3)
    refused(r"needs 1 GPUs with index \[7\]", "gpu_idx", workers=workers, gpu_idx=(7,))
