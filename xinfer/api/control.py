"""The gateway's way to the supervisor: management calls, and the RouteTable's long-poll. Never used by a hot route."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xoscar as xo

from xinfer.actors import Unanswered, answer
from xinfer.errors import SupervisorAway, XinferError
from xinfer.processes import read_record
from xinfer.protocol import SUPERVISOR_UID, SupervisorRecord, supervisor_record
from xinfer.routes import RouteTable

log = logging.getLogger(__name__)

POLL_S = 20.0
CALL_S = 30.0
LOOKING_S = 60.0
"""For calls that may look at a repository of a hub."""


class Supervisor:
    """A remote control. Every call finds the supervisor anew if it moved or was restarted."""

    def __init__(self, home: Path) -> None:
        self._record = supervisor_record(home)
        self._ref: Any = None
        self._address = ""
        self.last_seen = time.monotonic()

    @property
    def address(self) -> str:
        """Of its actor pool, host:port; empty when nobody has written it."""
        record = read_record(self._record, SupervisorRecord)
        return record.address if record is not None else ""

    async def call(self, method: str, *args: Any, timeout_s: float = CALL_S) -> Any:
        """Call a method of the supervisor's actor.

        Raises:
            SupervisorAway: nobody answers there.
            XinferError: what the supervisor raised.
        """
        try:
            ref = await self._find()
            result = await answer(getattr(ref, method)(*args), timeout_s)
        except XinferError:
            self.last_seen = time.monotonic()
            raise
        except Unanswered as error:
            self._ref = None
            raise SupervisorAway(
                "the supervisor does not answer; running models keep serving, try again shortly", retry_after=2
            ) from error
        self.last_seen = time.monotonic()
        return result

    async def _find(self) -> Any:
        address = self.address
        if not address:
            raise Unanswered("no supervisor has started in this home")
        if self._ref is None or address != self._address:
            self._ref = await answer(xo.actor_ref(address=address, uid=SUPERVISOR_UID))
            self._address = address
        return self._ref


async def follow_routes(
    supervisor: Supervisor, have: Callable[[], RouteTable], use: Callable[[RouteTable], None]
) -> None:
    """Long-poll for newer tables, for ever; the last good one stays in use while the supervisor is away."""
    away = False
    own_name = secrets.token_hex(8)
    while True:
        table = have()
        asked = (table.epoch, table.version, POLL_S, own_name)
        try:
            newer = await supervisor.call("routes", *asked, timeout_s=POLL_S + 10.0)
        except XinferError as error:
            if not away:
                log.warning("%s (routing by the table of epoch %d until then)", error, table.epoch)
            away = True
            await asyncio.sleep(0.2)
            continue
        if away:
            log.info("the supervisor is back")
        away = False
        if newer is not None:
            use(newer)
