"""Standing orders: what a replica makes of them step by step, and how a worker passes them on."""

import asyncio
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice
from xinfer.engines.echo import EchoEngine
from xinfer.errors import EngineFailed
from xinfer.ops import Kind
from xinfer.protocol import (
    AdapterFailure,
    Assignment,
    Assignments,
    ReplicaView,
    Standing,
    StandingOrder,
)
from xinfer.replica.lifecycle import Follow, Lifecycle, Loaded, Ordered, Serving, Stands
from xinfer.replica.standing import FallAsleep, LoadAdapter, Obedience, UnloadAdapter, WakeUp, next_step, still_true
from xinfer.routes import Endpoint
from xinfer.spec import Adapter, Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.core import WorkerCore
from xinfer.worker.events import Adopted, Assigned, Ended, Instruct, Report, Seen, Spawn, Started, Tick
from xinfer.worker.leases import LeaseBook

A, B, C = (Adapter(name=name, path=f"/{name}") for name in "abc")
ADAPTERS = st.lists(st.sampled_from([A, B, C]), unique=True).map(tuple)


def orders():
    return st.builds(StandingOrder, adapters=ADAPTERS, sleep_level=st.integers(0, 2))


def failed(adapter):
    return AdapterFailure(adapter=adapter, reason="broken")


@pytest.mark.parametrize(
    ("order", "standing", "step"),
    [
        (StandingOrder(), Standing(), None),
        (StandingOrder(adapters=(A, B)), Standing(adapters=(A,)), LoadAdapter(B)),
        (StandingOrder(adapters=(B,)), Standing(adapters=(A,)), UnloadAdapter(A)),
        (StandingOrder(adapters=(A,)), Standing(failures=(failed(A),)), None),
        (StandingOrder(adapters=(A,), sleep_level=1), Standing(), LoadAdapter(A)),
        (StandingOrder(adapters=(A,), sleep_level=1), Standing(adapters=(A,)), FallAsleep(1)),
        (StandingOrder(adapters=(A,), sleep_level=1), Standing(sleep_level=1), None),
        (StandingOrder(adapters=(A,)), Standing(sleep_level=1), WakeUp()),
        (StandingOrder(sleep_level=2), Standing(sleep_level=1), WakeUp()),
        (StandingOrder(sleep_level=1), Standing(complaint="no"), None),
    ],
)
def test_the_next_step(order, standing, step):
    assert next_step(order, standing) == step


def test_an_adapter_of_another_path_is_another_one():
    moved = Adapter(name="a", path="/elsewhere")
    assert next_step(StandingOrder(adapters=(moved,)), Standing(adapters=(A,))) == UnloadAdapter(A)
    assert still_true(StandingOrder(adapters=(moved,)), Standing(failures=(failed(A),))).failures == ()
    assert still_true(StandingOrder(adapters=(A,)), Standing(failures=(failed(A),), complaint="no")).complaint == ""


class Recorder(EchoEngine):
    """Checks that nothing is done asleep, and may be told to fail."""

    async def load_adapter(self, adapter):
        assert not self.asleep
        await super().load_adapter(adapter)

    async def unload_adapter(self, adapter):
        assert not self.asleep
        assert adapter.name in self.adapters
        await super().unload_adapter(adapter)


class Bench:
    def __init__(self, **failures):
        self.engine = Recorder()
        self.engine.failures = failures
        self.order = StandingOrder()
        self.standing = Standing()
        self.resting = False
        self.obedience = Obedience(self.engine, self.note, self.rest, self.resume)

    def note(self, standing):
        self.standing = standing

    async def rest(self):
        self.resting = True

    def resume(self):
        self.resting = False

    async def follow(self, order):
        self.order = order
        await self.obedience.follow(lambda: self.order)


@given(st.lists(orders(), max_size=5))
def test_whatever_was_ordered_before_the_last_order_holds(given_orders):
    async def main():
        bench = Bench(b="broken")
        for order in given_orders:
            await bench.follow(order)
            assert bench.standing.sleep_level == order.sleep_level
            assert bench.resting == bench.engine.asleep == (order.sleep_level > 0)
            if not order.sleep_level:
                assert set(bench.standing.adapters) == set(order.adapters) - {B}
                assert bench.engine.adapters == {adapter.name for adapter in bench.standing.adapters}
                assert [failure.adapter for failure in bench.standing.failures] == [B] * (B in order.adapters)

    asyncio.run(main())


def test_an_engine_that_fails_says_why_and_one_that_does_not_wake_up_is_lost():
    async def main():
        bench = Bench(sleep="too early")
        await bench.follow(StandingOrder(sleep_level=1))
        assert (bench.standing.complaint, bench.resting) == ("too early", False)
        await bench.follow(StandingOrder())
        assert bench.standing == Standing()
        bench = Bench(wake="too late")
        await bench.follow(StandingOrder(sleep_level=1))
        with pytest.raises(EngineFailed, match="too late"):
            await bench.follow(StandingOrder())

    asyncio.run(main())


