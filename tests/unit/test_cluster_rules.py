"""Each rule of the cluster core on its own, with a cluster of two made-up workers."""

import msgspec
import pytest

from xinfer.devices import Device
from xinfer.errors import Conflict, InvalidRequest, NoCapacity, NotFound, NotReady, UnknownModel
from xinfer.ops import Kind
from xinfer.protocol import EngineOffer, ReplicaStatus, ReplicaView, WorkerHello, WorkerReport
from xinfer.routes import Availability, Endpoint
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState, ResourceRequest
from xinfer.supervisor import admission, views
from xinfer.supervisor.cluster import GENERATIONS_PER_EPOCH, Cluster, Patience
from xinfer.supervisor.events import (
    DeploymentRemoved,
    DeploymentSet,
    ForgetWorker,
    ProbeReplicas,
    PublishRoutes,
    RememberWorker,
    ReplicasProbed,
    SendAssignments,
    Tick,
    WorkerJoined,
    WorkerLeft,
    WorkerReported,
)
from xinfer.supervisor.placement.least_committed import POLICY

TIMEOUT_S = 10.0


def deployment(uid="m", *, replicas=1, revision=1, memory_mib=100, worker=None, created_at=0.0):
    return Deployment(
        model_uid=uid,
        spec=ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE),
        engine="echo",
        replicas=replicas,
        request=ResourceRequest(memory_mib=memory_mib, worker=worker),
        revision=revision,
        created_at=created_at,
    )


class FakeWorker:
    """Does at once what it is told, and keeps its replicas over restarts as a real one does."""

    def __init__(self, world, name, memory_mib=1000, engines=("echo",)):
        self.world = world
        self.hello = WorkerHello(
            worker_id=name,
            incarnation=f"{name}/1",
            name=name,
            address=f"{name}:1",
            host_id=name,
            version="0",
            devices=(Device(device_id="cpu0", kind="cpu", memory_mib=memory_mib, cores=4),),
            engines={engine: EngineOffer(True) for engine in engines},
        )
        self.sequence = 0
        self.statuses = {}

    def join(self):
        return self.world.handle(WorkerJoined(self.hello, self._report(), self.world.now))

    def restart(self):
        self.hello = msgspec.structs.replace(self.hello, incarnation=self.hello.incarnation + "+")
        return self.join()

    def report(self):
        return self.world.handle(WorkerReported(self._report(), self.world.now))

    def obey(self, state=ReplicaState.READY, **fields):
        """Run what is assigned, everything in this state."""
        old, self.statuses = self.statuses, {}
        for item in self.world.cluster.workers[self.hello.worker_id].assignments.items:
            known = old.get(item.replica_id)
            if known and known.generation == item.generation and known.state is state:
                self.statuses[item.replica_id] = known
            else:
                self.statuses[item.replica_id] = status_of(item, state, **fields)
        return self.report()

    def leave(self):
        return self.world.handle(WorkerLeft(self.hello.worker_id, self.hello.incarnation, self.world.now))

    def _report(self):
        self.sequence += 1
        return WorkerReport(
            worker_id=self.hello.worker_id,
            incarnation=self.hello.incarnation,
            sequence=self.sequence,
            replicas=tuple(self.statuses.values()),
        )


def status_of(item, state, **fields):
    instance = f"{item.replica_id}@{item.generation}"
    ready = state is ReplicaState.READY
    return ReplicaStatus(
        replica_id=item.replica_id,
        model_uid=item.deployment.model_uid,
        generation=item.generation,
        revision=item.deployment.revision,
        state=state,
        endpoint=Endpoint(item.replica_id, instance, "tcp://h:1") if ready else None,
        control_address="h:2" if ready else "",
        slices=item.slices,
        **fields,
    )


class World:
    """A cluster core with a clock that only tests move."""

    def __init__(self, *, epoch=1, deployments=(), known=(), now=1000.0):
        self.now = now
        self.cluster = Cluster(
            epoch=epoch,
            policy=POLICY,
            patience=Patience(TIMEOUT_S, settle_s=5.0),
            now=now,
            deployments=deployments,
            known_workers=known,
        )

    def handle(self, event):
        return self.cluster.handle(event)

    def worker(self, name, **fields):
        worker = FakeWorker(self, name, **fields)
        worker.join()
        return worker

    def set(self, wanted, drop=""):
        return self.handle(DeploymentSet(wanted, self.now, drop))

    def pass_time(self, seconds, step=1.0, reporting=()):
        commands = []
        end = self.now + seconds
        while self.now < end:
            self.now += step
            for worker in reporting:
                worker.report()
            commands += self.handle(Tick(self.now))
        return commands

    def places(self, uid="m"):
        return {r.replica_id: (r.worker_id, r.generation) for r in self.cluster.models[uid].replicas.values()}

    def route(self, uid="m"):
        return self.cluster.table.models[uid]

    def instances_routed(self, uid="m"):
        return [endpoint.replica_id for endpoint in self.route(uid).endpoints]


