"""How vLLM and SGLang are told that they are one of several."""

import pytest

from xinfer.devices import Seat
from xinfer.engines.sglang import gang as sglang
from xinfer.engines.vllm import gang as vllm
from xinfer.errors import InvalidRequest

LEADER = Seat(gang="m-0", rank=0, size=2, rendezvous="10.0.0.1:5000")
FOLLOWER = Seat(gang="m-0", rank=1, size=2, rendezvous="[fd00::1]:5000")
TP, PP = "tensor_parallel_size", "pipeline_parallel_size"


def test_where_they_meet():
    assert vllm.gang_arguments(LEADER) == {
        "nnodes": 2,
        "node_rank": 0,
        "master_addr": "10.0.0.1",
        "master_port": 5000,
        "distributed_executor_backend": "mp",
    }
    follower = vllm.gang_arguments(FOLLOWER)
    assert (follower["node_rank"], follower["master_addr"], follower["headless"]) == (1, "fd00::1", True)
    assert sglang.gang_arguments(FOLLOWER) == {"nnodes": 2, "node_rank": 1, "dist_init_addr": "[fd00::1]:5000"}


@pytest.mark.parametrize(
    ("cards", "options", "suggested"),
    [
        (0, {}, {TP: 2, PP: 1}),
        (4, {}, {TP: 4, PP: 2}),
        (4, {TP: "8"}, {PP: 1}),
        (4, {PP: 4}, {TP: 2}),
        (4, {TP: 2, PP: 4}, {}),
    ],
)
def test_vllm_has_groups_of_layers_by_worker_unless_something_else_is_said(cards, options, suggested):
    assert vllm.gang_suggestions(LEADER, cards, options) == suggested


def test_sglang_cuts_every_layer_over_all_cards():
    assert sglang.gang_suggestions(LEADER, 4, {}) == {"tp_size": 8, "pp_size": 1}
    assert sglang.gang_suggestions(LEADER, 4, {"tensor_parallel_size": 4}) == {"pp_size": 2}


def test_a_split_that_leaves_cards_idle_is_refused():
    with pytest.raises(
        InvalidRequest, match="3 times pipeline_parallel_size 2 is not 8, which is 4 on each of 2"
    ) as no:
        vllm.gang_suggestions(LEADER, 4, {TP: 3})
    assert no.value.param == TP


def test_what_cannot_be_shared_is_refused_before_anything_starts():
    assert vllm.accepts_gang({}, 2).ok
    assert "2 workers cannot share" in vllm.accepts_gang({TP: 3, PP: 1}, 2).reason
    assert "past what is leased" in vllm.accepts_gang({"distributed_executor_backend": "ray"}, 2).reason
    assert "past what is leased" in sglang.accepts_gang({"use_ray": True}, 2).reason


def test_sglang_on_a_cpu_gets_the_cores_of_its_machine_unless_others_are_given():
    assert sglang.cpu_environment({3, 1}, {}) == {sglang.BIND: "1,3"}
    assert sglang.cpu_environment({3, 1}, {sglang.BIND: "0|1"}) == {}
