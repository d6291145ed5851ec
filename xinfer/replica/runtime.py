"""The process of a replica, acting: its actor pool, its engine, its data-plane server, and how it ends."""

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import psutil

from xinfer import catalog, garbage, plugins
from xinfer.catalog.remote_code import require_allowed
from xinfer.catalog.roots import Roots
from xinfer.devices import Grant, Lease
from xinfer.engines.base import Engine
from xinfer.errors import EngineFailed, InvalidRequest, LoadFailed, NotFound, describe
from xinfer.processes import ProcessId, kill_all, write_record
from xinfer.protocol import (
    FAILURE_FILE,
    LOG_FILE,
    PROCESS_FILE,
    FailureRecord,
    LaunchOrder,
    ProcessRecord,
    ReplicaView,
    StandingOrder,
)
from xinfer.replica.following import leader_ended
from xinfer.replica.lifecycle import (
    Broke,
    Claimed,
    Command,
    Drain,
    DrainAsked,
    Drained,
    Event,
    Exit,
    Follow,
    Lifecycle,
    Loaded,
    Ordered,
    Progressed,
    Serve,
    Served,
    Serving,
    Stands,
    StopAsked,
    Tick,
)
from xinfer.replica.server import DataServer
from xinfer.replica.standing import Obedience
from xinfer.settings import Settings, cluster_token
from xinfer.spec import Format, ReplicaState

log = logging.getLogger(__name__)

ENGINE_CHECK_S = 0.5
"""How often an engine is asked whether it can still serve."""
CHECKS_REMEMBERED = 4
"""An engine may log what ends it some checks before it says that it has ended."""
CLOSE_TIMEOUT_S = 5.0
"""How long the server and the engine may take to close before the process ends without them."""


