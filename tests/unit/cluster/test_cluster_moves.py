"""Replicas that have to leave their place: a lost device, a drained worker."""

import msgspec
import pytest

from xinfer.errors import NoCapacity
from xinfer.routes import Availability
from xinfer.spec import ReplicaState
from xinfer.supervisor import admission, views
from xinfer.supervisor.events import SendAssignments


def reasons(world, uid="m"):
    return {one.replica_id: one.reason for one in views.statuses(world.cluster.models[uid], world.cluster.workers)}


def devices_of(world, uid="m"):
    return {
        replica.replica_id: [piece.device_id for piece in replica.leader.slices]
        for replica in world.cluster.models[uid].replicas.values()
    }


# A device that is lost.


def test_what_serves_on_a_lost_device_serves_until_its_replacement_does(world, deployment, gpu, of):
    a = world.worker("a", devices=[gpu(0), gpu(1)])
    world.set(deployment())
    a.obey()
    commands = a.lose("gpu-0")
    # One decision: the new place is assigned at once.
    (sent,) = of(SendAssignments, commands)
    assert [item.replica_id for item in sent.assignments.items] == ["m-0", "m-1"]
    assert devices_of(world) == {"m-0": ["gpu-0"], "m-1": ["gpu-1"]}
    assert world.instances_routed() == ["m-0"]
    assert reasons(world)["m-0"] == (
        "device gpu-0 of worker a is not healthy: it is not there any more; it serves until another replica does"
    )
    a.obey()
    assert devices_of(world) == {"m-1": ["gpu-1"]}
    assert world.instances_routed() == ["m-1"]


def test_one_of_several_is_taken_out_of_service_at_once(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0)])
    b = world.worker("b", devices=[gpu(0)])
    world.set(deployment(replicas=2))
    a.obey()
    b.obey()
    a.lose("gpu-0")
    assert world.instances_routed() == ["m-1"]
    assert {worker for worker, _ in world.places().values()} == {"b"}
    assert world.route().availability is Availability.READY


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.FAILED])
def test_what_does_not_serve_is_replaced_at_once(world, deployment, gpu, state):
    a = world.worker("a", devices=[gpu(0)])
    world.set(deployment())
    before = world.places()["m-0"]
    a.obey(state, reason="no room for m-0: there is no device 'gpu-0', or not any more")
    b = world.worker("b", devices=[gpu(0)])
    a.lose("gpu-0")
    worker, generation = world.places()["m-0"]
    assert worker == "b"
    assert generation > before[1]
    b.obey()
    assert world.instances_routed() == ["m-0"]


def test_a_device_that_is_not_there_any_more_is_lost_too(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0), gpu(1)])
    world.set(deployment())
    a.obey(ReplicaState.STARTING)
    a.hello = msgspec.structs.replace(a.hello, devices=(gpu(1),))
    a.restart()
    assert devices_of(world) == {"m-0": ["gpu-1"]}


def test_with_nowhere_to_go_it_stays_and_says_so(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0), gpu(1, memory_mib=50)])
    world.set(deployment())
    a.obey()
    a.lose("gpu-0", "uncorrectable memory errors")
    assert devices_of(world) == {"m-0": ["gpu-0"]}
    assert world.instances_routed() == ["m-0"]
    assert reasons(world)["m-0"] == (
        "device gpu-0 of worker a is not healthy: uncorrectable memory errors; it cannot be moved: "
        "a replica of 'm' needs 100 MiB on one device: a: device gpu-0 is not healthy: uncorrectable memory errors, "
        "device gpu-1 falls short by 50 MiB (50 of 50 MiB free)"
    )
    world.worker("b", devices=[gpu(0)])
    assert world.places()["m-1"][0] == "b"


def test_what_failed_with_its_device_waits_for_a_place_and_comes_back_with_it(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0)])
    world.set(deployment())
    a.obey(ReplicaState.FAILED, reason="CUDA error")
    a.lose("gpu-0")
    assert world.places() == {}
    assert "device gpu-0 is not healthy: it is not there any more" in reasons(world)["m-0"]
    assert not world.cluster.models["m"].failed
    a.become("gpu-0", healthy=True, health_reason="")
    assert devices_of(world) == {"m-0": ["gpu-0"]}


def test_a_device_that_comes_and_goes_moves_its_replica_once(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0), gpu(1)])
    world.set(deployment())
    a.obey()
    a.lose("gpu-0")
    a.become("gpu-0", healthy=True, health_reason="")
    assert devices_of(world) == {"m-0": ["gpu-0"], "m-1": ["gpu-1"]}  # the move is carried through
    a.obey()
    places = world.places()
    for _ in range(5):
        a.lose("gpu-0")
        a.become("gpu-0", healthy=True, health_reason="")
        a.obey()
    assert world.places() == places
    assert devices_of(world) == {"m-1": ["gpu-1"]}


def test_the_replicas_of_a_worker_that_only_says_hello_again_are_not_adopted_twice(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0), gpu(1, memory_mib=50)])
    world.set(deployment())
    a.obey(ReplicaState.STARTING)
    a.lose("gpu-0")  # nowhere to go: it may still come up
    assert devices_of(world) == {"m-0": ["gpu-0"]}
    b = world.worker("b", devices=[gpu(0)])
    assert world.places()["m-0"][0] == "b"
    a.join()
    assert world.places()["m-0"][0] == "b"
    b.obey()
    assert world.instances_routed() == ["m-0"]


