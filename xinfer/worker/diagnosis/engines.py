"""Which engines there are, in which Python, and what is wrong with those that are not."""

from collections.abc import Iterator

from xinfer.protocol import EngineOffer
from xinfer.worker.diagnosis.facts import MachineFacts
from xinfer.worker.diagnosis.findings import Finding

GROUP = "engines"


def engine_findings(facts: MachineFacts) -> Iterator[Finding]:
    """One finding for each engine, usable ones first, and one for each environment that is of no use."""
    for name, offer in sorted(facts.offers.items(), key=lambda item: (not item[1].ok, item[0])):
        if name not in facts.broken_engines:
            yield _engine(name, offer)
    for name, reason in facts.broken_engines.items():
        yield Finding(
            group=GROUP,
            code="engine",
            level="problem",
            subject=name,
            what=f"{name}: it is installed and cannot be loaded",
            why=tuple(reason.splitlines()),
            advice="Mend or uninstall the package that registers it (entry point group xinfer.engines).",
        )
    for name, reason in facts.unusable_environments.items():
        yield Finding(
            group=GROUP,
            code="environment",
            level="note",
            subject=name,
            what=f"the environment {name} is not used: {reason}",
            advice=f"Unless it is being built: xinfer engine remove {name}",
        )


def _engine(name: str, offer: EngineOffer) -> Finding:
    if not offer.ok:
        return Finding(group=GROUP, code="engine", level="note", subject=name, what=f"{name}: {offer.reason}")
    where = f"in the environment {offer.environment}" if offer.environment else "in this Python"
    return Finding(group=GROUP, code="engine", subject=name, what=f"{name} {offer.version}, {where}")
