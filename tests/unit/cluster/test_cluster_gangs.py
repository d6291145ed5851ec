"""Replicas that run on several workers: all members are placed, serve and start again together."""

import msgspec
import pytest

from xinfer.errors import NoCapacity
from xinfer.protocol import ReplicaView
from xinfer.routes import Availability
from xinfer.spec import ReplicaState
from xinfer.supervisor import admission, views
from xinfer.supervisor.events import ProbeReplicas, ReplicasProbed
from xinfer.supervisor.gangs import PAUSE_S, STABLE_S, START_ATTEMPTS


@pytest.fixture
def pair(world, deployment):
    """A gang on two workers that serves."""
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(workers=2))
    serve(a, b)
    return a, b


def serve(*workers):
    for worker in workers:
        worker.obey()


def gang(world):
    (replica,) = world.cluster.models["m"].replicas.values()
    return replica


def assigned(world, worker):
    return world.cluster.workers[worker.hello.worker_id].assignments.items


def status(world):
    (found,) = views.statuses(world.cluster.models["m"], world.cluster.workers)
    return found


def fail(world, worker, reason="it broke", since=0.0):
    """Its member ends, and its worker does not start it again."""
    (name,) = worker.statuses
    broken = {"state": ReplicaState.FAILED, "reason": reason, "instance": "", "endpoint": None, "since": since}
    worker.statuses[name] = msgspec.structs.replace(worker.statuses[name], **broken)
    return worker.report()


def test_each_member_is_on_a_worker_of_its_own_and_knows_its_seat(world, deployment):
    a, b, c = world.worker("a"), world.worker("b"), world.worker("c")
    world.set(deployment(workers=3))
    items = [item for worker in (a, b, c) for item in assigned(world, worker)]
    assert [item.replica_id for item in items] == ["m-0", "m-0.1", "m-0.2"]
    assert {(item.seat.gang, item.seat.size, item.generation) for item in items} == {("m-0", 3, items[0].generation)}
    assert [item.seat.rank for item in items] == [0, 1, 2]


def test_followers_hear_where_the_leader_is_when_it_has_started(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(workers=2))
    (follower,) = assigned(world, b)
    assert follower.seat.waits
    a.obey(ReplicaState.STARTING)
    (follower,) = assigned(world, b)
    assert follower.seat.rendezvous == "h:9"
    (leader,) = assigned(world, a)
    assert leader.seat.rendezvous == ""


def test_it_is_routed_to_when_every_member_is_ready(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(workers=2))
    a.obey()
    assert status(world).state is ReplicaState.STARTING
    assert world.instances_routed() == []
    b.obey()
    assert status(world).state is ReplicaState.READY
    assert world.instances_routed() == ["m-0"]
    assert [(member.worker, member.state) for member in status(world).members] == [("a", "READY"), ("b", "READY")]


def test_all_places_are_given_or_none(world, deployment):
    a = world.worker("a")
    with pytest.raises(NoCapacity, match="on one device of each of 2 workers: there is only 1 that may run it"):
        admission.launched(world.cluster, deployment(workers=2))
    world.worker("b", memory_mib=50)
    refusal = "1 of 2 have room \\(a\\); b: device cpu0 falls short by 50 MiB"
    with pytest.raises(NoCapacity, match=refusal):
        admission.launched(world.cluster, deployment(workers=2))
    world.set(deployment(workers=2))
    assert assigned(world, a) == ()
    world.worker("c")
    assert set(gang(world).worker_ids) == {"a", "c"}


def test_what_an_explanation_says_it_says_of_every_member(world, deployment):
    world.worker("a")
    world.worker("b")
    found = admission.explained(world.cluster, deployment(workers=2))
    (place,) = found["placements"]
    assert [place["worker_id"], *(one["worker_id"] for one in place["followers"])] == ["a", "b"]


@pytest.mark.parametrize("broken", [0, 1])
def test_one_that_ends_takes_all_along_and_they_return_as_the_next_generation(world, pair, broken):
    first = gang(world).leader.generation
    fail(world, pair[broken], "out of memory\nthe log", since=5.0)
    assert world.instances_routed() == []
    assert world.route().availability is Availability.RECOVERING
    assert status(world).reason.startswith(f"rank {broken} on worker {'ab'[broken]}: out of memory")
    assert gang(world).leader.generation == first, "the others still have something to say"
    world.pass_time(2 * PAUSE_S, step=PAUSE_S, reporting=pair)
    assert {item.generation for worker in pair for item in assigned(world, worker)} == {first + 1}
    serve(*pair)
    assert world.instances_routed() == ["m-0"]
    assert (status(world).restarts, status(world).reason) == (1, "")


