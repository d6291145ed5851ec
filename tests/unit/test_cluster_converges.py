"""Random lives of a cluster: whatever gets lost, dies or comes back, the rules hold and the desired state returns.

Simulated workers run what they are told, their processes and replicas die, messages and probes are answered late or
never, and the supervisor is killed and restarted from its store. Every replica needs a third of a worker, so that what
fits can be counted; a gang needs that of each of its two workers.
"""

import collections

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xinfer.devices import Device
from xinfer.errors import XinferError
from xinfer.ops import Kind
from xinfer.protocol import Assignments, Cordon, EngineOffer, ReplicaStatus, ReplicaView, WorkerHello, WorkerReport
from xinfer.routes import Endpoint
from xinfer.spec import Deployment, Format, ModelSpec, ReplicaState, ResourceRequest
from xinfer.supervisor import admission
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.events import (
    Cordoned,
    DeploymentRemoved,
    DeploymentSet,
    ForgetWorker,
    ProbeReplicas,
    RememberWorker,
    ReplicasProbed,
    SendAssignments,
    Tick,
    Uncordoned,
    WorkerJoined,
    WorkerLeft,
    WorkerReported,
)
from xinfer.supervisor.placement.spread import POLICY

NEED_MIB = 100
SLOTS = 3
WORKERS = ("w1", "w2", "w3")
MODELS = ("a", "b")
GANG = "gang"
PATIENCE = Patience(worker_timeout_s=10.0, settle_s=5.0)


class Worker:
    """The process of a worker (``up`` or not) and its replicas, which live on without it."""

    def __init__(self, name):
        self.up = False
        self.life = 0
        self.sequence = 0
        self.hello = WorkerHello(
            worker_id=name,
            incarnation="",
            name=name,
            address=f"{name}:1",
            host_id=name,
            version="0",
            devices=(Device(device_id="cpu0", kind="cpu", memory_mib=NEED_MIB * SLOTS + 50, cores=4),),
            engines={"echo": EngineOffer(True)},
        )
        self.held = Assignments(epoch=0, version=0)
        self.replicas = {}

    def start(self):
        self.up, self.life, self.sequence = True, self.life + 1, 0
        self.hello = msgspec.structs.replace(self.hello, incarnation=str(self.life))
        self.held = Assignments(epoch=0, version=0)

    def report(self):
        self.sequence += 1
        return WorkerReport(
            worker_id=self.hello.worker_id,
            incarnation=self.hello.incarnation,
            sequence=self.sequence,
            assignments_version=(self.held.epoch, self.held.version),
            replicas=tuple(self.replicas.values()),
        )

    def assign(self, assignments):
        if self.up and (assignments.epoch, assignments.version) > (self.held.epoch, self.held.version):
            self.held = assignments
            self.work()

    def work(self):
        """Stop what is not assigned, start what is."""
        wanted = {item.replica_id: item for item in self.held.items}
        for replica_id, status in list(self.replicas.items()):
            item = wanted.get(replica_id)
            if status.state is ReplicaState.PENDING:
                del self.replicas[replica_id]
            elif (item is None or item.generation != status.generation) and status.state is not ReplicaState.FAILED:
                self.become(replica_id, ReplicaState.DRAINING)
            elif item is None or item.generation != status.generation:
                del self.replicas[replica_id]
        for replica_id, item in wanted.items():
            if replica_id not in self.replicas:
                self.start_replica(item)

    def start_replica(self, item):
        """A follower has to wait for its leader, who says where that is."""
        seat = item.seat
        if seat is not None and seat.leads:
            seat = msgspec.structs.replace(seat, rendezvous="h:9")
        waits = seat is not None and seat.waits
        self.replicas[item.replica_id] = ReplicaStatus(
            replica_id=item.replica_id,
            model_uid=item.deployment.model_uid,
            generation=item.generation,
            revision=item.deployment.revision,
            state=ReplicaState.PENDING if waits else ReplicaState.STARTING,
            control_address="h:1",
            slices=item.slices,
            instance="" if waits else f"{item.replica_id}@{item.generation}#{self.life}",
            seat=seat,
        )

    def become(self, replica_id, state):
        status = self.replicas[replica_id]
        endpoint = status.endpoint
        if state is ReplicaState.READY and (status.seat is None or status.seat.leads):
            endpoint = Endpoint(replica_id, status.instance, "tcp://h:2")
        instance = "" if state is ReplicaState.FAILED else status.instance
        self.replicas[replica_id] = msgspec.structs.replace(status, state=state, endpoint=endpoint, instance=instance)

    def advance(self, *, failing=False):
        """Every replica takes its next step."""
        for replica_id, status in list(self.replicas.items()):
            if status.state is ReplicaState.DRAINING:
                del self.replicas[replica_id]
            elif status.state is ReplicaState.STARTING:
                self.become(replica_id, ReplicaState.FAILED if failing else ReplicaState.READY)
        if self.up:
            self.work()

    def lose_replica(self, *, last):
        """The process of one of its replicas dies; only a living worker starts it again, if it is none of a gang."""
        if self.replicas:
            replica_id = max(self.replicas) if last else min(self.replicas)
            if self.up and self.replicas[replica_id].seat is not None:
                self.become(replica_id, ReplicaState.FAILED)
            elif self.up and self.replicas[replica_id].state is ReplicaState.READY:
                status = msgspec.structs.replace(self.replicas[replica_id], endpoint=None)
                self.replicas[replica_id] = status
                self.become(replica_id, ReplicaState.STARTING)
            elif not self.up:
                del self.replicas[replica_id]


