"""Bringing an engine to what its standing order says, one step after the other.

What the next step is, is decided from the order and from what was done so far (``next_step``, pure); ``Obedience``
does it on the engine. An order that changes meanwhile is looked at before every step.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from xinfer.engines.base import Engine, Sleeps, TakesAdapters
from xinfer.errors import EngineFailed, describe
from xinfer.protocol import AdapterFailure, Standing, StandingOrder
from xinfer.spec import Adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadAdapter:
    """Have the engine serve it."""

    adapter: Adapter


@dataclass(frozen=True)
class UnloadAdapter:
    """Have the engine forget it."""

    adapter: Adapter


@dataclass(frozen=True)
class FallAsleep:
    """Let the engine give its memory back."""

    level: int


@dataclass(frozen=True)
class WakeUp:
    """Let the engine take its memory again."""


Step = LoadAdapter | UnloadAdapter | FallAsleep | WakeUp


def next_step(order: StandingOrder, standing: Standing) -> Step | None:
    """What is to be done next; None: nothing is left. What failed is not tried again.

    Adapters come and go only while the engine is awake, so those of a sleeping one wait until it is woken.
    """
    if standing.sleep_level and standing.sleep_level != order.sleep_level:
        return WakeUp()
    if standing.sleep_level:
        return None
    for adapter in standing.adapters:
        if adapter not in order.adapters:
            return UnloadAdapter(adapter)
    tried = {*standing.adapters, *(failure.adapter for failure in standing.failures)}
    for adapter in order.adapters:
        if adapter not in tried:
            return LoadAdapter(adapter)
    if order.sleep_level and not standing.complaint:
        return FallAsleep(order.sleep_level)
    return None


def still_true(order: StandingOrder, standing: Standing) -> Standing:
    """The standing without failures that are about an earlier order."""
    return msgspec.structs.replace(
        standing,
        failures=tuple(failure for failure in standing.failures if failure.adapter in order.adapters),
        complaint=standing.complaint if order.sleep_level else "",
    )


class Obedience:
    """Carries out the latest order. One step at a time, and never two calls of ``follow`` at once.

    Args:
        engine: loaded.
        report: is told how things stand, after every step.
        rest: called before the engine falls asleep; returns when nothing is being served any more.
        resume: called when it can serve again.
        require_path: raises where an adapter may not be read from a path.
    """

    def __init__(
        self,
        engine: Engine,
        report: Callable[[Standing], None],
        rest: Callable[[], Awaitable[None]],
        resume: Callable[[], None],
        require_path: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._report = report
        self._rest = rest
        self._resume = resume
        self._require_path = require_path
        self._standing = Standing()
        self._busy = asyncio.Lock()

    async def follow(self, order: Callable[[], StandingOrder]) -> None:
        """Do what the latest order says until nothing is left to do.

        Raises:
            EngineFailed: the engine does not wake up: it can serve no more.
        """
        async with self._busy:
            while True:
                now = order()
                self._note(still_true(now, self._standing))
                step = next_step(now, self._standing)
                if step is None:
                    return
                self._note(await self._do(step))

    def _note(self, standing: Standing) -> None:
        if standing != self._standing:
            self._standing = standing
            self._report(standing)

    async def _do(self, step: Step) -> Standing:
        match step:
            case LoadAdapter(adapter):
                return await self._load(adapter)
            case UnloadAdapter(adapter):
                return await self._unload(adapter)
            case FallAsleep(level):
                return await self._sleep(level)
            case WakeUp():
                return await self._wake()

    async def _load(self, adapter: Adapter) -> Standing:
        standing = self._standing
        try:
            self._require_path(adapter.path)
            await _as_taker(self._engine).load_adapter(adapter)
        except Exception as error:  # the boundary to engines: whatever it is, it is the reason that the user reads
            log.exception("adapter %s could not be loaded from %s", adapter.name, adapter.path)
            failure = AdapterFailure(adapter=adapter, reason=describe(error))
            return msgspec.structs.replace(standing, failures=(*standing.failures, failure))
        log.info("loaded adapter %s", adapter.name)
        return msgspec.structs.replace(standing, adapters=(*standing.adapters, adapter))

    async def _unload(self, adapter: Adapter) -> Standing:
        await _as_taker(self._engine).unload_adapter(adapter)
        log.info("unloaded adapter %s", adapter.name)
        left = tuple(one for one in self._standing.adapters if one != adapter)
        return msgspec.structs.replace(self._standing, adapters=left)

    async def _sleep(self, level: int) -> Standing:
        await self._rest()
        try:
            await _as_sleeper(self._engine).sleep(level)
        except Exception as error:  # the boundary to engines: it goes on awake, and says why
            log.exception("the engine does not fall asleep")
            self._resume()
            return msgspec.structs.replace(self._standing, complaint=describe(error))
        log.info("asleep, level %d", level)
        return msgspec.structs.replace(self._standing, sleep_level=level)

    async def _wake(self) -> Standing:
        try:
            await _as_sleeper(self._engine).wake()
        except Exception as error:
            raise EngineFailed(f"the engine did not wake up: {describe(error)}") from error
        self._resume()
        log.info("awake")
        return msgspec.structs.replace(self._standing, sleep_level=0)


def _as_taker(engine: Engine) -> TakesAdapters:
    if not isinstance(engine, TakesAdapters):
        raise EngineFailed(f"the engine {engine.name} takes no adapters")
    return engine


def _as_sleeper(engine: Engine) -> Sleeps:
    if not isinstance(engine, Sleeps):
        raise EngineFailed(f"the engine {engine.name} cannot sleep")
    return engine
