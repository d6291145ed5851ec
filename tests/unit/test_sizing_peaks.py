"""What running replicas were seen to use, and what the next launch makes of it."""

import msgspec
import pytest

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.engines.base import EngineMemory
from xinfer.ops import Kind
from xinfer.protocol import ReplicaStatus, WorkerHello, WorkerReport
from xinfer.spec import Deployment, Format, ModelShape, ModelSpec, ReplicaState, ResourceRequest
from xinfer.supervisor.peaks import Peak, Peaks, peak_key
from xinfer.supervisor.sizing import estimate

PLAIN = EngineMemory(context_options=("max_len",), concurrency_options=("max_seqs",), dtype_options=("dtype",))
SHAPE = ModelShape(
    layers=28,
    attention_layers=28,
    hidden=1024,
    intermediate=3072,
    heads=16,
    kv_heads=8,
    head_dim=128,
    value_dim=128,
    weight_bytes={"BF16": 1200 * 1024 * 1024},
)
CPU = Device(device_id="cpu", kind="cpu", memory_mib=100_000, cores=8)
CARDS = tuple(Device(device_id=f"gpu-{n}", kind="cuda", index=n, memory_mib=80_000, cores=100) for n in (0, 1))
HELLO = WorkerHello(
    worker_id="w", incarnation="i", name="w", address="h:1", host_id="h", version="0", devices=(CPU, *CARDS), engines={}
)


def deployment(shape=None, *, options=None, devices=1, engine="plain", **spec):
    fields = {"name": "m", "kind": Kind.LLM, "source": "/m", "format": Format.SAFETENSORS, "context_length": 4096}
    return Deployment(
        model_uid="m",
        spec=ModelSpec(shape=shape, **{**fields, **spec}),
        engine=engine,
        request=ResourceRequest(devices=devices),
        options=options or {},
    )


def seen(*uses, slices=("cpu",), **changes):
    """A report of one replica and of what devices say that it uses."""
    fields = {"state": ReplicaState.READY, "served": True, "revision": 1, **changes}
    status = ReplicaStatus(
        replica_id="m-0",
        model_uid="m",
        generation=1,
        slices=tuple(DeviceSlice(device_id=name, memory_mib=5000) for name in slices),
        **fields,
    )
    used = tuple(DeviceUse(device_id=name, by_replica={"m-0": mib} if mib else {}) for name, mib in uses)
    return WorkerReport(worker_id="w", incarnation="i", sequence=1, replicas=(status,), uses=used)


def peaks(memory=PLAIN, known=()):
    return Peaks(known, lambda _: memory)


def test_the_next_launch_takes_what_was_observed_and_a_little_more():
    found, wanted = peaks(), deployment(SHAPE)
    before = found.estimates(wanted)
    assert [one.observed_mib for one in before] == [None, None]
    (peak,) = found.learn(HELLO, seen(("cpu", 2000)), {"m": wanted})
    assert (peak.mib, peak.key.device_kind, peak.key.context_length) == (2000, "cpu", 4096)
    cpu, card = found.estimates(wanted)
    assert (cpu.observed_mib, cpu.needed_mib) == (2000, 2100)
    assert cpu.per_device_mib == before[0].per_device_mib
    assert cpu.error_percent == round(100 * (cpu.per_device_mib - 2000) / 2000, 1)
    assert (card.observed_mib, card.error_percent) == (None, None)
    assert card.needed_mib == card.per_device_mib


def test_only_growth_is_written():
    found, wanted = peaks(), {"m": deployment(SHAPE)}
    written = [len(found.learn(HELLO, seen(("cpu", mib)), wanted)) for mib in (1000, 1000, 1019, 900, 1021, 1030, 1100)]
    assert written == [1, 0, 0, 0, 1, 0, 1]


def test_a_peak_is_of_one_model_engine_and_settings():
    memory = PLAIN
    key = peak_key(deployment(SHAPE), memory, "cpu")
    others = [
        deployment(SHAPE, source="/other"),
        deployment(SHAPE, quantization="awq"),
        deployment(SHAPE, engine="other"),
        deployment(SHAPE, devices=2),
        deployment(SHAPE, options={"max_len": 64}),
        deployment(SHAPE, options={"max_seqs": 64}),
        deployment(SHAPE, options={"dtype": "float32"}),
    ]
    assert len({key, *(peak_key(other, memory, "cpu") for other in others)}) == 8
    assert peak_key(deployment(SHAPE, options={"max_len": "4096"}), memory, "cpu") == key
    assert peak_key(deployment(name="echo", source="", format=Format.NONE), memory, "cpu").model == "echo"


def test_of_several_devices_the_fullest_counts():
    wanted = deployment(SHAPE, devices=2)
    (peak,) = peaks().learn(HELLO, seen(("gpu-0", 900), ("gpu-1", 1000), slices=("gpu-0", "gpu-1")), {"m": wanted})
    assert (peak.mib, peak.key.device_kind, peak.key.devices) == (1000, "accelerator", 2)


@pytest.mark.parametrize(
    "report",
    [
        seen(("cpu", None)),
        seen(),
        seen(("gpu-0", 900), slices=("gpu-0", "gpu-1")),
        seen(("cpu", 900), slices=()),
        seen(("gone", 900), slices=("gone",)),
        seen(("cpu", 900), served=False),
        seen(("cpu", 900), state=ReplicaState.STARTING),
        seen(("cpu", 900), state=ReplicaState.DRAINING),
        seen(("cpu", 900), revision=7),
    ],
)
def test_what_is_not_told_or_not_meant_is_not_learnt(report):
    assert peaks().learn(HELLO, report, {"m": deployment(SHAPE)}) == ()
    assert peaks().learn(HELLO, seen(("cpu", 900)), {}) == ()


def test_an_engine_that_fills_its_budget_teaches_nothing():
    memory, wanted = msgspec.structs.replace(PLAIN, fills_budget=True), deployment(SHAPE)
    assert peaks(memory).learn(HELLO, seen(("cpu", 70_000)), {"m": wanted}) == ()
    known = Peak(key=peak_key(wanted, memory, "cpu"), mib=70_000)
    cpu = peaks(memory, [known]).estimates(wanted)[0]
    assert (cpu.observed_mib, cpu.needed_mib) == (None, cpu.per_device_mib)


def test_a_replica_that_had_little_to_do_takes_no_room_from_the_next_one():
    wanted = deployment(SHAPE)
    idle = estimate(wanted, PLAIN, "cpu", 10)
    assert idle.needed_mib == idle.weights_mib + idle.activations_mib
    growing = msgspec.structs.replace(PLAIN, grows=True)
    assert estimate(wanted, growing, "cpu", 10).needed_mib == estimate(wanted, growing, "cpu").per_device_mib
    assert estimate(wanted, growing, "cpu", 100_000).needed_mib == 105_000
    unknown = estimate(deployment(weights_mib=1000), PLAIN, "cpu", 1100)
    assert unknown.needed_mib == 1155
