"""The supervisor as an actor in a real pool, with workers that only record what they are told."""

import asyncio
import contextlib
import sqlite3

import pytest
import xoscar as xo

from xinfer.devices import Device
from xinfer.errors import (
    Conflict,
    InvalidRequest,
    LaunchCancelled,
    LoadFailed,
    NoCapacity,
    NotFound,
    NotReady,
    StoreFailed,
    UnknownModel,
)
from xinfer.processes import free_port
from xinfer.protocol import (
    REPLICA_UID,
    SUPERVISOR_UID,
    WORKER_UID,
    EngineOffer,
    LaunchRequest,
    ReplicaStatus,
    ReplicaView,
    WorkerHello,
    WorkerReport,
)
from xinfer.routes import Availability, Endpoint
from xinfer.settings import Settings
from xinfer.spec import ReplicaState
from xinfer.supervisor.actor import start_supervisor

LONG_S = 20.0
"""A poll that has to end by itself, long before this."""


class RecordingWorker(xo.StatelessActor):
    def __init__(self):
        self.told = []
        self.news = asyncio.Condition()

    async def assign(self, assignments):
        async with self.news:
            self.told.append(assignments)
            self.news.notify_all()

    async def told_to_run(self, count):
        """Wait for assignments of so many replicas."""
        async with self.news:
            await self.news.wait_for(lambda: self.told and len(self.told[-1].items) == count)
            return self.told[-1]


class LivingReplica(xo.StatelessActor):
    def __init__(self, instance):
        self.instance = instance
        self.asked = asyncio.Event()

    async def peek(self, instance):
        if instance != self.instance:
            raise NotFound("another instance")
        self.asked.set()
        return ReplicaView(instance=instance, version=1, state=ReplicaState.READY)

    async def was_asked(self):
        await self.asked.wait()


class Worker:
    """The test's hand in a worker: what it reports, and its actor."""

    def __init__(self, supervisor, name, address, actor):
        self.supervisor, self.actor, self.sequence, self.statuses = supervisor, actor, 0, ()
        self.hello = WorkerHello(
            worker_id=name,
            incarnation="1",
            name=name,
            address=address,
            host_id=name,
            version="0",
            devices=(Device(device_id="cpu0", kind="cpu", memory_mib=2000, cores=4),),
            engines={"echo": EngineOffer(True)},
        )

    def _report(self):
        self.sequence += 1
        return WorkerReport(
            worker_id=self.hello.worker_id,
            incarnation=self.hello.incarnation,
            sequence=self.sequence,
            replicas=self.statuses,
        )

    async def join(self, supervisor=None):
        self.supervisor = supervisor or self.supervisor
        return await self.supervisor.join(self.hello, self._report())

    async def report(self):
        return await self.supervisor.report(self._report())

    async def run(self, assignments, state=ReplicaState.READY, control_address="127.0.0.1:1", **fields):
        self.statuses = tuple(
            ReplicaStatus(
                replica_id=item.replica_id,
                model_uid=item.deployment.model_uid,
                generation=item.generation,
                revision=item.deployment.revision,
                state=state,
                slices=item.slices,
                control_address=control_address,
                endpoint=Endpoint(item.replica_id, f"{item.replica_id}/1", "tcp://127.0.0.1:1"),
                **fields,
            )
            for item in assignments.items
        )
        return await self.report()


class Cluster:
    """Pools, supervisors and workers that end with the test."""

    def __init__(self, home, **settings):
        fields = {"heartbeat_s": 0.05, "worker_timeout_s": 60.0, "settle_s": 60.0, **settings}
        self.settings = Settings(home=home, token_file=home / "token", **fields)
        self.ending = contextlib.AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.ending.aclose()

    async def pool(self):
        address = f"127.0.0.1:{free_port('127.0.0.1')}"
        pool = await xo.create_actor_pool(address, n_process=0)
        self.ending.push_async_callback(pool.stop)
        return address

    async def supervisor(self):
        handle = await start_supervisor(self.settings, await self.pool())
        self.ending.push_async_callback(handle.stop)
        return await xo.actor_ref(uid=SUPERVISOR_UID, address=handle.actor.address)

    async def worker(self, supervisor, name):
        address = await self.pool()
        actor = await xo.create_actor(RecordingWorker, address=address, uid=WORKER_UID)
        worker = Worker(supervisor, name, address, actor)
        await worker.join()
        return worker

    async def replica(self, instance):
        address = await self.pool()
        return await xo.create_actor(LivingReplica, instance, address=address, uid=REPLICA_UID)


