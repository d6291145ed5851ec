"""Cordons over HTTP, devices as their slices, and metrics of the cluster while the supervisor is there and away."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from xinfer.api.control import Supervisor
from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.errors import NotFound, SupervisorAway
from xinfer.protocol import ClusterInfo, Cordon, ReplicaStatus, WorkerHello, WorkerInfo
from xinfer.spec import ReplicaState

CARD = Device(
    device_id="GPU-a",
    kind="cuda",
    index=0,
    name="NVIDIA L4",
    uuid="GPU-a",
    memory_mib=1000,
    cores=100,
)
REPLICA = ReplicaStatus(
    replica_id="m-0",
    model_uid="m",
    generation=1,
    revision=1,
    state=ReplicaState.READY,
    slices=(DeviceSlice(device_id="GPU-a", memory_mib=400, cores_percent=20),),
)
USE = DeviceUse(device_id="GPU-a", used_mib=700, free_mib=300, by_replica={"m-0": 500}, over_limit_mib={"m-0": 100})


def cluster(*cordons, alive=True, rejects=None):
    hello = WorkerHello(
        worker_id="w1",
        incarnation="1",
        name="node-7",
        address="10.0.0.7:1",
        host_id="h",
        version="0",
        devices=(CARD,),
        engines={},
        node="machine-7",
    )
    worker = WorkerInfo(
        hello=hello, alive=alive, last_seen_s_ago=0.5, replicas=(REPLICA,), uses=(USE,), cordons=cordons
    )
    return ClusterInfo(
        epoch=1,
        version="0",
        address="a:1",
        uptime_s=1.0,
        settling=False,
        workers=(worker,),
        instances=(),
        cordons=cordons,
        rejects=rejects or {},
    )


@pytest.fixture
def supervisor(monkeypatch):
    """A supervisor that is scripted: ``answers`` by method, an exception is raised; ``asked`` is what it was asked."""

    class Scripted:
        def __init__(self):
            self.answers = {"info": cluster()}
            self.asked = []

    script = Scripted()

    async def call(_self, name, *args, timeout_s=0.0):
        if name == "routes" or name not in script.answers:
            raise SupervisorAway("not in the script")
        script.asked.append((name, *args))
        answer = script.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Supervisor, "call", call)
    return script


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({"worker": "node-7"}, ("node-7", "")),
        ({"worker": "node-7", "device": None}, ("node-7", "")),
        ({"worker": "node-7", "device": 0}, ("node-7", "0")),
        ({"worker": "node-7", "device": "GPU-a"}, ("node-7", "GPU-a")),
    ],
)
@pytest.mark.parametrize("verb", ["cordon", "drain"])
def test_a_word_of_an_operator_reaches_the_supervisor(play, supervisor, verb, body, target):
    drains = verb == "drain"
    said = Cordon(worker_id="w1", device_id="GPU-a" if target[1] else "", drain=drains)
    supervisor.answers |= {"cordon": said, "info": cluster(said)}

    async def scenario(stage):
        reply = await stage.post(f"/v1/cluster/{verb}", body)
        assert (reply.status, reply.json) == (
            200,
            {
                "worker_id": "w1",
                "worker": "node-7",
                "device": said.device_id or None,
                "cordoned": True,
                "draining": drains,
                "replicas": ["m-0"],
            },
        )

    play(scenario)
    assert supervisor.asked[0] == ("cordon", *target, drains)


def test_a_device_that_takes_replicas_again_may_be_cordoned_with_its_worker(play, supervisor):
    supervisor.answers |= {"uncordon": ("w1", "GPU-a"), "info": cluster(Cordon(worker_id="w1"))}

    async def scenario(stage):
        reply = await stage.post("/v1/cluster/uncordon", {"worker": "node-7", "device": "GPU-a"})
        assert (reply.json["device"], reply.json["cordoned"], reply.json["draining"]) == ("GPU-a", True, False)
        worker = (await stage.get("/v1/cluster/info")).json["workers"][0]
        assert (worker["cordoned"], worker["draining"]) == (True, False)

    play(scenario)


def test_a_worker_that_is_gone_can_be_uncordoned(play, supervisor):
    supervisor.answers |= {"uncordon": ("w9", "")}

    async def scenario(stage):
        reply = await stage.post("/v1/cluster/uncordon", {"worker": "w9"})
        assert (reply.status, reply.json["worker"], reply.json["cordoned"]) == (200, "w9", False)

    play(scenario)


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain"])
def test_what_cannot_be_meant_is_refused(play, supervisor, verb):
    refused = NotFound("no worker is called 'x'; there are: node-7 (10.0.0.7:1)", param="worker")
    supervisor.answers |= {"cordon": refused, "uncordon": refused}

    async def scenario(stage):
        reply = await stage.post(f"/v1/cluster/{verb}", {"worker": "x"})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "not_found", "worker")
        for body, param in (({}, "worker"), ({"worker": ""}, "worker"), ({"worker": "x", "device": [1]}, "device")):
            reply = await stage.post(f"/v1/cluster/{verb}", body)
            assert (reply.status, reply.error["param"]) == (400, param)

    play(scenario)


def test_a_device_says_what_stands_on_it(play, supervisor):
    supervisor.answers["info"] = cluster(Cordon(worker_id="w1", device_id="GPU-a"))

    async def scenario(stage):
        (card,) = (await stage.get("/v1/cluster/devices")).json
        assert (card["capacity_mib"], card["reserved_mib"], card["free_mib"]) == (1000, 400, 600)
        assert (card["used_mib"], card["others_mib"], card["device_free_mib"]) == (700, 200, 300)
        assert (card["cordoned"], card["draining"]) == (True, False)
        (piece,) = card["slices"]
        assert (piece["memory_mib"], piece["used_mib"], piece["over_limit_mib"]) == (400, 500, 100)

    play(scenario)


def samples(text):
    return {
        (sample.name, *(sample.labels.get(name, "") for name in ("replica", "device_uuid", "reason"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_has_the_devices_and_keeps_them_while_the_supervisor_is_away(play, supervisor):
    supervisor.answers["info"] = cluster(rejects={"InsufficientMemory": 3})

    async def scenario(stage):
        found = samples((await stage.get("/metrics")).body.decode())
        assert found["xinfer_device_memory_allocated_bytes", "", "GPU-a", ""] == 400 * 2**20
        assert found["xinfer_slice_memory_used_bytes", "m-0", "GPU-a", ""] == 500 * 2**20
        assert found["xinfer_placement_rejects_total", "", "", "InsufficientMemory"] == 3
        supervisor.answers["info"] = SupervisorAway("gone")
        later = samples((await stage.get("/metrics")).body.decode())
        age = ("xinfer_supervisor_age_seconds", "", "", "")
        assert later[age] > found[age] >= 0
        assert later["xinfer_device_memory_allocated_bytes", "", "GPU-a", ""] == 400 * 2**20

    play(scenario)


def test_a_scrape_of_a_gateway_that_never_met_its_supervisor_has_its_own_metrics(play, supervisor):
    supervisor.answers = {}

    async def scenario(stage):
        text = (await stage.get("/metrics")).body.decode()
        assert "xinfer_requests_total" in text
        assert "xinfer_device" not in text
        assert "xinfer_supervisor_age_seconds" not in text

    play(scenario)


def test_of_a_lost_worker_a_scrape_only_says_that_it_is_lost(play, supervisor):
    supervisor.answers["info"] = cluster(alive=False)

    async def scenario(stage):
        text = (await stage.get("/metrics")).body.decode()
        assert 'xinfer_worker_alive{node="machine-7",worker="node-7"} 0.0' in text
        assert "xinfer_device_memory_limit_bytes{" not in text

    play(scenario)
