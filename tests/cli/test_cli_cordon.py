"""``xinfer cordon``, ``uncordon``, ``drain`` and ``devices --watch`` against a scripted server."""

import itertools

import pytest
from typer.testing import CliRunner

from xinfer.cli import cordon
from xinfer.cli.main import app
from xinfer.client import Client, DeviceStatus, Unreachable, upkeep

NODE = {"worker_id": "w1", "worker": "node-7", "device": None, "cordoned": True, "draining": False, "replicas": []}
CARD = {"worker_id": "w1", "worker": "node-7", "alive": True, "device_id": "GPU-a", "kind": "cuda", "name": "L4"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(upkeep, "LOOK_S", 0.0)


@pytest.fixture
def run(api):
    return lambda *args: CliRunner().invoke(app, [*args, "-e", api.url], env={"COLUMNS": "200"})


def left(*replicas, alive=True, placed="node-7"):
    """The cluster with these replicas, by id and reason, on the worker that is drained; where their places are."""
    return {
        "workers": [
            {
                "worker_id": "w1",
                "name": "node-7",
                "alive": alive,
                "replicas": [
                    {
                        "replica_id": name,
                        "state": "READY",
                        "worker": "node-7",
                        "devices": [{"device_id": "GPU-a", "memory_mib": 1}],
                    }
                    for name, _ in replicas
                ],
            }
        ],
        "models": [
            {
                "model_uid": "m",
                "replica_statuses": [
                    {"replica_id": name, "state": "READY", "reason": reason, "worker": placed}
                    for name, reason in replicas
                ],
            }
        ],
    }


def test_a_worker_is_cordoned_by_name(api, answer, run):
    api.on("POST", "/v1/cluster/cordon", answer(body={**NODE, "replicas": ["m-0"]}))
    done = run("cordon", "node-7")
    assert (done.exit_code, done.stdout) == (0, "worker node-7 takes nothing new. 1 replica runs there.\n")
    assert api.asked[0].body == {"worker": "node-7", "device": None}


@pytest.mark.parametrize(("target", "device"), [("node-7/0", "0"), ("node-7/MIG-GPU-a/1/0", "MIG-GPU-a/1/0")])
def test_a_device_follows_its_worker_after_a_slash(api, answer, run, target, device):
    api.on("POST", "/v1/cluster/cordon", answer(body={**NODE, "device": device}))
    assert f"device {device} of worker node-7 takes nothing new. Nothing runs there." in run("cordon", target).stdout
    assert api.asked[0].body == {"worker": "node-7", "device": device}


def test_uncordoning_says_what_is_still_in_the_way(api, answer, run):
    api.on("POST", "/v1/cluster/uncordon", answer(body={**NODE, "cordoned": False}))
    assert "worker node-7 takes replicas again." in run("uncordon", "node-7").stdout
    api.on("POST", "/v1/cluster/uncordon", answer(body={**NODE, "device": "GPU-a"}))
    done = run("uncordon", "node-7/GPU-a")
    assert "device GPU-a of worker node-7 is still cordoned with its worker node-7." in done.stdout


def test_a_refusal_is_one_line(api, answer, run):
    error = {"message": "no worker is called 'x'; there are: none", "code": "not_found", "param": "worker"}
    api.on("POST", "/v1/cluster/drain", answer(404, {"error": error}))
    done = run("drain", "x")
    assert (done.exit_code, done.stderr) == (1, "Error: no worker is called 'x'; there are: none\n")


def test_a_drain_is_followed_to_its_end(api, answer, run):
    said = {**NODE, "draining": True, "replicas": ["m-0", "m-1"]}
    api.on("POST", "/v1/cluster/drain", answer(body=said))
    reason = "worker node-7 is drained; it serves until another replica does"
    looks = [left(("m-0", reason), ("m-1", "")), left(("m-1", reason)), left()]
    api.on("GET", "/v1/cluster/info", *(answer(body=look) for look in looks))
    done = run("drain", "node-7")
    assert (done.exit_code, done.stdout) == (0, "worker node-7 is empty.\n"), done.output
    assert "2/2" in done.stderr


def test_a_drain_that_takes_too_long_says_what_is_left_and_why(api, answer, run):
    api.on("POST", "/v1/cluster/drain", answer(body={**NODE, "draining": True, "replicas": ["m-0"]}))
    reason = "worker node-7 is drained; it cannot be moved: a replica of 'm' needs 9 MiB"
    api.on("GET", "/v1/cluster/info", answer(body=left(("m-0", reason))))
    done = run("drain", "node-7", "--timeout", "0")
    assert done.exit_code == 1
    assert "Error: worker node-7 still runs m-0." in done.stderr
    assert f"m-0: {reason}" in done.stderr


def test_only_replicas_of_the_device_count(api, answer, run):
    api.on("POST", "/v1/cluster/drain", answer(body={**NODE, "device": "GPU-b", "draining": True}))
    api.on("GET", "/v1/cluster/info", answer(body=left(("m-0", ""))))
    assert run("drain", "node-7/GPU-b").stdout == "device GPU-b of worker node-7 is empty.\n"


def test_a_lost_worker_is_empty_when_its_replicas_have_other_places(api, answer, run):
    api.on("POST", "/v1/cluster/drain", answer(body={**NODE, "draining": True, "replicas": ["m-0"]}))
    looks = [left(("m-0", ""), alive=False), left(("m-0", ""), alive=False, placed="node-8")]
    api.on("GET", "/v1/cluster/info", *(answer(body=look) for look in looks))
    assert run("drain", "node-7").stdout == "worker node-7 is empty.\n"


def test_a_drain_need_not_be_waited_for(api, answer, run):
    api.on("POST", "/v1/cluster/drain", answer(body={**NODE, "draining": True, "replicas": ["m-0", "m-1"]}))
    done = run("drain", "node-7", "--no-wait")
    assert done.stdout == "worker node-7 is being drained. 2 replicas run there.\n"
    assert len(api.asked) == 1


def test_ctrl_c_leaves_the_drain_running(api, answer, run, monkeypatch):
    api.on("POST", "/v1/cluster/drain", answer(body={**NODE, "draining": True, "replicas": ["m-0"]}))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cordon, "_follow", interrupted)
    done = run("drain", "node-7")
    assert done.exit_code == 130
    assert "The drain of worker node-7 goes on. Stop it: xinfer uncordon node-7" in done.stdout