def scenario(test):
    """Run an async test with a fresh Cluster."""

    def run(tmp_path):
        async def play():
            async with asyncio.timeout(60), Cluster(tmp_path) as cluster:
                await test(cluster)

        asyncio.run(play())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until_available(supervisor, model_uid, availability):
    """Follow the routes until a model stands like this."""
    version = (0, 0)
    while True:
        table = await supervisor.routes(*version, LONG_S)
        version = (table.epoch, table.version)
        if model_uid in table.models and table.models[model_uid].availability is availability:
            return table.models[model_uid]


@scenario
async def test_a_launch_reaches_the_workers_and_its_readiness_reaches_who_waits(cluster):
    supervisor = await cluster.supervisor()
    one, two = await cluster.worker(supervisor, "one"), await cluster.worker(supervisor, "two")
    launched = await supervisor.launch(LaunchRequest(model_name="echo", replica=4, options={"rate": "10"}))
    assert (launched.deployment.model_uid, launched.deployment.engine) == ("echo", "echo")
    assert sorted(launched.workers.values()) == ["one", "one", "two", "two"]
    for worker in (one, two):
        await worker.run(await worker.actor.told_to_run(2), ReplicaState.STARTING, stage="loading", progress=0.5)
    progress = await supervisor.progress("echo")
    assert (progress.stage, progress.progress, progress.done) == ("loading", 0.5, False)
    waiting = asyncio.create_task(supervisor.wait("echo", launched.deployment.revision, LONG_S))
    for worker in (one, two):
        await worker.run(await worker.actor.told_to_run(2))
    while not (progress := await waiting).done:
        waiting = asyncio.create_task(supervisor.wait("echo", launched.deployment.revision, LONG_S))
    assert (progress.progress, progress.stage) == (1.0, "ready")
    route = await until_available(supervisor, "echo", Availability.READY)
    assert len(route.endpoints) == 4
    assert route.card["model_engine"] == "echo"


@scenario
async def test_a_restarted_supervisor_brings_back_what_was_asked_for(cluster):
    """The first supervisor is never stopped, as if it had been killed: nothing depends on a clean end."""
    first = await cluster.supervisor()
    worker = await cluster.worker(first, "one")
    launched = await first.launch(LaunchRequest(model_name="echo", model_uid="mine"))
    await worker.run(await worker.actor.told_to_run(1))
    old = await first.routes(0, 0, LONG_S)
    second = await cluster.supervisor()
    assert (await second.info()).settling
    assert await second.routes(old.epoch, old.version, 0.0) is None
    polling = asyncio.create_task(second.routes(old.epoch, old.version, LONG_S))
    assert not (await second.report(worker._report())).known
    await worker.join(second)
    table = await polling
    assert table.newer_than(old)
    assert [endpoint.instance for endpoint in table.models["mine"].endpoints] == ["mine-0/1"]
    (again,) = await second.instances(model_uid="mine")
    assert again.deployment == launched.deployment
    assert again.replicas[0].generation == launched.replicas[0].generation


@scenario
async def test_revisions_are_not_reused_after_a_restart(cluster):
    first = await cluster.supervisor()
    worker = await cluster.worker(first, "one")
    launched = await first.launch(LaunchRequest(model_name="echo"))
    await first.terminate("echo")
    second = await cluster.supervisor()
    await worker.join(second)
    again = await second.launch(LaunchRequest(model_name="echo"))
    assert again.deployment.revision > launched.deployment.revision


@scenario
async def test_who_waits_for_a_launch_hears_that_it_failed_or_was_cancelled(cluster):
    supervisor = await cluster.supervisor()
    worker = await cluster.worker(supervisor, "one")
    launched = await supervisor.launch(LaunchRequest(model_name="echo"))
    await worker.run(await worker.actor.told_to_run(1), ReplicaState.FAILED, reason="no such file")
    revision = launched.deployment.revision
    with pytest.raises(LoadFailed, match="no such file"):
        await supervisor.wait("echo", revision, LONG_S)
    await worker.run(await worker.actor.told_to_run(1), ReplicaState.FAILED, reason="no such word", refused="speed")
    with pytest.raises(InvalidRequest, match="no such word") as refusal:
        await supervisor.wait("echo", revision, LONG_S)
    assert refusal.value.param == "speed"
    again = await supervisor.launch(LaunchRequest(model_name="echo"))
    assert again.replicas[0].generation > launched.replicas[0].generation
    with pytest.raises(LaunchCancelled):
        await supervisor.wait("echo", revision, LONG_S)
    waiting = asyncio.create_task(supervisor.wait("echo", again.deployment.revision, LONG_S))
    await supervisor.cancel("echo")
    with pytest.raises(LaunchCancelled):
        await waiting
    assert await supervisor.instances() == ()


