"""From a launch that says nothing about memory to what is reserved, refused and explained."""

import msgspec
import pytest

from xinfer import plugins
from xinfer.catalog import builtin
from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.errors import NoCapacity, NotReady
from xinfer.protocol import EngineOffer, LaunchRequest, ReplicaStatus, WorkerHello, WorkerReport
from xinfer.spec import ReplicaState
from xinfer.supervisor import admission
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.estimates import estimated
from xinfer.supervisor.events import WorkerJoined
from xinfer.supervisor.peaks import Peaks, memory_of_engines
from xinfer.supervisor.registry import Registry

POLICY = plugins.policies("xinfer.supervisor.placement")["spread"]
ENGINES = plugins.engines()


def cpu(memory_mib):
    return Device(device_id="cpu", kind="cpu", memory_mib=memory_mib, cores=8)


def card(memory_mib):
    return Device(device_id="gpu", kind="cuda", memory_mib=memory_mib, cores=100)


class Site:
    """A supervisor's pure parts with one worker."""

    def __init__(self, *devices):
        self.hello = WorkerHello(
            worker_id="w",
            incarnation="i",
            name="node",
            address="h:1",
            host_id="h",
            version="0",
            devices=devices,
            engines={name: EngineOffer(True) for name in ENGINES},
        )
        self.peaks = Peaks((), memory_of_engines(ENGINES))
        self.registry = Registry(builtin(), ENGINES, self.peaks.estimates)
        self.cluster = Cluster(epoch=1, policy=POLICY, patience=Patience(), now=0.0)
        if devices:
            report = WorkerReport(worker_id="w", incarnation="i", sequence=1)
            self.cluster.handle(WorkerJoined(self.hello, report, 0.0))

    def resolve(self, name, **fields):
        return self.registry.resolve(LaunchRequest(model_name=name, **fields), [self.hello], 0.0)

    def estimate(self, name, **fields):
        return estimated(self.cluster, self.resolve(name, **fields))


def test_a_model_of_the_catalog_is_sized_from_its_files():
    found = Site(cpu(10_000)).resolve("demo-chat", model_engine="transformers")
    assert found.spec.shape
    assert found.spec.shape.layers == 3
    on_cpu, on_card = found.estimates
    assert (on_cpu.device_kind, on_cpu.weights_mib, on_cpu.kv_cache_mib, on_cpu.kv_tokens) == ("cpu", 5, 120, 16_384)
    assert (on_card.device_kind, on_card.weights_mib, on_card.kv_cache_mib) == ("accelerator", 3, 60)
    embedding = Site(cpu(10_000)).resolve("demo-embed").estimates[0]
    assert (embedding.kv_cache_mib, embedding.batch_tokens, embedding.observed_mib) == (0, 4096, None)


def test_options_of_the_engine_change_it():
    site = Site(cpu(100_000))
    options = {"max_num_seqs": 128, "max_model_len": "1024", "dtype": "bfloat16", "prefill_chunk": 1024}
    found = site.resolve("demo-chat", model_engine="transformers", options=options).estimates[0]
    assert (found.context_length, found.concurrency, found.batch_tokens) == (1024, 128, 1024)
    assert (found.weights_mib, found.kv_tokens, found.kv_cache_mib) == (3, 65_536, 240)


@pytest.mark.parametrize(("devices", "kind"), [((cpu(10_000),), "cpu"), ((cpu(10_000), card(9000)), "accelerator")])
def test_it_is_the_estimate_for_the_kind_of_device_that_counts(devices, kind):
    site = Site(*devices)
    wanted = site.resolve("demo-chat", model_engine="transformers")
    (found,) = [one for one in wanted.estimates if one.device_kind == kind]
    plan = admission.explained(site.cluster, wanted)
    assert plan["request"]["memory_mib"] == found.needed_mib
    assert plan["memory"].startswith(f"estimated: weights {found.weights_mib}, KV cache {found.kv_cache_mib}, ")
    assert [piece["memory_mib"] for place in plan["placements"] for piece in place["slices"]] == [found.needed_mib]
    answer = site.estimate("demo-chat", model_engine="transformers")
    assert (answer["device_kind"], answer["fits"]) == (kind, True)
    assert answer["message"] == f"it fits on {'gpu' if kind == 'accelerator' else 'cpu'}"
    assert answer["estimates"][kind]["needed_mib"] == answer["request"]["memory_mib"] == found.needed_mib


def test_a_refusal_says_what_the_figure_is_made_of():
    site = Site(cpu(600))
    wanted = site.resolve("demo-chat", model_engine="transformers")
    with pytest.raises(NoCapacity) as refused:
        admission.launched(site.cluster, wanted)
    of_parts = "(estimated: weights 5, KV cache 120, activations 4, engine 560, safety 35 MiB)"
    assert f"needs 724 MiB on one device {of_parts}: " in refused.value.message
    answer = site.estimate("demo-chat", model_engine="transformers")
    assert not answer["fits"]
    assert answer["message"] == refused.value.message
    assert [verdict["missing_mib"] for verdict in answer["explanation"]["devices"]] == [724 - 600]


def test_memory_that_was_asked_for_is_not_explained_but_still_estimated():
    site = Site(cpu(100))
    answer = site.estimate("demo-chat", model_engine="transformers", gpumem=200)
    assert (answer["request"]["memory_mib"], answer["estimates"]["cpu"]["needed_mib"]) == (200, 724)
    assert "estimated" not in answer["message"]


def test_a_model_that_runs_already_can_be_estimated_and_its_peak_is_shown():
    site = Site(cpu(10_000))
    wanted = site.resolve("demo-embed")
    status = ReplicaStatus(
        replica_id="demo-embed-0",
        model_uid="demo-embed",
        generation=1,
        revision=wanted.revision,
        state=ReplicaState.READY,
        served=True,
        slices=(DeviceSlice(device_id="cpu", memory_mib=400),),
    )
    use = DeviceUse(device_id="cpu", by_replica={"demo-embed-0": 300})
    report = WorkerReport(worker_id="w", incarnation="i", sequence=2, replicas=(status,), uses=(use,))
    assert site.peaks.learn(site.hello, report, {"demo-embed": wanted})
    found = site.estimate("demo-embed", model_uid="another")["estimates"]["cpu"]
    assert (found["observed_mib"], found["needed_mib"]) == (300, 315)
    assert found["message"] == "observed: such a replica used 300 MiB"
    assert found["error_percent"] == round(100 * (found["per_device_mib"] - 300) / 300, 1)
    assert site.resolve("demo-embed").estimates[0].needed_mib == 315


def test_without_a_worker_there_is_nothing_to_fit_on():
    site = Site()
    wanted = msgspec.structs.replace(Site(cpu(100)).resolve("echo"))
    with pytest.raises(NotReady):
        estimated(site.cluster, wanted)
