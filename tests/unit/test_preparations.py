"""Replicas that wait for their weights: told to rest, and to go on."""

import asyncio
from collections.abc import Callable

import msgspec

from xinfer.ops import Kind
from xinfer.protocol import FileProgress, StandingOrder
from xinfer.spec import Adapter, Deployment, Format, ModelSpec, ReplicaState
from xinfer.worker.events import Ended, Prepared, Seen
from xinfer.worker.preparations import Preparations
from xinfer.worker.weights.held import HeldWeights
from xinfer.worker.weights.progress import Progress

SPEC = ModelSpec(name="m", kind=Kind.LLM, source="hf:me/mine", format=Format.SAFETENSORS)
DEPLOYMENT = Deployment(model_uid="m", spec=SPEC, engine="echo")
HALF = Progress((FileProgress(name="w", done=512, total=1024),))


class Pythons:
    """Every Python is there at once."""

    def ready(self, _deployment):
        return HeldWeights()

    async def built(self, _deployment, _show):
        return HeldWeights()


class Weights:
    """Weights that come when the test says so. ``begun`` counts downloads, ``running`` those that go on."""

    def __init__(self, news) -> None:
        self.arrived = asyncio.Event()
        self._news = news
        self.begun = 0
        self.running = 0

    def ready(self, _deployment):
        return HeldWeights() if self.arrived.is_set() else None

    async def downloaded(self, _deployment, show):
        self.begun += 1
        self.running += 1
        self._news.set()
        show(HALF)
        try:
            await self.arrived.wait()
        finally:
            self.running -= 1
        return HeldWeights()


class Bench:
    """Preparations whose events are kept."""

    def __init__(self) -> None:
        self.events = []
        self.news = asyncio.Event()
        self.weights = Weights(self.news)
        self.preparations = Preparations(Pythons(), self.weights, self._post)
        self.started = 0

    def begin(self, deployment=DEPLOYMENT):
        self.preparations.begin("i", deployment, self._start)

    def order(self, **words):
        return self.preparations.instruct("i", StandingOrder(**words))

    def stage(self):
        shown = [event.view for event in self.events if isinstance(event, Seen)]
        assert all(view.state is ReplicaState.DOWNLOADING for view in shown)
        return shown[-1].stage if shown else ""

    async def until(self, condition: Callable[[], bool]):
        """Wait for a condition on what is shown and on what runs."""
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def _post(self, event):
        self.events.append(event)
        self.news.set()

    def _start(self, _python, _weights):
        self.started += 1


def run(scenario):
    async def main():
        bench = Bench()
        try:
            await scenario(bench)
        finally:
            await bench.preparations.close()

    asyncio.run(main())


def test_a_download_rests_and_goes_on():
    async def scenario(bench):
        bench.begin()
        await bench.until(lambda: bench.stage().startswith("downloading w"))
        assert bench.order(paused=True)
        await bench.until(lambda: bench.stage() == "paused at 0.5 of 1.0 KiB")
        assert bench.weights.running == 0
        bench.order()
        await bench.until(lambda: bench.weights.running == 1)
        bench.weights.arrived.set()
        await bench.until(lambda: bench.events[-1] == Prepared("i"))
        assert bench.weights.begun == 2

    run(scenario)


def test_one_that_is_to_rest_from_the_start_begins_nothing():
    async def scenario(bench):
        bench.begin(msgspec.structs.replace(DEPLOYMENT, paused=True))
        await bench.until(lambda: bench.stage() == "paused")
        assert bench.weights.begun == 0
        bench.order()
        await bench.until(lambda: bench.weights.begun == 1)

    run(scenario)


def test_other_orders_do_not_disturb_a_download():
    async def scenario(bench):
        bench.begin()
        await bench.until(lambda: bench.weights.running == 1)
        bench.order(adapters=(Adapter(name="a", path="/a"),))
        bench.weights.arrived.set()
        await bench.until(lambda: bench.events[-1] == Prepared("i"))
        assert bench.weights.begun == 1
        assert not bench.order(paused=True), "it waits no more"

    run(scenario)


def test_one_that_rests_can_be_given_up():
    async def scenario(bench):
        bench.begin(msgspec.structs.replace(DEPLOYMENT, paused=True))
        await bench.until(lambda: bench.stage() == "paused")
        assert bench.preparations.cancel("i")
        assert isinstance(bench.events[-1], Ended)
        assert not bench.preparations.cancel("i")

    run(scenario)


def test_weights_that_are_here_start_whatever_was_paused():
    async def scenario(bench):
        bench.weights.arrived.set()
        bench.begin(msgspec.structs.replace(DEPLOYMENT, paused=True))
        assert bench.started == 1

    run(scenario)
