"""What this worker's environment can run."""

from xinfer import plugins
from xinfer.errors import describe
from xinfer.protocol import EngineOffer


def engine_offers() -> dict[str, EngineOffer]:
    """Every engine by name, and whether it can be used here; if not, why."""
    offers = {name: EngineOffer(ok=False, reason=reason) for name, reason in plugins.broken_engines().items()}
    for name, engine in plugins.engines().items():
        try:
            found = engine.available()
            offers[name] = EngineOffer(ok=found.ok, reason=found.reason, version=found.version)
        except Exception as error:  # noqa: BLE001  the boundary to engines of third parties; reported as the offer
            offers[name] = EngineOffer(ok=False, reason=describe(error))
    return offers