def of(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


# Placing.


def test_replicas_spread_over_workers_and_are_sent_to_them():
    world = World()
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


def test_a_heartbeat_without_news_causes_nothing():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    assert a.report() == []
    assert world.pass_time(3) == []


def test_what_does_not_fit_waits_with_the_reason_and_is_placed_when_a_worker_comes():
    world = World()
    world.worker("a", memory_mib=150)
    world.set(deployment(replicas=2))
    waiting = views.statuses(world.cluster.models["m"], world.cluster.workers)[1]
    assert waiting.state is ReplicaState.PENDING
    assert "device cpu0 falls short by 50 MiB (50 of 150 MiB free)" in waiting.reason
    world.worker("b")
    assert world.places()["m-1"][0] == "b"


def test_only_workers_with_the_engine_and_the_wanted_name_are_used():
    world = World()
    world.worker("a", engines=())
    world.worker("b")
    world.worker("c")
    world.set(deployment(replicas=2, worker="c:1"))
    assert {worker for worker, _ in world.places().values()} == {"c"}


def test_memory_of_stopping_replicas_is_not_given_out_but_admits_a_launch():
    world = World()
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


def test_scaling_keeps_what_runs():
    world = World()
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey()
    before = world.places()
    world.set(deployment(replicas=3))
    assert before.items() <= world.places().items()
    world.set(deployment(replicas=1))
    assert world.places() == {"m-0": before["m-0"]}


def test_scaling_down_gives_up_the_failed_one_first():
    world = World()
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey(ReplicaState.FAILED)
    b.obey()
    world.set(deployment(replicas=1))
    assert list(world.places()) == ["m-1"]


def test_a_removed_replica_leaves_the_others_their_names():
    world = World()
    a = world.worker("a")
    world.set(deployment(replicas=3))
    a.obey()
    world.set(admission.without_replica(world.cluster, "m", "m-1"), drop="m-1")
    assert sorted(world.places()) == ["m-0", "m-2"]
    assert world.instances_routed() == ["m-0", "m-2"]
    world.set(admission.rescaled(world.cluster, "m", 3))
    assert sorted(world.places()) == ["m-0", "m-1", "m-2"]


def test_a_new_revision_replaces_every_replica_with_a_higher_generation():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    a.obey(ReplicaState.FAILED, reason="no such file")
    assert world.route().availability is Availability.FAILED
    assert world.route().message == "no such file"
    world.set(deployment(revision=2))
    assert world.places()["m-0"][1] == GENERATIONS_PER_EPOCH + 2
    assert world.route().availability is Availability.LOADING


def test_a_failed_replica_stays_where_it_is():
    world = World()
    a = world.worker("a")
    world.worker("b")
    world.set(deployment())
    a.obey(ReplicaState.FAILED, reason="broken")
    before = world.places()
    world.pass_time(5, reporting=[a])
    assert world.places() == before


def test_a_removed_model_leaves_assignments_and_routes():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    commands = world.handle(DeploymentRemoved("m", world.now))
    assert [c.assignments.items for c in of(SendAssignments, commands)] == [()]
    assert [c.table.models for c in of(PublishRoutes, commands)] == [{}]


# Workers that go and come.


def test_a_worker_that_leaves_is_replaced_at_once():
    world = World()
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey()
    commands = a.leave()
    assert {worker for worker, _ in world.places().values()} == {"b"}
    assert world.instances_routed() == ["m-1"]
    assert of(ForgetWorker, commands) == [ForgetWorker("a")]
    assert not world.cluster.knows("a", a.hello.incarnation)


def test_a_goodbye_of_an_earlier_process_is_ignored():
    world = World()
    a = world.worker("a")
    first = a.hello.incarnation
    a.restart()
    world.handle(WorkerLeft("a", first, world.now))
    assert world.cluster.knows("a", a.hello.incarnation)


def test_replicas_of_a_lost_worker_serve_until_they_are_found_dead():
    world = World()
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


def test_what_a_lost_worker_had_not_started_is_placed_elsewhere():
    world = World()
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey(ReplicaState.STARTING)
    b.obey()
    world.pass_time(11, reporting=[b])
    assert {worker for worker, _ in world.places().values()} == {"b"}


def test_a_worker_that_comes_back_brings_its_replicas_with_it():
    world = World()
    a = world.worker("a")
    world.set(deployment(replicas=2))
    a.obey(ReplicaState.STARTING)
    before = world.places()
    world.pass_time(11)
    assert world.places() == {}
    a.report()
    assert world.places() == before


def test_a_restarted_worker_continues_with_what_it_adopted():
    world = World()
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


def test_a_model_that_served_and_lost_its_replicas_is_recovering():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    a.statuses.clear()
    a.report()
    assert world.route().availability is Availability.RECOVERING


def test_what_was_taken_away_on_purpose_is_not_adopted_again():
    world = World()
    a = world.worker("a")
    world.set(deployment(replicas=2))
    a.obey()
    world.set(deployment(replicas=1))
    a.report()
    assert list(world.places()) == ["m-0"]


def test_reports_that_were_overtaken_are_ignored():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    early = a._report()
    a.obey()
    world.handle(WorkerReported(early, world.now))
    assert world.instances_routed() == ["m-0"]


def test_a_process_that_did_not_say_hello_is_asked_to():
    world = World()
    a = world.worker("a")
    a.hello = msgspec.structs.replace(a.hello, incarnation="other")
    assert not world.cluster.ack(a._report()).known
    assert a.report() == []


def test_time_in_which_the_supervisor_slept_is_not_held_against_workers():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    a.obey()
    world.pass_time(3600, step=3600.0)
    assert world.cluster.workers["a"].alive
    world.now -= 7200
    world.handle(Tick(world.now))
    world.pass_time(11)
    assert not world.cluster.workers["a"].alive


def test_a_lost_worker_is_forgotten_after_an_hour():
    world = World()
    world.worker("a")
    world.pass_time(3605)
    assert world.cluster.workers == {}


# Restart of the supervisor.


def restarted(old, *, known=("a", "b")):
    """The world after a restart of its supervisor, with the same store."""
    models = [model.deployment for model in old.cluster.models.values()]
    return World(epoch=old.cluster.epoch + 1, deployments=models, known=known, now=old.now)


def test_a_restarted_supervisor_does_nothing_until_its_workers_are_back():
    old = World()
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


def test_settling_ends_by_time_and_what_is_missing_is_placed():
    old = World()
    a, b = old.worker("a"), old.worker("b")
    old.set(deployment(replicas=2))
    a.obey()
    b.obey()
    world = restarted(old)
    a.world = b.world = world
    a.join()
    assert world.route if world.cluster.table.version else True
    world.pass_time(6, reporting=[a])
    assert not world.cluster.settling
    assert {worker for worker, _ in world.places().values()} == {"a"}
    assert world.places()["m-1"][1] > 2 * GENERATIONS_PER_EPOCH
    # The late one finds its replica replaced, and stops it.
    b.join()
    assert world.cluster.workers["b"].assignments.items == ()


@pytest.mark.parametrize("state", [ReplicaState.DRAINING, ReplicaState.STOPPED])
def test_what_is_stopping_is_not_adopted(state):
    old = World()
    a = old.worker("a")
    old.set(deployment())
    a.obey(state)
    world = restarted(old, known=["a"])
    a.world = world
    a.join()
    assert world.places()["m-0"][1] > 2 * GENERATIONS_PER_EPOCH


def test_replicas_of_another_revision_or_of_nobody_are_not_adopted():
    old = World()
    a = old.worker("a")
    old.set(deployment())
    old.set(deployment("gone", revision=2))
    a.obey()
    world = World(epoch=2, deployments=[deployment(revision=3)], known=["a"], now=old.now)
    a.world = world
    a.join()
    assert world.places()["m-0"][1] > 2 * GENERATIONS_PER_EPOCH
    assert [item.replica_id for item in world.cluster.workers["a"].assignments.items] == ["m-0"]


def test_surplus_replicas_are_given_up_after_settling_but_never_a_ready_one_for_another():
    old = World()
    a = old.worker("a")
    old.set(deployment(replicas=3))
    a.obey()
    a.statuses["m-0"] = msgspec.structs.replace(a.statuses["m-0"], state=ReplicaState.STARTING)
    world = World(epoch=2, deployments=[deployment(replicas=2)], known=["a"], now=old.now)
    a.world = world
    a.join()
    assert sorted(world.places()) == ["m-1", "m-2"]


def test_numbers_of_a_lost_store_are_not_given_out_again():
    old = World(epoch=7)
    a = old.worker("a")
    old.set(deployment())
    a.obey()
    world = World(epoch=1, now=old.now)
    a.world = world
    a.join()
    world.set(deployment(revision=1))
    assert world.places()["m-0"][1] > 7 * GENERATIONS_PER_EPOCH


def test_without_known_workers_there_is_nothing_to_wait_for():
    world = World(epoch=2, deployments=[deployment()])
    commands = world.pass_time(1)
    assert of(PublishRoutes, commands)
    assert world.route().availability is Availability.RECOVERING
    assert world.route().message == "no worker has joined"


def test_the_store_remembers_workers_as_long_as_their_replicas_may_live():
    world = World()
    a = FakeWorker(world, "a")
    assert [c.worker_id for c in of(RememberWorker, a.join())] == ["a"]
    world.set(deployment())
    a.obey()
    assert of(ForgetWorker, world.pass_time(12)) == []
    dead = frozenset({("m-0", world.places()["m-0"][1])})
    assert of(ForgetWorker, world.handle(ReplicasProbed("a", {}, dead, world.now))) == [ForgetWorker("a")]


# What is refused.


def test_launching_without_workers_is_refused():
    with pytest.raises(NotReady, match="no worker has joined"):
        admission.launched(World().cluster, deployment())


def test_a_uid_in_use_is_refused_and_free_again_once_all_replicas_failed():
    world = World()
    a = world.worker("a", memory_mib=100)
    world.set(deployment())
    with pytest.raises(Conflict, match="in use"):
        admission.launched(world.cluster, deployment(revision=2))
    a.obey(ReplicaState.FAILED)
    admission.launched(world.cluster, deployment(revision=2))


def test_a_launch_that_does_not_fit_is_refused_with_numbers_for_every_device():
    world = World()
    world.worker("a", memory_mib=150)
    world.worker("b", memory_mib=90)
    with pytest.raises(NoCapacity) as refused:
        admission.launched(world.cluster, deployment(replicas=2))
    assert "'m' needs 100 MiB on one device (1 of 2 replicas fit)" in refused.value.message
    assert "a: device cpu0 falls short by 50 MiB (50 of 150 MiB free)" in refused.value.message
    assert "b: device cpu0 falls short by 10 MiB (90 of 90 MiB free)" in refused.value.message
    assert world.cluster.models == {}


def test_scaling_is_refused_for_unknown_models_bad_numbers_and_lack_of_room():
    world = World()
    world.worker("a", memory_mib=150)
    with pytest.raises(UnknownModel):
        admission.rescaled(world.cluster, "m", 2)
    world.set(deployment())
    with pytest.raises(InvalidRequest, match="between 1 and"):
        admission.rescaled(world.cluster, "m", 0)
    with pytest.raises(NoCapacity):
        admission.rescaled(world.cluster, "m", 2)


def test_the_last_replica_and_unknown_ones_are_not_removed():
    world = World()
    world.worker("a")
    world.set(deployment())
    with pytest.raises(NotFound):
        admission.without_replica(world.cluster, "m", "m-7")
    with pytest.raises(Conflict, match="terminate the model"):
        admission.without_replica(world.cluster, "m", "m-0")


def test_a_replica_without_a_place_can_be_removed():
    world = World()
    world.worker("a", memory_mib=150)
    world.set(deployment(replicas=2))
    assert admission.without_replica(world.cluster, "m", "m-1").replicas == 1


def test_only_a_launch_can_be_cancelled():
    world = World()
    a = world.worker("a")
    world.set(deployment())
    admission.require_cancellable(world.cluster, "m")
    a.obey()
    with pytest.raises(Conflict, match="is ready"):
        admission.require_cancellable(world.cluster, "m")


# Progress.


def test_progress_is_the_mean_and_the_stage_of_the_slowest():
    world = World()
    a, b = world.worker("a"), world.worker("b")
    world.set(deployment(replicas=2))
    a.obey()
    b.obey(ReplicaState.STARTING, stage="loading", progress=0.5)
    progress = views.progress(world.cluster.models["m"], world.cluster.workers)
    assert (progress.progress, progress.stage, progress.done) == (0.75, "loading", False)
    b.obey(ReplicaState.FAILED, reason="out of memory")
    progress = views.progress(world.cluster.models["m"], world.cluster.workers)
    assert (progress.done, progress.reason) == (True, "out of memory")
