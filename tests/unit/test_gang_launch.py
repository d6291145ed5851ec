"""What a launch on several workers may ask for, and how much of each it needs."""

import socket

import pytest

from xinfer.engines.base import EngineMemory, Match
from xinfer.engines.echo import ENGINE as ECHO
from xinfer.engines.transformers import ENGINE as TRANSFORMERS
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.processes import LASTING_PORTS, free_port, lasting_port
from xinfer.protocol import LaunchRequest
from xinfer.spec import Deployment, Format, ModelSpec, ResourceRequest
from xinfer.supervisor import sizing
from xinfer.supervisor.capacity import in_words, slice_request
from xinfer.supervisor.resources import resources
from xinfer.supervisor.spanning import gang_obstacle, require_gang

WEIGHTS_MIB = 4000


class Choosy(ECHO):
    """Spans workers, but not always."""

    @classmethod
    def accepts_gang(cls, options, size):
        return Match(size % 2 == 0, f"{size} is odd")


def deployment(**request):
    spec = ModelSpec(
        name="m", kind=Kind.LLM, source="/m", format=Format.SAFETENSORS, weights_mib=WEIGHTS_MIB, context_length=128
    )
    return Deployment(model_uid="m", spec=spec, engine="echo", request=ResourceRequest(**request))


def test_n_worker_is_the_number_of_workers_of_each_replica():
    assert resources(LaunchRequest(model_name="m", n_worker=3), []).workers == 3
    assert resources(LaunchRequest(model_name="m"), []).workers == 1


@pytest.mark.parametrize(
    ("words", "why"), [({"n_worker": 0}, "at least 1"), ({"n_worker": 2, "worker_ip": "w"}, "names one worker")]
)
def test_what_cannot_be_meant(words, why):
    with pytest.raises(InvalidRequest, match=why) as refused:
        resources(LaunchRequest(model_name="m", **words), [])
    assert refused.value.param == "n_worker"


def test_an_engine_for_one_worker_names_those_for_several():
    assert gang_obstacle(TRANSFORMERS, 1) == gang_obstacle(ECHO, 2) == ""
    assert gang_obstacle(TRANSFORMERS, 2).endswith("these can: echo, sglang, vllm")


def test_an_engine_may_refuse_a_size():
    require_gang(Choosy, {}, 4)
    require_gang(Choosy, {}, 1)
    with pytest.raises(InvalidRequest, match="cannot run on 3 workers: 3 is odd"):
        require_gang(Choosy, {}, 3)


def test_a_replica_is_spread_over_the_devices_of_all_its_workers():
    alone = sizing.estimate(deployment(), EngineMemory(), sizing.CPU)
    spread = sizing.estimate(deployment(devices=2, workers=2), EngineMemory(), sizing.CPU)
    assert (alone.devices, spread.devices) == (1, 4)
    assert (alone.weights_mib, spread.weights_mib) == (WEIGHTS_MIB, WEIGHTS_MIB // 4)


@pytest.mark.parametrize(
    ("devices", "workers", "words"),
    [
        (1, 1, "100 MiB on one device"),
        (2, 1, "100 MiB on each of 2 devices of one worker"),
        (1, 2, "100 MiB on one device of each of 2 workers"),
        (2, 3, "100 MiB on each of 2 devices of each of 3 workers"),
    ],
)
def test_in_words(devices, workers, words):
    wanted = deployment(devices=devices, workers=workers, memory_mib=100)
    assert in_words(slice_request(wanted), workers) == words


def test_the_port_where_members_meet_is_none_that_connections_get():
    port = lasting_port("127.0.0.1")
    assert port in LASTING_PORTS
    with socket.create_server(("127.0.0.1", port)), pytest.raises(OSError, match="in use"):
        free_port("127.0.0.1", port)
