"""What a diagnosis consists of."""

from collections.abc import Iterable
from typing import Literal

import msgspec

Level = Literal["ok", "note", "warning", "problem"]
"""As it should be; worth knowing; works, but not as people expect; something does not work."""

GROUPS = {
    "machine": "What this machine offers",
    "enforcement": "What holds replicas to their slices",
    "system": "The system around it",
    "engines": "Engines",
    "server": "The running server",
    "demo": "The demo models, asked what they know",
}
"""Where a finding belongs, in the order in which people read them."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    group: str
    """A key of ``GROUPS``."""
    code: str
    """What was looked at, for programs: it stays the same from version to version."""
    level: Level = "ok"
    subject: str = ""
    """Of which of several: a device_id, an engine, a worker; empty: there is only one."""
    what: str
    """One line."""
    why: tuple[str, ...] = ()
    """How that is known, or more of it; a line each."""
    advice: str = ""
    """What to do."""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found, as ``xinfer doctor --json`` prints it."""

    version: str
    """Of xinfer."""
    healthy: bool
    """There is no problem; warnings are none."""
    counts: dict[Level, int]
    """How many findings there are of each level."""
    findings: tuple[Finding, ...]


def summed_up(version: str, findings: Iterable[Finding]) -> Diagnosis:
    """The findings in the order of their groups, counted."""
    order = list(GROUPS)
    found = tuple(sorted(findings, key=lambda finding: order.index(finding.group)))
    levels: tuple[Level, ...] = ("ok", "note", "warning", "problem")
    counts = {level: sum(finding.level == level for finding in found) for level in levels}
    return Diagnosis(version=version, healthy=not counts["problem"], counts=counts, findings=found)
