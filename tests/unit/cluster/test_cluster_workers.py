"""Workers that go, come back, or fall silent."""

import msgspec

from xinfer.protocol import ReplicaView
from xinfer.routes import Availability
from xinfer.spec import ReplicaState
from xinfer.supervisor.events import (
    ForgetWorker,
    ProbeReplicas,
    ReplicasProbed,
    Tick,
    WorkerLeft,
    WorkerReported,
)


def test_a_worker_that_leaves_is_replaced_at_once(world, deployment, of):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey()
    commands = a.leave()
    assert {worker for worker, _ in world.places().values()} == {"b"}
    assert world.instances_routed() == ["m-1"]
    assert of(ForgetWorker, commands) == [ForgetWorker("a")]
    assert not world.cluster.knows("a", a.hello.incarnation)


def test_a_goodbye_of_an_earlier_process_is_ignored(world):
    a = world.worker("a")
    first = a.hello.incarnation
    a.restart()
    world.handle(WorkerLeft("a", first, world.now))
    assert world.cluster.knows("a", a.hello.incarnation)


def test_replicas_of_a_lost_worker_serve_until_they_are_found_dead(world, deployment, of):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey()
    commands = world.pass_time(11, reporting=[b])
    (probe,) = of(ProbeReplicas, commands)
    assert [status.replica_id for status in probe.statuses] == ["m-0"]
    assert world.instances_routed() == ["m-0", "m-1"]
    # A second question is asked only after the first was answered.
    assert of(ProbeReplicas, world.pass_time(2, reporting=[b])) == []
    view = ReplicaView(instance="", version=1, state=ReplicaState.READY)
    world.handle(ReplicasProbed("a", {"m-0": view}, frozenset(), world.now))
    assert world.instances_routed() == ["m-0", "m-1"]
    assert of(ProbeReplicas, world.pass_time(1, reporting=[b]))
    dead = frozenset({("m-0", world.places()["m-0"][1])})
    world.handle(ReplicasProbed("a", {}, dead, world.now))
    assert world.places()["m-0"][0] == "b"
    assert world.instances_routed() == ["m-1"]
    assert world.route().availability is Availability.READY


def test_what_a_lost_worker_had_not_started_is_placed_elsewhere(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey(ReplicaState.STARTING)
    b.obey()
    world.pass_time(11, reporting=[b])
    assert {worker for worker, _ in world.places().values()} == {"b"}


def test_a_worker_that_comes_back_brings_its_replicas_with_it(world, deployment):
    a = world.worker("a")
    world.set(deployment(replicas=2))
    a.obey(ReplicaState.STARTING)
    before = world.places()
    world.pass_time(11)
    assert world.places() == {}
    a.report()
    assert world.places() == before


def test_a_restarted_worker_continues_with_what_it_adopted(world, deployment):
    a = world.worker("a")
    world.set(deployment(replicas=2))
    a.obey()
    before = world.places()
    del a.statuses["m-1"]
    a.restart()
    assert world.places() == before
    assert world.instances_routed() == ["m-0"]
    ack = world.cluster.ack(a._report(), joining=True)
    assert [item.replica_id for item in ack.assignments.items] == ["m-0", "m-1"]


def test_a_model_that_served_and_lost_its_replicas_is_recovering(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    a.statuses.clear()
    a.report()
    assert world.route().availability is Availability.RECOVERING


def test_what_was_taken_away_on_purpose_is_not_adopted_again(world, deployment):
    a = world.worker("a")
    world.set(deployment(replicas=2))
    a.obey()
    world.set(deployment(replicas=1))
    a.report()
    assert list(world.places()) == ["m-0"]


def test_reports_that_were_overtaken_are_ignored(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    early = a._report()
    a.obey()
    world.handle(WorkerReported(early, world.now))
    assert world.instances_routed() == ["m-0"]


def test_a_process_that_did_not_say_hello_is_asked_to(world):
    a = world.worker("a")
    a.hello = msgspec.structs.replace(a.hello, incarnation="other")
    assert not world.cluster.ack(a._report()).known
    assert a.report() == []


def test_time_in_which_the_supervisor_slept_is_not_held_against_workers(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    world.pass_time(3600, step=3600.0)
    assert world.cluster.workers["a"].alive
    world.now -= 7200
    world.handle(Tick(world.now))
    world.pass_time(11)
    assert not world.cluster.workers["a"].alive


def test_a_lost_worker_is_forgotten_after_an_hour(world):
    world.worker("a")
    world.pass_time(3605)
    assert world.cluster.workers == {}
