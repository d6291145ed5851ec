"""What is refused before anything changes, and what is told about a launch."""

import msgspec
import pytest

from xinfer.errors import Conflict, InvalidRequest, NoCapacity, NotFound, NotReady, UnknownModel
from xinfer.spec import Adapter, ReplicaState
from xinfer.supervisor import admission, standing, views

# What is refused.


def test_launching_without_workers_is_refused(new_world, deployment):
    with pytest.raises(NotReady, match="no worker has joined"):
        admission.launched(new_world().cluster, deployment())


def test_a_uid_in_use_is_refused_and_free_again_once_all_replicas_failed(world, deployment):
    a = world.worker("a", memory_mib=100)
    world.set(deployment())
    with pytest.raises(Conflict, match="in use"):
        admission.launched(world.cluster, deployment(revision=2))
    a.obey(ReplicaState.FAILED)
    admission.launched(world.cluster, deployment(revision=2))


def test_a_fallback_that_is_not_launched_is_no_obstacle_but_is_said(world, deployment):
    world.worker("a")
    wanted = msgspec.structs.replace(deployment("m"), fallback="other")
    (warning,) = standing.missing_fallback(world.cluster, wanted)
    assert "'other' is not launched" in warning
    world.set(deployment("other"))
    assert standing.missing_fallback(world.cluster, wanted) == ()
    adapter = Adapter(name="tuned", path="/tuned")
    world.set(msgspec.structs.replace(deployment("other", revision=2), adapters=(adapter,)))
    assert standing.missing_fallback(world.cluster, msgspec.structs.replace(wanted, fallback="tuned")) == ()
    assert standing.missing_fallback(world.cluster, deployment("m")) == ()


def test_a_launch_that_does_not_fit_is_refused_with_numbers_for_every_device(world, deployment):
    world.worker("a", memory_mib=150)
    world.worker("b", memory_mib=90)
    with pytest.raises(NoCapacity) as refused:
        admission.launched(world.cluster, deployment(replicas=2))
    assert "'m' needs 100 MiB on one device (1 of 2 replicas fit)" in refused.value.message
    assert "a: device cpu0 falls short by 50 MiB (50 of 150 MiB free)" in refused.value.message
    assert "b: device cpu0 falls short by 10 MiB (90 of 90 MiB free)" in refused.value.message
    assert world.cluster.models == {}


def test_scaling_is_refused_for_unknown_models_bad_numbers_and_lack_of_room(world, deployment):
    world.worker("a", memory_mib=150)
    with pytest.raises(UnknownModel):
        admission.rescaled(world.cluster, "m", 2)
    world.set(deployment())
    with pytest.raises(InvalidRequest, match="between 1 and"):
        admission.rescaled(world.cluster, "m", 0)
    with pytest.raises(NoCapacity):
        admission.rescaled(world.cluster, "m", 2)


def test_the_last_replica_and_unknown_ones_are_not_removed(world, deployment):
    world.worker("a")
    world.set(deployment())
    with pytest.raises(NotFound):
        admission.without_replica(world.cluster, "m", "m-7")
    with pytest.raises(Conflict, match="terminate the model"):
        admission.without_replica(world.cluster, "m", "m-0")


def test_a_replica_without_a_place_can_be_removed(world, deployment):
    world.worker("a", memory_mib=150)
    world.set(deployment(replicas=2))
    assert admission.without_replica(world.cluster, "m", "m-1").replicas == 1


def test_only_a_launch_can_be_cancelled(world, deployment):
    a = world.worker("a")
    world.set(deployment())
    admission.require_cancellable(world.cluster, "m")
    a.obey()
    with pytest.raises(Conflict, match="is ready"):
        admission.require_cancellable(world.cluster, "m")


# Progress.


def test_progress_is_the_mean_and_the_stage_of_the_slowest(world, deployment):
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey(ReplicaState.STARTING, stage="loading", progress=0.5)
    progress = views.progress(world.cluster.models["m"], world.cluster.workers)
    assert (progress.progress, progress.stage, progress.done) == (0.75, "loading", False)
    b.obey(ReplicaState.FAILED, reason="out of memory")
    progress = views.progress(world.cluster.models["m"], world.cluster.workers)
    assert (progress.done, progress.reason) == (True, "out of memory")
