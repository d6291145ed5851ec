"""Placing replicas, and changing what is desired."""

from xinfer.routes import Availability
from xinfer.spec import ReplicaState
from xinfer.supervisor import admission, views
from xinfer.supervisor.cluster import GENERATIONS_PER_EPOCH
from xinfer.supervisor.events import (
    DeploymentRemoved,
    PublishRoutes,
    SendAssignments,
)

# Placing.


def test_replicas_spread_over_workers_and_are_sent_to_them(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    commands = world.set(deployment(replicas=4))
    sent = {command.worker_id: [i.replica_id for i in command.assignments.items] for command in commands[:2]}
    assert sent == {"a": ["m-0", "m-2"], "b": ["m-1", "m-3"]}
    generations = [generation for _, generation in world.places().values()]
    assert generations == [GENERATIONS_PER_EPOCH + n for n in (1, 2, 3, 4)]
    assert world.route().availability is Availability.LOADING
    a.obey()
    b.obey()
    assert world.instances_routed() == ["m-0", "m-1", "m-2", "m-3"]
    assert world.route().availability is Availability.READY


def test_a_heartbeat_without_news_causes_nothing(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    assert a.report() == []
    assert world.pass_time(3) == []


def test_what_does_not_fit_waits_with_the_reason_and_is_placed_when_a_worker_comes(world, deployment):
    world.worker("a", memory_mib=150)
    world.set(deployment(replicas=2))
    waiting = views.statuses(world.cluster.models["m"], world.cluster.workers)[1]
    assert waiting.state is ReplicaState.PENDING
    assert "device cpu0 falls short by 50 MiB (50 of 150 MiB free)" in waiting.reason
    world.worker("b")
    assert world.places()["m-1"][0] == "b"


def test_only_workers_with_the_engine_and_the_wanted_name_are_used(world, deployment):
    world.worker("a", engines=())
    world.worker("b")
    world.worker("c")
    world.set(deployment(replicas=2, worker="c:1"))
    assert {worker for worker, _ in world.places().values()} == {"c"}


def test_memory_of_stopping_replicas_is_not_given_out_but_admits_a_launch(world, deployment):
    a = world.worker("a", memory_mib=100)
    world.set(deployment())
    a.obey()
    world.handle(DeploymentRemoved("m", world.now))
    new = deployment("n", revision=2)
    admission.launched(world.cluster, new)
    world.set(new)
    assert world.places("n") == {}
    assert "100 MiB of stopping replicas come back soon" in world.cluster.models["n"].pending_reason
    a.obey()
    assert world.places("n") == {"n-0": ("a", GENERATIONS_PER_EPOCH + 2)}


# Changing what is desired.


def test_scaling_keeps_what_runs(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey()
    before = world.places()
    world.set(deployment(replicas=3))
    assert before.items() <= world.places().items()
    world.set(deployment(replicas=1))
    assert world.places() == {"m-0": before["m-0"]}


def test_scaling_down_gives_up_the_failed_one_first(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey(ReplicaState.FAILED)
    b.obey()
    world.set(deployment(replicas=1))
    assert list(world.places()) == ["m-1"]


def test_a_removed_replica_leaves_the_others_their_names(world, deployment):
    a = world.worker("a")
    world.set(deployment(replicas=3))
    a.obey()
    world.set(admission.without_replica(world.cluster, "m", "m-1"), drop="m-1")
    assert sorted(world.places()) == ["m-0", "m-2"]
    assert world.instances_routed() == ["m-0", "m-2"]
    world.set(admission.rescaled(world.cluster, "m", 3))
    assert sorted(world.places()) == ["m-0", "m-1", "m-2"]


def test_a_new_revision_replaces_every_replica_with_a_higher_generation(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    a.obey(ReplicaState.FAILED, reason="no such file")
    assert world.route().availability is Availability.FAILED
    assert world.route().message == "no such file"
    world.set(deployment(revision=2))
    assert world.places()["m-0"][1] == GENERATIONS_PER_EPOCH + 2
    assert world.route().availability is Availability.LOADING


def test_a_failed_replica_stays_where_it_is(world, deployment):
    a = world.worker("a")
    world.worker("b")
    world.set(deployment())
    a.obey(ReplicaState.FAILED, reason="broken")
    before = world.places()
    world.pass_time(5, reporting=[a])
    assert world.places() == before


def test_a_removed_model_leaves_assignments_and_routes(world, deployment, of):
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    commands = world.handle(DeploymentRemoved("m", world.now))
    assert [c.assignments.items for c in of(SendAssignments, commands)] == [()]
    assert [c.table.models for c in of(PublishRoutes, commands)] == [{}]