@scenario
async def test_managing_replicas(cluster):
    supervisor = await cluster.supervisor()
    worker = await cluster.worker(supervisor, "one")
    await supervisor.launch(LaunchRequest(model_name="echo"))
    grown = await supervisor.scale("echo", 3)
    assert len(grown.replicas) == 3
    await worker.run(await worker.actor.told_to_run(3))
    with pytest.raises(Conflict, match="is ready"):
        await supervisor.cancel("echo")
    assert await supervisor.remove_replica("echo", "echo-1") == 2
    left = await worker.actor.told_to_run(2)
    assert [item.replica_id for item in left.items] == ["echo-0", "echo-2"]
    assert (await supervisor.instances(model_name="other")) == ()
    assert len(await supervisor.instances(model_name="echo")) == 1
    await supervisor.terminate("echo")
    await worker.actor.told_to_run(0)
    with pytest.raises(UnknownModel):
        await supervisor.terminate("echo")


@scenario
async def test_what_cannot_be_is_refused_with_the_reason(cluster):
    supervisor = await cluster.supervisor()
    with pytest.raises(NotReady, match="no worker has joined"):
        await supervisor.launch(LaunchRequest(model_name="echo"))
    await cluster.worker(supervisor, "one")
    with pytest.raises(InvalidRequest, match="there is no engine 'tensorflow'") as refused:
        await supervisor.launch(LaunchRequest(model_name="echo", model_engine="tensorflow"))
    assert refused.value.param == "model_engine"
    for call in (supervisor.progress("x"), supervisor.scale("x", 1), supervisor.cancel("x")):
        with pytest.raises(UnknownModel):
            await call


@scenario
async def test_a_launch_is_explained_without_being_made(cluster):
    supervisor = await cluster.supervisor()
    await cluster.worker(supervisor, "one")
    answer = await supervisor.explain(LaunchRequest(model_name="echo", memory_mib=500, replica=2))
    assert (answer["fits"], [place["worker_id"] for place in answer["placements"]]) == (True, ["one", "one"])
    answer = await supervisor.explain(LaunchRequest(model_name="echo", memory_mib=2500))
    assert (answer["fits"], answer["explanation"]["nearest"]) == (False, {"memory_mib": 2000})
    assert await supervisor.instances() == ()
    with pytest.raises(NoCapacity, match="device cpu0 falls short by 500 MiB") as refused:
        await supervisor.launch(LaunchRequest(model_name="echo", memory_mib=2500))
    assert refused.value.details["devices"][0]["missing_mib"] == 500


@scenario
async def test_what_an_operator_says_holds_after_a_restart(cluster):
    first = await cluster.supervisor()
    worker = await cluster.worker(first, "one")
    said = await first.cordon("one", "cpu0", True)
    assert (said.worker_id, said.device_id, said.drain) == ("one", "cpu0", True)
    second = await cluster.supervisor()
    await worker.join(second)
    info = await second.info()
    assert info.cordons == info.workers[0].cordons == (said,)
    with pytest.raises(NoCapacity, match="device cpu0 is cordoned, it takes nothing new"):
        await second.launch(LaunchRequest(model_name="echo"))
    assert (await second.info()).rejects == {"Cordoned": 1}
    assert await second.uncordon("127.0.0.1", "cpu0") == ("one", "cpu0")
    await second.launch(LaunchRequest(model_name="echo"))
    third = await cluster.supervisor()
    await worker.join(third)
    assert (await third.info()).cordons == ()


@scenario
async def test_a_drain_moves_a_replica_once_another_one_serves(cluster):
    supervisor = await cluster.supervisor()
    one = await cluster.worker(supervisor, "one")
    await supervisor.launch(LaunchRequest(model_name="echo"))
    await one.run(await one.actor.told_to_run(1))
    two = await cluster.worker(supervisor, "two")
    await supervisor.cordon("one", "", True)
    (model,) = await supervisor.instances()
    reasons = {status.replica_id: status.reason for status in model.replicas}
    assert reasons["echo-0"] == "worker one is drained; it serves until another replica does"
    await two.run(await two.actor.told_to_run(1))
    await one.actor.told_to_run(0)
    (model,) = await supervisor.instances()
    assert model.workers == {"echo-1": "two"}


@scenario
async def test_who_is_not_there_cannot_be_cordoned(cluster):
    supervisor = await cluster.supervisor()
    await cluster.worker(supervisor, "one")
    for worker, device, param in (("three", "", "worker"), ("one", "GPU-9", "device"), ("one", "0", "device")):
        for say in (supervisor.cordon(worker, device, False), supervisor.uncordon(worker, device)):
            with pytest.raises(NotFound) as refused:
                await say
            assert refused.value.param == param
    await cluster.worker(supervisor, "two")
    with pytest.raises(Conflict, match=r"several workers are called '127\.0\.0\.1'; say which by its address: one"):
        await supervisor.cordon("127.0.0.1", "", False)