class Replica:
    """Carries out what its Lifecycle decides, and turns what happens into its events."""

    def __init__(self, order: LaunchOrder, directory: Path, settings: Settings) -> None:
        self._order = order
        self._directory = directory
        self._settings = settings
        self._roots = Roots.of(settings)
        standing_order = StandingOrder.of(order.deployment)
        self._lifecycle = Lifecycle(order.instance, order.lease_s, time.monotonic(), standing_order)
        self._changed = asyncio.Event()
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine: Engine | None = None
        self._obedience: Obedience | None = None
        self._server: DataServer | None = None
        self._pool_address = ""
        self._logged = deque([0], maxlen=CHECKS_REMEMBERED)
        """How long the log was at the latest checks of the engine; nothing of a load that fails was well."""

    @property
    def _follows(self) -> bool:
        """Whether another process of its gang answers the clients."""
        return self._order.seat is not None and not self._order.seat.leads

    def peek(self, instance: str) -> ReplicaView:
        """The view now.

        Raises:
            NotFound: this process is another instance.
        """
        if instance != self._order.instance:
            raise NotFound(f"this is instance {self._order.instance} of {self._order.replica_id}, not {instance}")
        return self._lifecycle.view

    async def watch(self, instance: str, version: int, timeout_s: float) -> ReplicaView:
        """The view once it is newer than ``version``, or after ``timeout_s`` seconds; renews the lease."""
        self.peek(instance)
        self._handle(Claimed())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._lifecycle.view.version <= version:
                    await self._changed.wait()
        return self._lifecycle.view

    def follow(self, instance: str, order: StandingOrder) -> None:
        """Work by this order from now on."""
        self.peek(instance)
        self._handle(Ordered(order))

    def drain(self, instance: str, timeout_s: float) -> None:
        """Finish what is in flight, then end."""
        self.peek(instance)
        self._handle(DrainAsked(timeout_s))

    def stop(self, instance: str) -> None:
        """End now."""
        self.peek(instance)
        self._handle(StopAsked())

    async def run(self, pool_address: str) -> Exit:
        """Load the engine and serve until something ends this replica; how it ended."""
        self._pool_address = pool_address
        self._sign()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_terminate)
        self._start(self._load())
        lease = asyncio.create_task(self._watch_lease())
        ended = await self._ended
        lease.cancel()
        if ended.failure:
            # Before anything that could hang or crash: it is what the user gets to read.
            record = FailureRecord(reason=ended.failure, refused=ended.refused, logged_well=self._logged[0])
            write_record(self._directory / FAILURE_FILE, record)
        await self._close()
        return ended

    def _sign(self, socket: str = "") -> None:
        """Let workers, this one and those after it, know where we are."""
        own = ProcessId.own()
        record = ProcessRecord(pid=own.pid, started=own.started, address=self._pool_address, socket=socket)
        write_record(self._directory / PROCESS_FILE, record)

    def _handle(self, event: Event) -> None:
        before = self._lifecycle.view
        commands = self._lifecycle.handle(event, time.monotonic())
        after = self._lifecycle.view
        if after.state is not before.state:
            log.info("%s: %s", after.state, after.stage)
        if after.version != before.version:
            self._changed.set()
            self._changed = asyncio.Event()
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Serve():
                self._start(self._serve())
            case Drain(timeout_s):
                self._start(self._drain(timeout_s))
            case Follow():
                self._start(self._obey())
            case Exit():
                if not self._ended.done():
                    self._ended.set_result(command)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ended.done():
            log.error("a task of the replica failed", exc_info=error)
            self._ended.set_result(Exit(failure=describe(error)))

    def _on_terminate(self) -> None:
        """SIGTERM drains; a second one ends at once."""
        draining = self._server is not None and self._server.draining
        self._handle(StopAsked() if draining else DrainAsked(self._settings.drain_timeout_s))

    async def _watch_lease(self) -> None:
        """Look at the deadline when it should be over; a timer may fire a moment early, then it is looked at again."""
        while not (self._lifecycle.view.state.is_final or self._lifecycle.view.state is ReplicaState.DRAINING):
            await asyncio.sleep(max(0.001, self._lifecycle.lease_deadline - time.monotonic()))
            self._handle(Tick())

    async def _load(self) -> None:
        self._handle(Progressed("loading", 0.0))
        deployment = self._order.deployment
        lease = Lease(replica_id=self._order.replica_id, generation=self._order.generation, slices=self._order.slices)
        grant = Grant(
            lease=lease,
            env=self._order.env,
            threads=self._order.threads,
            budgets=self._order.budgets,
            model_uid=deployment.model_uid,
            seat=self._order.seat,
        )
        loop = asyncio.get_running_loop()

        def progress(stage: str, fraction: float) -> None:
            loop.call_soon_threadsafe(self._handle, Progressed(stage, fraction))

        try:
            require_allowed(deployment.options, allowed=self._settings.trust_remote_code)
            engine = _engine_named(deployment.engine)
            spec = deployment.spec
            if self._order.weights:
                spec = msgspec.structs.replace(spec, source=self._order.weights)
            elif spec.format is not Format.NONE:
                self._roots.require(spec.source)
            await engine.load(catalog.located(spec), deployment.options, grant, progress)
            if not self._follows:
                self._obedience = Obedience(
                    engine,
                    lambda standing: self._handle(Stands(standing)),
                    self._rest,
                    self._resume,
                    self._roots.require,
                )
                await self._obey()
        except InvalidRequest as error:  # a word of the launch is wrong; where in the code that was found helps nobody
            log.error("engine %s refuses the launch of %s", deployment.engine, deployment.spec.source)  # noqa: TRY400
            self._handle(Broke(describe(error), refused=error.param or "options"))
        except Exception as error:  # the boundary to engines: whatever it is, it is the reason the user reads
            log.exception("engine %s could not load %s", deployment.engine, deployment.spec.source)
            self._handle(Broke(describe(error)))
        else:
            garbage.settle()
            self._engine = engine
            self._handle(Loaded())

    async def _serve(self) -> None:
        assert self._engine is not None
        if self._follows:
            self._handle(Serving(None))
            self._start(self._watch_engine(self._engine))
            return
        self._server = DataServer(self._engine, self._order, cluster_token(self._settings), self._settings.max_queued)
        self._server.resting = self._lifecycle.view.standing.sleep_level > 0
        try:
            endpoint = await self._server.start()
        except OSError as error:
            log.exception("cannot listen on %s", self._order.host)
            self._handle(Broke(f"cannot listen on {self._order.host}: {describe(error)}"))
        else:
            self._sign(endpoint.local_path)
            self._handle(Serving(endpoint))
            self._start(self._watch_engine(self._engine))

    async def _obey(self) -> None:
        if self._obedience is not None:
            await self._obedience.follow(lambda: self._lifecycle.view.ordered)

    async def _rest(self) -> None:
        """Refuse calls until ``_resume``; those that run have as long as they would have at the end."""
        if self._server is not None:
            self._server.resting = True
            await self._server.drained(self._settings.drain_timeout_s)

    def _resume(self) -> None:
        if self._server is not None:
            self._server.resting = False

    async def _watch_engine(self, engine: Engine) -> None:
        """An engine that can serve no more takes its process with it; the worker starts a new one."""
        while not (reason := engine.failure()):
            if self._server is not None and self._server.has_served:
                self._handle(Served())
            self._logged.append(_size(self._directory / LOG_FILE))
            await asyncio.sleep(ENGINE_CHECK_S)
        if self._follows and self._lifecycle.view.state is ReplicaState.DRAINING:
            return  # the leader is gone, as we expect of it
        raise EngineFailed(reason)

    async def _drain(self, timeout_s: float) -> None:
        if self._server is None:
            await self._outlast_leader(timeout_s)
            return
        self._server.begin_drain()
        if not await self._server.drained(timeout_s):
            log.warning("%d calls were cut off after %g s of draining", self._server.in_flight, timeout_s)
        self._handle(Drained())

    async def _outlast_leader(self, timeout_s: float) -> None:
        """The leader finishes what it has begun, and needs us for that: stay until it is gone."""
        assert self._order.seat is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await leader_ended(self._order.seat.rendezvous)
        self._handle(Drained())

    async def _close(self) -> None:
        for part in (self._server, self._engine):
            if part is None:
                continue
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await part.close()
            except Exception:  # the boundary to engines: we end in any case
                log.exception("closing %s failed", type(part).__name__)
        for task in self._tasks:
            task.cancel()


def _engine_named(name: str) -> Engine:
    found = plugins.engines().get(name)
    if found is None:
        broken = plugins.broken_engines().get(name)
        reason = f": {broken}" if broken else ""
        raise LoadFailed(f"there is no engine {name!r} in the environment of this worker{reason}")
    engine: Engine = found()
    return engine


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def end_descendants() -> None:
    """Kill what an engine started: nothing of a replica outlives it."""
    kill_all(psutil.Process().children(recursive=True))
