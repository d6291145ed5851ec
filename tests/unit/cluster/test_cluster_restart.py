"""A restarted supervisor settles first, and loses nothing."""

import msgspec
import pytest

from xinfer.routes import Availability
from xinfer.spec import ReplicaState
from xinfer.supervisor.cluster import GENERATIONS_PER_EPOCH
from xinfer.supervisor.events import (
    ForgetWorker,
    PublishRoutes,
    RememberWorker,
    ReplicasProbed,
    SendAssignments,
)


def test_a_restarted_supervisor_does_nothing_until_its_workers_are_back(new_world, deployment, restarted, of):
    old = new_world()
    a, b = old.worker("a"), old.worker("b")
    old.set(deployment(replicas=2))
    a.obey()
    b.obey()
    before = old.places()
    world = restarted(old)
    a.world = b.world = world
    assert of(SendAssignments, a.join()) + of(PublishRoutes, world.pass_time(1)) == []
    assert world.cluster.ack(a._report(), joining=True).assignments is None
    commands = b.join()
    assert not world.cluster.settling
    assert world.places() == before
    assert {c.worker_id for c in of(SendAssignments, commands)} == {"a", "b"}
    (publish,) = of(PublishRoutes, commands)
    assert publish.table.newer_than(old.cluster.table)
    assert len(publish.table.models["m"].endpoints) == 2


def test_settling_ends_by_time_and_what_is_missing_is_placed(new_world, deployment, restarted):
    old = new_world()
    a, b = old.worker("a"), old.worker("b")
    old.set(deployment(replicas=2))
    a.obey()
    b.obey()
    world = restarted(old)
    a.world = b.world = world
    a.join()
    world.pass_time(6, reporting=[a])
    assert not world.cluster.settling
    assert {worker for worker, _ in world.places().values()} == {"a"}
    assert world.places()["m-1"][1] > 2 * GENERATIONS_PER_EPOCH
    # The late one finds its replica replaced, and stops it.
    b.join()
    assert world.cluster.workers["b"].assignments.items == ()


@pytest.mark.parametrize("state", [ReplicaState.DRAINING, ReplicaState.STOPPED])
def test_what_is_stopping_is_not_adopted(new_world, deployment, restarted, state):
    old = new_world()
    a = old.worker("a")
    old.set(deployment())
    a.obey(state)
    world = restarted(old, known=["a"])
    a.world = world
    a.join()
    assert world.places()["m-0"][1] > 2 * GENERATIONS_PER_EPOCH


def test_replicas_of_another_revision_or_of_nobody_are_not_adopted(new_world, deployment):
    old = new_world()
    a = old.worker("a")
    old.set(deployment())
    old.set(deployment("gone", revision=2))
    a.obey()
    world = new_world(epoch=2, deployments=[deployment(revision=3)], known=["a"], now=old.now)
    a.world = world
    a.join()
    assert world.places()["m-0"][1] > 2 * GENERATIONS_PER_EPOCH
    assert [item.replica_id for item in world.cluster.workers["a"].assignments.items] == ["m-0"]


def test_surplus_replicas_are_given_up_after_settling_but_never_a_ready_one_for_another(new_world, deployment):
    old = new_world()
    a = old.worker("a")
    old.set(deployment(replicas=3))
    a.obey()
    a.statuses["m-0"] = msgspec.structs.replace(a.statuses["m-0"], state=ReplicaState.STARTING)
    world = new_world(epoch=2, deployments=[deployment(replicas=2)], known=["a"], now=old.now)
    a.world = world
    a.join()
    assert sorted(world.places()) == ["m-1", "m-2"]


def test_numbers_of_a_lost_store_are_not_given_out_again(new_world, deployment):
    old = new_world(epoch=7)
    a = old.worker("a")
    old.set(deployment())
    a.obey()
    world = new_world(epoch=1, now=old.now)
    a.world = world
    a.join()
    world.set(deployment(revision=1))
    assert world.places()["m-0"][1] > 7 * GENERATIONS_PER_EPOCH


def test_without_known_workers_there_is_nothing_to_wait_for(new_world, deployment, of):
    world = new_world(epoch=2, deployments=[deployment()])
    commands = world.pass_time(1)
    assert of(PublishRoutes, commands)
    assert world.route().availability is Availability.RECOVERING
    assert world.route().message == "no worker has joined"


def test_the_store_remembers_workers_as_long_as_their_replicas_may_live(world, new_worker, deployment, of):
    a = new_worker(world, "a")
    assert [c.worker_id for c in of(RememberWorker, a.join())] == ["a"]
    world.set(deployment())
    a.obey()
    assert of(ForgetWorker, world.pass_time(12)) == []
    dead = frozenset({("m-0", world.places()["m-0"][1])})
    assert of(ForgetWorker, world.handle(ReplicasProbed("a", {}, dead, world.now))) == [ForgetWorker("a")]