def test_whose_replacement_failed_stays_when_its_device_is_well_again(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0)])
    world.set(deployment())
    a.obey()
    b = world.worker("b", devices=[gpu(0)])
    a.lose("gpu-0")
    b.obey(ReplicaState.FAILED, reason="out of memory")
    assert world.instances_routed() == ["m-0"]
    assert world.places().keys() == {"m-0", "m-1"}
    a.become("gpu-0", healthy=True, health_reason="")
    assert world.places().keys() == {"m-0"}
    assert world.instances_routed() == ["m-0"]


# Cordon and drain.


def test_a_cordoned_worker_takes_nothing_new_and_keeps_what_it_has(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    world.cordon("a")
    with pytest.raises(NoCapacity, match="a: device cpu0 is cordoned, it takes nothing new"):
        admission.launched(world.cluster, deployment("n"))
    answer = admission.explained(world.cluster, deployment("n"))
    assert answer["explanation"]["reasons"] == {"Cordoned": 1}
    assert world.instances_routed() == ["m-0"]
    world.uncordon("a")
    assert admission.launched(world.cluster, deployment("n"))


def test_a_cordoned_device_leaves_the_others_of_its_worker(world, deployment, gpu):
    world.worker("a", devices=[gpu(0), gpu(1)])
    world.cordon("a", "gpu-0")
    world.set(deployment(replicas=2))
    assert devices_of(world) == {"m-0": ["gpu-1"], "m-1": ["gpu-1"]}


def test_a_drained_worker_gives_up_one_after_the_other_without_a_gap(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.cordon("b")
    world.set(deployment(replicas=3))
    a.obey()
    world.uncordon("b")
    world.cordon("a", drain=True)
    served = []
    for _ in range(3):
        moving = [one.replica_id for one in world.cluster.models["m"].replicas.values() if one.moving]
        assert len(moving) == 1
        served.append(len(world.instances_routed()))
        b.obey()
        a.obey()
    assert served == [3, 3, 3]
    assert {worker for worker, _ in world.places().values()} == {"b"}
    assert len(world.instances_routed()) == 3
    assert a.statuses == {}


def test_a_drained_device_empties_and_others_of_the_worker_take_its_replicas(world, deployment, gpu):
    a = world.worker("a", devices=[gpu(0), gpu(1)])
    world.set(deployment(replicas=2))
    a.obey()
    world.cordon("a", "gpu-1", drain=True)
    a.obey()
    assert sorted(piece for pieces in devices_of(world).values() for piece in pieces) == ["gpu-0", "gpu-0"]


def test_what_fits_nowhere_else_stays_and_does_not_hold_up_the_others(world, deployment):
    a = world.worker("a")
    world.set(deployment("big", memory_mib=600))
    world.set(deployment("small", revision=2))
    a.obey()
    world.worker("b", memory_mib=500)
    world.cordon("a", drain=True)
    assert world.cluster.models["small"].replicas["small-1"].leader.worker_id == "b"
    assert reasons(world, "big")["big-0"].startswith(
        "worker a is drained; it cannot be moved: a replica of 'big' needs"
    )
    assert "b: device cpu0 falls short by 100 MiB" in reasons(world, "big")["big-0"]


def test_a_drain_that_is_called_off_leaves_everything_where_it_is(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.cordon("b")
    world.set(deployment(replicas=2))
    a.obey()
    before = world.places()
    world.uncordon("b")
    world.cordon("a", drain=True)
    assert len(world.places()) == 3
    world.cordon("a")  # takes nothing new, but keeps what it has
    assert world.places() == before
    b.obey()
    assert b.statuses == {}


def test_scaling_down_while_moving_stops_the_one_that_moves(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.cordon("b")
    world.set(deployment(replicas=2))
    a.obey()
    world.uncordon("b")
    world.cordon("a", drain=True)
    world.set(deployment(replicas=1))
    b.obey()
    a.obey()
    b.obey()
    assert {worker for worker, _ in world.places().values()} == {"b"}
    assert len(world.instances_routed()) == 1


def test_a_drain_goes_on_after_a_restart_of_the_supervisor(world, deployment, restarted):
    a, b = world.worker("a"), world.worker("b")
    world.cordon("b")
    world.set(deployment())
    a.obey()
    world.uncordon("b")
    world.cordon("a", drain=True)
    b.obey(ReplicaState.STARTING)
    new = restarted(world)
    a.world = b.world = new
    a.join()
    b.join()
    for _ in range(3):
        a.obey()
        b.obey()
    assert {worker for worker, _ in new.places().values()} == {"b"}
    assert len(new.instances_routed()) == 1


def test_of_two_that_serve_after_a_restart_the_one_that_may_stay_is_kept(world, deployment, restarted):
    a, b = world.worker("a"), world.worker("b")
    world.cordon("b")
    world.set(deployment())
    a.obey()
    world.uncordon("b")
    world.cordon("a", drain=True)
    new = restarted(world)
    a.world = b.world = new
    item = world.cluster.workers["b"].assignments.items[0]
    ready = msgspec.structs.replace(a.statuses["m-0"], replica_id=item.replica_id, generation=item.generation)
    b.statuses = {item.replica_id: ready}
    a.join()
    b.join()
    assert {worker for worker, _ in new.places().values()} == {"b"}
