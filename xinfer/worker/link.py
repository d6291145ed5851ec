"""The worker's side of the conversation with the supervisor: hello, reports, and coming back after every absence."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import xoscar as xo

from xinfer.actors import Unanswered, answer
from xinfer.devices import Device
from xinfer.errors import XinferError
from xinfer.protocol import SUPERVISOR_UID, Ack, WorkerHello, WorkerReport
from xinfer.worker.events import Assigned, Joined
from xinfer.worker.offers import Offers
from xinfer.worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

BACKOFF_S = 0.1
BACKOFF_LIMIT_S = 2.0

FindSupervisor = Callable[[], Awaitable[str]]
"""Returns the address (host:port) of the supervisor's actor pool. Asked again after every failure; raises whatever."""


class SupervisorLink:
    """Joins, reports at every change and at every heartbeat, applies what it is told, joins again. For ever."""

    def __init__(
        self, hello: WorkerHello, runtime: WorkerRuntime, find_supervisor: FindSupervisor, heartbeat_s: float
    ) -> None:
        self.joined = asyncio.Event()
        """Set while the supervisor knows this worker."""
        self._hello = hello
        self._runtime = runtime
        self._find_supervisor = find_supervisor
        self._heartbeat_s = heartbeat_s
        self._sequence = 0
        self._told: tuple[tuple[Device, ...], Offers] = ((), {})
        """The devices and engines that the supervisor knows of."""
        self._supervisor: Any = None

    async def run(self) -> None:
        """Stay in touch until cancelled."""
        failures = 0
        complaint = ""
        while True:
            try:
                await self._join()
                failures, complaint = 0, ""
                await self._report_for_ever()
            except (Unanswered, XinferError) as error:
                if str(error) != complaint:  # once, not at every attempt
                    complaint = str(error)
                    log.warning("no contact to the supervisor, trying on: %s", complaint)
            self.joined.clear()
            await asyncio.sleep(min(BACKOFF_LIMIT_S, BACKOFF_S * 2 ** min(failures, 10)))
            failures += 1

    async def leave(self) -> None:
        """Say goodbye, so that nobody waits for this worker to come back. Nobody there: then nobody waits."""
        if self._supervisor is None:
            return
        try:
            await answer(self._supervisor.leave(self._hello.worker_id, self._hello.incarnation))
        except (Unanswered, XinferError) as error:
            log.info("left without a goodbye: %s", error)

    async def _join(self) -> None:
        address = await answer(self._find_supervisor())
        try:
            self._supervisor = await answer(xo.actor_ref(SUPERVISOR_UID, address=address))
        except Unanswered as error:
            hint = "does this machine reach that address, and have both the same cluster token?"
            raise Unanswered(f"the supervisor at {address} does not answer ({error}); {hint}") from error
        await self._say_hello()
        log.info("joined the supervisor at %s as %s", address, self._hello.worker_id)

    async def _say_hello(self) -> None:
        self._runtime.changed.clear()
        told = self._runtime.devices, self._runtime.offers
        hello = msgspec.structs.replace(self._hello, devices=told[0], engines=dict(told[1]))
        ack: Ack = await answer(self._supervisor.join(hello, self._report()))
        self._told = told
        self.joined.set()
        self._runtime.post(Joined(ack.assignments))

    async def _report_for_ever(self) -> None:
        """Report until the supervisor is gone, or does not know us any more: it was restarted."""
        known = True
        while known:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._runtime.changed.wait()
            except TimeoutError:
                pass  # a heartbeat: the same report again
            if (self._runtime.devices, self._runtime.offers) != self._told:
                await self._say_hello()  # only a hello names them, and it may be said again
                continue
            self._runtime.changed.clear()
            ack: Ack = await answer(self._supervisor.report(self._report()))
            known = ack.known
            if ack.assignments is not None:
                self._runtime.post(Assigned(ack.assignments))

    def _report(self) -> WorkerReport:
        self._sequence += 1
        return WorkerReport(
            worker_id=self._hello.worker_id,
            incarnation=self._hello.incarnation,
            sequence=self._sequence,
            assignments_version=self._runtime.assignments_version,
            replicas=self._runtime.statuses(),
            uses=self._runtime.uses,
        )
