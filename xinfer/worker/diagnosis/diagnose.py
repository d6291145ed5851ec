"""All findings about a machine."""

from collections.abc import Iterator

from xinfer.worker.diagnosis.enforcement import enforcement_findings
from xinfer.worker.diagnosis.engines import engine_findings
from xinfer.worker.diagnosis.facts import MachineFacts
from xinfer.worker.diagnosis.findings import Finding
from xinfer.worker.diagnosis.machine import machine_findings
from xinfer.worker.diagnosis.traps import trap_findings


def diagnose(facts: MachineFacts) -> Iterator[Finding]:
    """What there is to say of a machine: what it offers, what holds there, which traps it has, which engines."""
    yield from machine_findings(facts)
    yield from enforcement_findings(facts)
    yield from trap_findings(facts)
    yield from engine_findings(facts)