@scenario
async def test_refusals_are_counted_by_reason_and_dry_runs_are_not(cluster):
    supervisor = await cluster.supervisor()
    await cluster.worker(supervisor, "one")
    await supervisor.explain(LaunchRequest(model_name="echo", memory_mib=2500))
    for _ in range(2):
        with pytest.raises(NoCapacity):
            await supervisor.launch(LaunchRequest(model_name="echo", memory_mib=2500))
    await supervisor.launch(LaunchRequest(model_name="echo", memory_mib=1500))
    with pytest.raises(NoCapacity):
        await supervisor.scale("echo", 2)
    assert (await supervisor.info()).rejects == {"InsufficientMemory": 3}


@scenario
async def test_of_many_launches_of_one_uid_exactly_one_wins(cluster):
    supervisor = await cluster.supervisor()
    await cluster.worker(supervisor, "one")
    launches = [supervisor.launch(LaunchRequest(model_name="echo")) for _ in range(8)]
    results = await asyncio.gather(*launches, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 7


@scenario
async def test_a_launch_that_cannot_be_stored_did_not_happen(cluster):
    supervisor = await cluster.supervisor()
    worker = await cluster.worker(supervisor, "one")
    database = sqlite3.connect(cluster.settings.home / "supervisor" / "store.sqlite")
    database.execute("DROP TABLE xinfer_deployments")
    database.close()
    with pytest.raises(StoreFailed, match="no such table"):
        await supervisor.launch(LaunchRequest(model_name="echo"))
    assert await supervisor.instances() == ()
    assert (await worker.report()).known


def test_a_store_that_cannot_be_opened_stops_the_start(tmp_path):
    async def play():
        async with Cluster(tmp_path, database_url=f"sqlite:///{tmp_path}") as cluster:
            with pytest.raises(StoreFailed, match="cannot be written"):
                await cluster.supervisor()

    asyncio.run(play())


@scenario
async def test_an_answer_brings_the_assignments_that_a_worker_has_not_got(cluster):
    supervisor = await cluster.supervisor()
    worker = await cluster.worker(supervisor, "one")
    await supervisor.launch(LaunchRequest(model_name="echo"))
    assignments = (await worker.report()).assignments
    assert [item.replica_id for item in assignments.items] == ["echo-0"]
    worker.sequence += 1
    report = WorkerReport(
        worker_id="one",
        incarnation="1",
        sequence=worker.sequence,
        assignments_version=(assignments.epoch, assignments.version),
    )
    assert (await supervisor.report(report)).assignments is None


@scenario
async def test_a_worker_that_leaves_is_replaced(cluster):
    supervisor = await cluster.supervisor()
    one, two = await cluster.worker(supervisor, "one"), await cluster.worker(supervisor, "two")
    await supervisor.launch(LaunchRequest(model_name="echo"))
    await one.run(await one.actor.told_to_run(1))
    await supervisor.leave("one", "1")
    await two.run(await two.actor.told_to_run(1))
    info = await supervisor.info()
    assert [worker.hello.name for worker in info.workers] == ["two"]
    assert info.instances[0].workers == {"echo-0": "two"}


def test_replicas_of_a_lost_worker_serve_until_they_do_not_answer(tmp_path):
    async def play():
        async with asyncio.timeout(60), Cluster(tmp_path, worker_timeout_s=0.5) as cluster:
            supervisor = await cluster.supervisor()
            one = await cluster.worker(supervisor, "one")
            await supervisor.launch(LaunchRequest(model_name="echo"))
            replica = await cluster.replica("echo-0/1")
            await one.run(await one.actor.told_to_run(1), control_address=replica.address)
            await replica.was_asked()  # the worker was silent for long enough
            info = await supervisor.info()
            assert [worker.alive for worker in info.workers] == [False]
            assert info.instances[0].replicas[0].reason == "worker one does not answer"
            assert len((await until_available(supervisor, "echo", Availability.READY)).endpoints) == 1
            await xo.destroy_actor(replica)
            route = await until_available(supervisor, "echo", Availability.RECOVERING)
            assert "no worker has joined" in route.message
            # It comes back, and its replica is what it says it is.
            await one.report()
            await until_available(supervisor, "echo", Availability.READY)

    asyncio.run(play())


@scenario
async def test_stopping_lets_everybody_go(cluster):
    handle = await start_supervisor(cluster.settings, await cluster.pool())
    supervisor = handle.actor
    await cluster.worker(supervisor, "one")
    launched = await supervisor.launch(LaunchRequest(model_name="echo"))
    table = await supervisor.routes(0, 0, LONG_S)
    polls = [
        asyncio.create_task(supervisor.routes(table.epoch, table.version, LONG_S)),
        asyncio.create_task(supervisor.wait("echo", launched.deployment.revision, LONG_S)),
    ]
    await supervisor.info()
    await handle.stop()
    table, progress = await asyncio.gather(*polls)
    assert table is None
    assert not progress.done
