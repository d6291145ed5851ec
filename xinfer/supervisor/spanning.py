"""Which engines can run one replica on several workers."""

from collections.abc import Mapping
from typing import Any

from xinfer import plugins
from xinfer.engines.base import Engine, SpansWorkers
from xinfer.errors import InvalidRequest

PARAM = "n_worker"


def gang_obstacle(engine: type[Engine], workers: int) -> str:
    """Why an engine is nothing for a launch on so many workers, with those that are; empty: it is."""
    if workers == 1 or issubclass(engine, SpansWorkers):
        return ""
    able = ", ".join(sorted(name for name, one in plugins.engines().items() if issubclass(one, SpansWorkers)))
    return f"it runs a replica on one worker only; on several (n_worker) these can: {able}"


def require_gang(engine: type[Engine], options: Mapping[str, Any], workers: int) -> None:
    """Whether an engine that can run on several workers can so with these options.

    Raises:
        InvalidRequest: it cannot; says why.
    """
    if workers == 1 or not issubclass(engine, SpansWorkers):
        return
    match = engine.accepts_gang(options, workers)
    if not match.ok:
        raise InvalidRequest(f"{engine.name} cannot run on {workers} workers: {match.reason}", param=PARAM)