def members_of(model):
    return [(replica, member) for replica in model.replicas.values() for member in replica.members]


class ClusterLife(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.epoch = 0
        self.revision = 0
        self.stored = {}
        self.cordons = {}
        self.placed = set()
        self.known_workers = set()
        self.workers = {name: Worker(name) for name in WORKERS}
        self.boot()

    def boot(self):
        self.epoch += 1
        self.messages, self.probes = [], []
        self.was_settling = False
        self.cluster = Cluster(
            epoch=self.epoch,
            policy=POLICY,
            patience=PATIENCE,
            now=self.now,
            deployments=self.stored.values(),
            known_workers=self.known_workers,
            cordons=self.cordons.values(),
        )

    def handle(self, event):
        settling = self.cluster.settling
        commands = self.cluster.handle(event)
        for command in commands:
            match command:
                case SendAssignments():
                    self.messages.append(command)
                case ProbeReplicas():
                    self.probes.append(command)
                case RememberWorker(worker_id=worker_id):
                    self.known_workers.add(worker_id)
                case ForgetWorker(worker_id=worker_id):
                    self.known_workers.discard(worker_id)
        if settling and not self.cluster.settling:
            self.check_adoption(self.ready_reported())

    def ready_reported(self):
        """(model_uid, replica_id) of what is known to be READY in the current revision, on devices that are well."""
        ready = collections.Counter(
            (status.model_uid, status.seat.gang if status.seat else status.replica_id, status.generation)
            for worker in self.cluster.workers.values()
            for status in worker.report.replicas
            if status.state is ReplicaState.READY
            and status.model_uid in self.cluster.models
            and status.revision == self.cluster.models[status.model_uid].deployment.revision
            and worker.hello.devices[0].healthy  # else it may be taken out of service, if others serve
        )
        sizes = {GANG: 2}
        return {(uid, replica_id) for (uid, replica_id, _), count in ready.items() if count == sizes.get(uid, 1)}

    def check_adoption(self, reported):
        for uid, model in self.cluster.models.items():
            ready = sum(replica.state is ReplicaState.READY for replica in model.replicas.values())
            there_were = len({replica_id for model_uid, replica_id in reported if model_uid == uid})
            assert ready >= min(there_were, model.deployment.replicas)

    def talk(self, worker):
        report = worker.report()
        self.handle(WorkerReported(report, self.now))
        ack = self.cluster.ack(report)
        if not ack.known:
            report = worker.report()
            self.handle(WorkerJoined(worker.hello, report, self.now))
            ack = self.cluster.ack(report, joining=True)
        if ack.assignments is not None:
            worker.assign(ack.assignments)

    # What workers do.

    @initialize(up=st.integers(1, 3), replicas=st.integers(1, 4), gangs=st.integers(0, 2))
    def something_serves(self, up, replicas, gangs):
        for name in WORKERS[:up]:
            self.worker_starts(name)
        if gangs:
            self.launch_gang(gangs)
        self.launch("a", replicas)
        for _ in range(4):  # a follower hears of its leader in the second round, and the supervisor of it in the last
            self.everybody_works()

    @rule()
    def everybody_works(self):
        for worker in self.workers.values():
            worker.advance()
            if worker.up:
                self.talk(worker)

    @rule(name=st.sampled_from(WORKERS))
    def worker_starts(self, name):
        if not self.workers[name].up:
            self.workers[name].start()
            self.talk(self.workers[name])

    @rule(name=st.sampled_from(WORKERS))
    def worker_reports(self, name):
        if self.workers[name].up:
            self.talk(self.workers[name])

    @rule(name=st.sampled_from(WORKERS))
    def worker_is_killed(self, name):
        self.workers[name].up = False

    @rule(name=st.sampled_from(WORKERS))
    def worker_leaves(self, name):
        worker = self.workers[name]
        if worker.up:
            self.handle(WorkerLeft(name, worker.hello.incarnation, self.now))
            worker.up = False
            worker.replicas.clear()

    @rule(name=st.sampled_from(WORKERS), failing=st.booleans())
    def replicas_advance(self, name, failing):
        self.workers[name].advance(failing=failing)

    @rule(name=st.sampled_from(WORKERS))
    def replica_dies(self, name):
        self.workers[name].lose_replica(last=False)

    @precondition(lambda self: GANG in self.stored)
    @rule(name=st.sampled_from(WORKERS))
    def gang_is_broken(self, name):
        """Its name is the last one."""
        self.workers[name].lose_replica(last=True)

    # What the network does.

    @precondition(lambda self: self.messages)
    @rule(lost=st.booleans(), last=st.booleans())
    def message_arrives(self, lost, last):
        message = self.messages.pop(-1 if last else 0)
        if not lost:
            self.workers[message.worker_id].assign(message.assignments)

    @precondition(lambda self: self.probes)
    @rule()
    def probe_is_answered(self):
        probe = self.probes.pop(0)
        replicas = self.workers[probe.worker_id].replicas
        alive, dead = {}, set()
        for status in probe.statuses:
            now = replicas.get(status.replica_id)
            if now and now.instance == status.instance and now.state is not ReplicaState.STARTING:
                alive[status.replica_id] = ReplicaView(instance="", version=1, state=now.state, endpoint=now.endpoint)
            else:
                dead.add((status.replica_id, status.generation))
        self.handle(ReplicasProbed(probe.worker_id, alive, frozenset(dead), self.now))

    # What people do.

    @rule(replicas=st.integers(1, 2))
    def launch_gang(self, replicas):
        self.launch(GANG, replicas)

    @rule(uid=st.sampled_from(MODELS), replicas=st.integers(1, 4))
    def launch(self, uid, replicas):
        wanted = Deployment(
            model_uid=uid,
            spec=ModelSpec(name="echo", kind=Kind.LLM, source="", format=Format.NONE),
            engine="echo",
            replicas=replicas,
            request=ResourceRequest(memory_mib=NEED_MIB, workers=2 if uid == GANG else 1),
            revision=self.revision + 1,
            created_at=self.now,
        )
        self.change(lambda: admission.launched(self.cluster, wanted))

    @rule(uid=st.sampled_from((*MODELS, GANG)), replicas=st.integers(1, 4))
    def scale(self, uid, replicas):
        self.change(lambda: admission.rescaled(self.cluster, uid, replicas))

    @rule(uid=st.sampled_from((*MODELS, GANG)), slot=st.integers(0, 3))
    def remove_replica(self, uid, slot):
        replica_id = f"{uid}-{slot}"
        self.change(lambda: admission.without_replica(self.cluster, uid, replica_id), drop=replica_id)

    def change(self, decide, drop=""):
        if self.cluster.settling:
            return
        try:
            wanted = decide()
        except XinferError:
            return
        self.revision = max(self.revision, wanted.revision)
        self.stored[wanted.model_uid] = wanted
        self.handle(DeploymentSet(wanted, self.now, drop))

    @rule(uid=st.sampled_from((*MODELS, GANG)))
    def terminate(self, uid):
        if self.stored.pop(uid, None):
            self.handle(DeploymentRemoved(uid, self.now))

    @rule(name=st.sampled_from(WORKERS), drain=st.booleans())
    def cordon(self, name, drain):
        if not self.cluster.settling:
            self.cordons[name] = Cordon(worker_id=name, drain=drain, since=self.now)
            self.handle(Cordoned(self.cordons[name], self.now))

    @rule(name=st.sampled_from(WORKERS))
    def uncordon(self, name):
        if not self.cluster.settling and self.cordons.pop(name, None):
            self.handle(Uncordoned((name, ""), self.now))

    @rule(name=st.sampled_from(WORKERS), healthy=st.booleans())
    def device_changes(self, name, healthy):
        """A card is lost, or comes back; what runs on it may go on, or not."""
        worker = self.workers[name]
        (device,) = worker.hello.devices
        if device.healthy is not healthy:
            device = msgspec.structs.replace(device, healthy=healthy)
            worker.hello = msgspec.structs.replace(worker.hello, devices=(device,))
            if worker.up:
                self.handle(WorkerJoined(worker.hello, worker.report(), self.now))

    @rule(ticks=st.integers(1, 8), reporting=st.booleans())
    def time_passes(self, ticks, reporting):
        for _ in range(ticks):
            self.now += 2.0
            for worker in self.workers.values():
                if worker.up and reporting:
                    self.talk(worker)
            self.handle(Tick(self.now))

    @rule()
    def supervisor_is_restarted(self):
        self.boot()

    # What must hold.

    @invariant()
    def a_replica_is_assigned_once(self):
        assigned = collections.Counter(
            item.replica_id for worker in self.cluster.workers.values() for item in worker.assignments.items
        )
        assert all(count == 1 for count in assigned.values()), assigned

    @invariant()
    def never_more_than_desired(self):
        """But those that move away, which go when as many others serve as are desired."""
        for model in self.cluster.models.values():
            staying = [replica for replica in model.replicas.values() if not replica.moving]
            moving = [replica for replica in model.replicas.values() if replica.moving]
            serving = sum(replica.state is ReplicaState.READY for replica in staying)
            assert self.cluster.settling or len(staying) <= model.deployment.replicas
            assert self.cluster.settling or not moving or len(moving) + serving <= model.deployment.replicas

    @invariant()
    def nothing_is_newly_placed_where_it_may_not_be(self):
        """But where it is, a gang is started again."""
        members = [member for model in self.cluster.models.values() for _, member in members_of(model)]
        for member in members:
            worker = self.cluster.workers.get(member.worker_id)
            if member.status is None and worker is not None and worker.alive and not self.cluster.settling:
                closed = member.worker_id in self.cordons or not worker.hello.devices[0].healthy
                known = {status.replica_id for status in worker.report.replicas}
                assert not closed or member.key in self.placed or member.replica_id in known, member
        self.placed = {member.key for member in members}

    @invariant()
    def devices_are_not_overcommitted(self):
        placed = collections.Counter(
            member.worker_id for model in self.cluster.models.values() for _, member in members_of(model)
        )
        assert all(count <= SLOTS for count in placed.values()), placed

    @invariant()
    def a_gang_is_whole(self):
        for model in self.cluster.models.values():
            for replica in model.replicas.values():
                assert len(set(replica.worker_ids)) == model.deployment.request.workers
                assert len({member.generation for member in replica.members}) == 1

    @invariant()
    def routes_lead_to_ready_replicas_of_the_current_revision(self):
        table = self.cluster.table
        assert set(table.models) in (set(self.cluster.models), set())
        for uid, route in table.models.items():
            model = self.cluster.models[uid]
            for endpoint in route.endpoints:
                replica = model.replicas[endpoint.replica_id]
                status = replica.leader.status
                assert all(member.state is ReplicaState.READY for member in replica.members)
                assert status.revision == model.deployment.revision
                assert status.endpoint == endpoint

    @invariant()
    def the_store_knows_every_worker_that_may_serve(self):
        for worker in self.cluster.workers.values():
            assert not worker.alive or worker.worker_id in self.known_workers

    def teardown(self):
        """Everybody is well again: what is desired comes back."""
        for name in WORKERS:
            self.time_passes(ticks=4, reporting=True)  # settled, so that operators are heard
            self.device_changes(name, healthy=True)
            self.uncordon(name)
        for _ in range(30):
            self.now += 2.0
            for worker in self.workers.values():
                if not worker.up:
                    worker.start()
                worker.advance()
                self.talk(worker)
            while self.messages:
                self.message_arrives(lost=False, last=False)
            while self.probes:
                self.probe_is_answered()
            self.handle(Tick(self.now))
        desired = sum(deployment.replicas * deployment.request.workers for deployment in self.stored.values())
        # With so many free, there is always one on another worker, too.
        spare = SLOTS - 1 if GANG in self.stored else 0
        if desired <= SLOTS * len(WORKERS) - spare:
            for uid, deployment in self.stored.items():
                model = self.cluster.models[uid]
                assert model.deployment == deployment
                states = collections.Counter(replica.state for replica in model.replicas.values())
                assert states[ReplicaState.READY] + states[ReplicaState.FAILED] == deployment.replicas
        for worker in self.workers.values():
            assert set(worker.replicas) == {item.replica_id for item in worker.held.items}


TestClusterLife = ClusterLife.TestCase
TestClusterLife.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
