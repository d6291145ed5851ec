"""Quantized weights on the transformers engine before any library is loaded: which are read, with which packages, who
has those, and how much memory they take."""

import msgspec
import pytest

from xinfer.devices import Device
from xinfer.engines.base import NeedsPackages
from xinfer.engines.transformers import ENGINE
from xinfer.engines.transformers.quantization import METHODS, installed, packages_for, require_installed, unreadable
from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.ops import Kind
from xinfer.protocol import EngineOffer, WorkerHello
from xinfer.spec import Deployment, EnvironmentRequest, Format, ModelShape, ModelSpec, ResourceRequest
from xinfer.supervisor.comparison import compared
from xinfer.supervisor.matching import Combination, Terms, combinations
from xinfer.supervisor.sizing import estimate

MIB = 1024 * 1024
BITS = ("accelerate", "bitsandbytes")
SHAPE = ModelShape(
    layers=2,
    attention_layers=2,
    hidden=1024,
    heads=8,
    kv_heads=8,
    head_dim=128,
    value_dim=128,
    vocabulary=32 * 1024,
    embedding_tables=1,
    parameters=96 * MIB,
    dtype="bfloat16",
    weight_bytes={"BF16": 192 * MIB},
)


def spec_of(quantization: str = "none", weights_format: Format = Format.SAFETENSORS) -> ModelSpec:
    return ModelSpec(
        name="m", kind=Kind.LLM, source="/m", format=weights_format, quantization=quantization, shape=SHAPE
    )


@pytest.mark.parametrize(
    ("quantization", "packages"),
    [
        ("none", ()),
        ("bitsandbytes-nf4", BITS),
        ("bitsandbytes-int8", BITS),
        ("compressed-tensors-int4", ("compressed-tensors",)),
        ("fp8", ("accelerate",)),
        ("mxfp4", ()),
        ("gptq-int4", ("accelerate", "gptqmodel>=7.7", "torch>=2.14.1", "transformers>=5.20.2", "optimum")),
    ],
)
def test_what_it_reads_and_with_what(quantization, packages):
    assert unreadable(quantization) == ""
    assert packages_for(spec_of(quantization), None) == packages


@pytest.mark.parametrize("quantization", ["aqlm", "modelopt-fp8", "quantized", "gptqx"])
def test_what_it_does_not_read(quantization):
    assert quantization in unreadable(quantization)
    assert "compressed-tensors" in unreadable(quantization)
    assert not ENGINE.accepts(spec_of(quantization)).ok


def test_plain_weights_only_are_quantized():
    assert issubclass(ENGINE, NeedsPackages)
    assert ENGINE.packages_for(spec_of(), {"quantize": "nf4"}) == BITS
    with pytest.raises(InvalidRequest, match="those of 'm' are awq-int4 already; launch it without"):
        ENGINE.packages_for(spec_of("awq-int4"), {"quantize": "nf4"})


def test_what_is_missing_is_named_with_what_installs_it():
    assert installed(("msgspec", "no-such-package")) == ("msgspec",)
    with pytest.raises(LoadFailed) as error:
        require_installed(("msgspec>=0.1", "no-such-package>=2"), "it is quantized")
    options = "--virtual-env-package 'msgspec>=0.1' --virtual-env-package 'no-such-package>=2'"
    assert str(error.value).endswith(f"needs no-such-package>=2 beside transformers; launch it with: {options}")


# --- who has the packages ---


def found(offer: EngineOffer, quantization: str = "bitsandbytes-nf4", **environment: object) -> Combination:
    """What becomes of the engine with some weights, on one worker."""
    hello = WorkerHello(
        worker_id="w",
        incarnation="1",
        name="w",
        address="w:1",
        host_id="w",
        version="0",
        devices=(Device(device_id="cpu0", kind="cpu", memory_mib=8000, cores=4),),
        engines={ENGINE.name: offer},
    )
    terms = Terms([hello], EnvironmentRequest(**environment), ResourceRequest())
    [one] = combinations([ENGINE], [spec_of(quantization, Format.PICKLE)], terms)  # not looked for on the disk
    return one


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr("xinfer.supervisor.matching.located", lambda spec: spec)