def test_the_reason_is_that_of_the_member_that_failed_first(world, pair):
    a, b = pair
    fail(world, a, "the connection is lost", since=7.0)
    fail(world, b, "killed", since=6.0)
    assert status(world).reason == "rank 1 on worker b: killed"


def test_one_that_never_serves_is_given_up(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(workers=2))
    for _ in range(START_ATTEMPTS):
        a.obey(ReplicaState.STARTING)
        b.obey(ReplicaState.STARTING)
        fail(world, b, "no such option")
        world.pass_time(10.0, reporting=(a, b))
    assert status(world).state is ReplicaState.FAILED
    assert status(world).reason == f"given up after {START_ATTEMPTS} attempts: rank 1 on worker b: no such option"
    assert assigned(world, a) == assigned(world, b) == ()
    # The worker of the other one ends it, which is no reason to try once more.
    (name,) = a.statuses
    a.statuses[name] = msgspec.structs.replace(a.statuses[name], state=ReplicaState.DRAINING)
    a.report()
    assert status(world).state is ReplicaState.FAILED
    assert world.route().availability is Availability.FAILED


def test_pauses_grow_until_it_was_stable_for_a_while(world, pair):
    pauses = []
    for stable in (False, False, False, True):
        if stable:
            world.pass_time(STABLE_S, step=5.0, reporting=pair)
        fail(world, pair[0])
        pauses.append(gang(world).ordeal.retry_at - world.now)
        world.pass_time(10.0, reporting=pair)
        serve(*pair)
    assert pauses == [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S, PAUSE_S]


def test_a_process_that_its_worker_has_lost_sight_of_breaks_the_gang(world, pair):
    _, b = pair
    first = gang(world).leader.generation
    b.statuses.clear()
    b.restart()
    assert "its process is gone" in status(world).reason
    world.pass_time(2.0, reporting=pair)
    assert gang(world).leader.generation == first + 1


def test_members_of_a_lost_worker_serve_until_they_are_found_dead(world, pair, of):
    a, _ = pair
    c = world.worker("c")
    (probe,) = of(ProbeReplicas, world.pass_time(11, reporting=[a, c]))
    assert [one.replica_id for one in probe.statuses] == ["m-0.1"]
    assert world.instances_routed() == ["m-0"]
    view = ReplicaView(instance="", version=1, state=ReplicaState.READY)
    world.handle(ReplicasProbed("b", {"m-0.1": view}, frozenset(), world.now))
    assert world.instances_routed() == ["m-0"]
    dead = frozenset({("m-0.1", gang(world).leader.generation)})
    world.handle(ReplicasProbed("b", {}, dead, world.now))
    assert set(gang(world).worker_ids) == {"a", "c"}
    assert world.instances_routed() == []


def test_one_of_which_a_worker_leaves_goes_elsewhere(world, pair):
    a, b = pair
    first = gang(world).leader.generation
    world.worker("c")
    b.leave()
    assert set(gang(world).worker_ids) == {"a", "c"}
    assert [item.generation for item in assigned(world, a)] == [first + 1]


def test_a_drained_worker_keeps_its_member_until_another_gang_serves(world, pair):
    a, b = pair
    c, d = world.worker("c"), world.worker("d")
    world.cordon("b", drain=True)
    assert world.instances_routed() == ["m-0"]
    moved = world.cluster.models["m"].replicas["m-1"]
    assert "b" not in moved.worker_ids
    for worker in (a, b, c, d):
        worker.obey()
    assert world.instances_routed() == ["m-1"]
    assert assigned(world, b) == ()


def test_a_new_supervisor_takes_over_a_whole_gang_and_restarts_half_of_one(world, pair, restarted):
    generation = gang(world).leader.generation
    for whole in (True, False):
        again = restarted(world)
        for worker in pair:
            worker.world = again
        if not whole:
            pair[1].statuses.clear()
        for worker in pair:
            worker.join()
        assert (gang(again).leader.generation == generation) is whole
        assert again.instances_routed() == (["m-0"] if whole else [])