def test_a_replica_follows_what_is_ordered_while_it_loads_and_while_it_serves():
    life = Lifecycle("i1", 60.0, 0.0, StandingOrder(adapters=(A,)))
    assert life.view.ordered.adapters == (A,)
    assert life.handle(Ordered(StandingOrder(adapters=(A,))), 0.0) == ()
    assert life.handle(Ordered(StandingOrder(adapters=(A, B))), 0.0) == ()
    life.handle(Stands(Standing(adapters=(A,))), 0.0)
    life.handle(Loaded(), 0.0)
    assert life.handle(Serving(Endpoint("m-0", "i1", "tcp://h:1")), 0.0) == (Follow(),)
    assert life.handle(Ordered(StandingOrder(sleep_level=1)), 0.0) == (Follow(),)
    life.handle(Stands(Standing(sleep_level=1)), 0.0)
    assert (life.view.state, life.view.stage) == (ReplicaState.READY, "asleep (level 1)")
    life.handle(Stands(Standing()), 0.0)
    assert life.view.stage == "ready"


# The worker.

SPEC = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)


def item(**fields):
    deployment = Deployment(model_uid="m", spec=SPEC, engine="echo", **fields)
    slices = (DeviceSlice(device_id="cpu", memory_mib=100),)
    return Assignment(replica_id="m-0", generation=1, deployment=deployment, slices=slices)


class Worker:
    def __init__(self):
        book = LeaseBook([Device(device_id="cpu", kind="cpu", memory_mib=1000, cores=4)])
        names = (f"i{number}" for number in itertools.count(1))
        self.core = WorkerCore(book, drain_s=30.0, new_instance=lambda: next(names))
        self.versions = itertools.count(1)

    def tell(self, event):
        return [command for command in self.core.handle(event, 1000.0) if not isinstance(command, Report)]

    def want(self, *items):
        return self.tell(Assigned(Assignments(epoch=1, version=next(self.versions), items=items)))

    def see(self, instance, order, standing=None, state=ReplicaState.READY):
        endpoint = Endpoint("m-0", instance, "tcp://h:1")
        view = ReplicaView(instance=instance, version=2, state=state, endpoint=endpoint, ordered=order)
        return self.tell(Seen("h:2", msgspec.structs.replace(view, standing=standing or Standing())))


def test_a_worker_tells_a_running_process_what_changed_and_only_that():
    worker = Worker()
    (spawn,) = worker.want(item(adapters=(A,)))
    assert isinstance(spawn, Spawn)
    worker.tell(Started("i1", 42))
    with_a, with_b = StandingOrder(adapters=(A,)), StandingOrder(adapters=(B,))
    assert worker.see("i1", with_a, Standing(adapters=(A,))) == []
    assert worker.want(item(adapters=(B,))) == [Instruct("i1", with_b)]
    assert worker.want(item(adapters=(B,))) == []
    assert worker.see("i1", with_a) == [], "it was told, and that is repeated until it has it"
    assert worker.see("i1", with_b, Standing(adapters=(B,))) == []
    assert worker.core.statuses()[0].standing == Standing(adapters=(B,))
    assert worker.want(item(adapters=(A,))) == [Instruct("i1", with_a)]
    worker.see("i1", with_a, Standing(failures=(failed(A),)))
    assert worker.core.statuses()[0].warning == "adapter 'a': broken"


def test_what_changed_while_it_started_is_told_once_it_answers():
    worker = Worker()
    worker.want(item())
    worker.tell(Started("i1", 42))
    assert worker.want(item(adapters=(A,))) == []
    order = StandingOrder(adapters=(A,))
    assert worker.see("i1", StandingOrder(), state=ReplicaState.STARTING) == [Instruct("i1", order)]


def test_the_next_process_of_a_replica_starts_with_the_latest_order():
    worker = Worker()
    worker.want(item())
    worker.tell(Started("i1", 42))
    worker.see("i1", StandingOrder())
    worker.want(item(adapters=(A,), sleep_level=1))
    worker.tell(Ended("i1", "killed"))
    (spawn,) = [command for command in worker.core.handle(Tick(), 2000.0) if isinstance(command, Spawn)]
    assert StandingOrder.of(spawn.assignment.deployment) == StandingOrder(adapters=(A,), sleep_level=1)


@pytest.mark.parametrize("answers_at_once", [True, False])
def test_an_adopted_process_keeps_its_order_until_there_is_another_one(answers_at_once):
    worker = Worker()
    order = StandingOrder(adapters=(A,))  # which is newer than what is on disk
    view = ReplicaView(instance="i0", version=9, state=ReplicaState.READY, ordered=order)
    assert worker.tell(Adopted("i0", item(), 41, "h:2", view if answers_at_once else None)) == []
    assert worker.tell(Seen("h:2", view)) == []
    assert worker.want(item()) == [Instruct("i0", StandingOrder())]


def test_an_adopted_process_that_dies_at_once_comes_back_as_it_was():
    worker = Worker()
    order = StandingOrder(adapters=(A,))
    view = ReplicaView(instance="i0", version=9, state=ReplicaState.READY, ordered=order)
    worker.tell(Adopted("i0", item(), 41, "h:2", view))
    worker.tell(Ended("i0", "killed"))
    (spawn,) = [command for command in worker.core.handle(Tick(), 2000.0) if isinstance(command, Spawn)]
    assert StandingOrder.of(spawn.assignment.deployment) == order