BARE = EngineOffer(ok=True, installable=True)
HAS = msgspec.structs.replace(BARE, packages=BITS)


def test_a_worker_that_has_them_runs_it_as_it_is():
    one = found(HAS)
    assert (one.obstacle, one.installs, one.packages) == (None, False, ())
    assert found(BARE, "none").obstacle is None


def test_a_launch_that_names_the_engine_has_them_installed():
    one = found(BARE, build=True)
    assert (one.obstacle, one.installs, one.packages) == (None, True, BITS)
    [row] = compared([(one, None)])["combinations"]
    assert row["command"] == "xinfer engine install transformers --package accelerate --package bitsandbytes"


def test_other_launches_are_told_how():
    one = found(BARE)
    assert one.obstacle is not None
    assert "needs accelerate and bitsandbytes" in one.obstacle.reason
    assert one.obstacle.reason.endswith("--model-engine transformers")
    assert one.obstacle.command == "xinfer engine install transformers --package accelerate --package bitsandbytes"
    [row] = compared([(one, None)])["combinations"]
    assert row["hindrance"] == "library"


def test_versions_are_quoted():
    one = found(BARE, "gptq-int4")
    assert one.obstacle is not None
    assert "--package 'gptqmodel>=7.7'" in one.obstacle.command


@pytest.mark.parametrize(
    ("environment", "packages"),
    [
        ({"python": "/usr/bin/python"}, ()),
        ({"packages": BITS, "build": True}, BITS),
        (
            {"packages": ("bitsandbytes==0.48", "accelerate", "x"), "build": True},
            ("accelerate", "bitsandbytes==0.48", "x"),
        ),
        ({"packages": ("bitsandbytes==0.48",), "build": True}, ("accelerate", "bitsandbytes==0.48")),
    ],
)
def test_what_the_launch_says_about_its_python_counts(environment, packages):
    request = EnvironmentRequest(**environment)
    one = found(HAS, **environment)
    assert one.obstacle is None
    assert one.environment(Terms([], request, ResourceRequest())).packages == tuple(sorted(packages))


# --- memory ---


def weights_mib(quantization: str = "none", device: str = "cpu", **options: object) -> int:
    spec = spec_of(quantization)
    deployment = Deployment(model_uid="m", spec=spec, engine=ENGINE.name, options=options)
    return estimate(deployment, ENGINE.memory, device).weights_mib


@pytest.mark.parametrize(
    ("mib", "quantization", "options"),
    [
        (384, "none", {}),  # 96 Mi weights in float32
        (192, "none", {"dtype": "bfloat16"}),
        (64 + 64, "none", {"quantize": "int8"}),  # 32 Mi of them are embeddings, in bfloat16
        (64 + 36, "none", {"quantize": "nf4"}),
        (128 + 36, "none", {"quantize": "fp4", "dtype": "float32"}),
        (192, "bitsandbytes-nf4", {}),  # as they lie in the files
        (192, "fp8", {}),  # plain ones
        (384, "compressed-tensors-int4", {"dtype": "float32"}),
    ],
)
def test_memory_is_that_of_the_weights_as_they_are_held(mib, quantization, options):
    assert weights_mib(quantization, **options) == mib


def test_an_accelerator_keeps_what_it_has_kernels_for():
    small = msgspec.structs.replace(spec_of("fp8"), shape=msgspec.structs.replace(SHAPE, weight_bytes={"F8": MIB}))
    deployment = Deployment(model_uid="m", spec=small, engine=ENGINE.name)
    assert estimate(deployment, ENGINE.memory, "accelerator").weights_mib == 1
    assert estimate(deployment, ENGINE.memory, "cpu").weights_mib == 192


def test_every_method_says_where_it_unpacks():
    assert set(ENGINE.memory.unpacks) <= set(ENGINE.memory.cpu_unpacks) <= set(METHODS)