# Watching.


def test_devices_come_again_when_they_change_and_when_nobody_answers(api, answer):
    error = {"error": {"message": "the supervisor does not answer", "code": "supervisor_unreachable"}}
    one, two = [{**CARD, "used_mib": 1}], [{**CARD, "used_mib": 2}]
    replies = [answer(body=one), answer(body=one), answer(503, error), answer(503, error), answer(body=two)]
    api.on("GET", "/v1/cluster/devices", *replies)
    with Client(api.url) as client:
        seen = list(itertools.islice(client.follow_devices(), 3))
    assert [(found[0].used_mib, trouble) for found, trouble in seen] == [
        (1, ""),
        (1, "the supervisor does not answer"),
        (2, ""),
    ]


def test_who_was_never_answered_is_told_so(api, answer):
    api.on("GET", "/v1/cluster/devices", answer(503, {"error": {"message": "away", "code": "not_ready"}}))
    with Client(api.url) as client, pytest.raises(Exception, match="away"):
        next(client.follow_devices())


def test_watching_draws_each_change_and_ends_with_ctrl_c(run, monkeypatch):
    def follow(_):
        card = DeviceStatus(**CARD, memory_mib=100, capacity_mib=90, free_mib=90)
        yield [card], ""
        yield [card], Unreachable("nothing answers").message
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "follow_devices", follow)
    done = run("devices", "--watch")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("cuda:0 L4") == 2
    assert "90 of 90 MiB" in done.stdout
    assert "nothing answers" in done.stdout


def test_watching_is_for_people(run):
    done = run("devices", "--watch", "--json")
    assert done.exit_code == 2
    assert "--json" in done.stderr


def test_the_status_shows_who_takes_nothing_new(api, answer, run):
    workers = [
        {"worker_id": "1", "name": "node-7", "alive": True, "cordoned": True, "draining": True},
        {"worker_id": "2", "name": "node-8", "alive": True, "cordoned": True},
        {
            "worker_id": "3",
            "name": "node-9",
            "alive": True,
            "devices": [
                {"device_id": "gpu-0", "cordoned": True},
                {"device_id": "gpu-1", "cordoned": True, "draining": True},
                {"device_id": "gpu-2"},
            ],
        },
    ]
    api.on("GET", "/v1/cluster/info", answer(body={"workers": workers}))
    shown = run("status").stdout
    assert shown.count("draining") == shown.count("cordoned") == 2
    assert "gpu-0 cordoned" in shown
    assert "gpu-1 draining" in shown
