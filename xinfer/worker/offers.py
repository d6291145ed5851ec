"""What this worker can run: engines in its own Python, in environments of theirs, and those it could install."""

import asyncio
import importlib
import logging
from collections.abc import Callable, Mapping

from xinfer import plugins
from xinfer.errors import XinferError, describe
from xinfer.packages import distribution
from xinfer.protocol import EngineOffer
from xinfer.worker.environments.here import Environments, available_here

log = logging.getLogger(__name__)

Offers = Mapping[str, EngineOffer]


def engine_offers(environments: Environments | None = None) -> dict[str, EngineOffer]:
    """Every engine by name, and whether it can be used here; if not, why, and whether it can be installed."""
    offers = {name: EngineOffer(ok=False, reason=reason) for name, reason in plugins.broken_engines().items()}
    newest = {record.engine: record for record in reversed(environments.usable())} if environments else {}
    for name, engine in plugins.engines().items():
        installable = environments is not None and _can_build(environments, name)
        found = available_here(engine)
        if found.ok:
            offers[name] = EngineOffer(
                ok=True,
                version=found.version,
                installable=installable,
                cpu_only=found.cpu_only,
                packages=found.packages,
            )
        elif name in newest:
            record = newest[name]
            offers[name] = EngineOffer(
                ok=True,
                version=record.version,
                environment=record.name,
                installable=installable,
                packages=tuple(distribution(package) for package in record.extra),
            )
        elif installable:
            reason = f"not installed; xinfer engine install {name} builds an environment for it"
            offers[name] = EngineOffer(ok=False, reason=reason, installable=True)
        else:
            offers[name] = EngineOffer(ok=False, reason=found.reason)
    return offers


async def watch_offers(
    environments: Environments, period_s: float, before: Offers, take: Callable[[Offers], None]
) -> None:
    """Look every ``period_s`` seconds, and hand over what has changed: somebody installed or removed something."""
    while True:
        await asyncio.sleep(period_s)
        try:
            now = await asyncio.to_thread(_look, environments)
        except OSError as error:
            log.warning("the environments of engines could not be read: %s", describe(error))
            continue
        if now != before:
            before = now
            take(now)


def _look(environments: Environments) -> Offers:
    importlib.invalidate_caches()  # else what was installed into this Python meanwhile may not be found
    return engine_offers(environments)


def _can_build(environments: Environments, engine: str) -> bool:
    try:
        environments.plan(engine)
    except XinferError:
        return False
    return True
