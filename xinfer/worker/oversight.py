"""The watchdog at work: from a look at the devices to what is done to replicas that are over their slice."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from xinfer.devices import Lease
from xinfer.settings import Settings
from xinfer.worker.cgroups import Cgroups
from xinfer.worker.devices import Look
from xinfer.worker.events import Looked
from xinfer.worker.restraint import Restraint
from xinfer.worker.watchdog import Judgement, Watchdog, warning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """The process of a replica: its instance, and its process group."""

    instance: str
    group: int


class Oversight:
    """Judges every look, restrains whom it has to, and tells the core of the rest."""

    def __init__(self, settings: Settings, cgroups: Cgroups | None) -> None:
        self._watchdog = Watchdog(
            settings.over_limit,
            grace_s=settings.over_limit_grace_s,
            tolerance_percent=settings.over_limit_tolerance_percent,
        )
        self._restraint = Restraint(cgroups)
        self._warned: frozenset[str] = frozenset()

    def started(self, replica_id: str) -> None:
        """A replica has a new process."""
        self._watchdog.forget(replica_id)

    def take(
        self, look: Look, leases: Iterable[Lease], running: Mapping[str, Running], now: float
    ) -> tuple[Look, Looked]:
        """The look with what is over, and what the core has to know.

        Args:
            look: what was seen.
            leases: what was given to whom.
            running: the processes by replica_id.
            now: seconds of a clock that never steps.
        """
        judged = self._watchdog.judge(look.uses, leases, look.devices, now)
        warnings = self._warnings(judged)
        marked = {one.replica_id for one in judged.over}
        slowed = warnings.keys() if self._watchdog.action == "throttle" else set()
        self._restraint.apply(_groups(marked, running), _groups(slowed, running))
        held_hard = frozenset(use.device_id for use in look.uses if use.hold.memory == "hard")
        return _with_overuse(look, judged), Looked(held_hard, warnings, judged.to_end)

    def _warnings(self, judged: Judgement) -> dict[str, str]:
        """What to say of replicas that are over, by replica_id; the log has it once."""
        warnings: dict[str, str] = {}
        for one in judged.lasting:
            said = warnings.get(one.replica_id)
            words = warning(one, self._watchdog.action)
            warnings[one.replica_id] = f"{said}; {words}" if said else words
        for replica_id in sorted(warnings.keys() - self._warned):
            log.warning("replica %s: %s", replica_id, warnings[replica_id])
        for replica_id in sorted(self._warned - warnings.keys()):
            log.info("replica %s is within its slice again", replica_id)
        self._warned = frozenset(warnings)
        return warnings


def _groups(replica_ids: Iterable[str], running: Mapping[str, Running]) -> dict[str, int]:
    processes = (running[replica_id] for replica_id in replica_ids if replica_id in running)
    return {process.instance: process.group for process in processes}


def _with_overuse(look: Look, judged: Judgement) -> Look:
    over: dict[str, dict[str, int]] = {}
    for one in judged.lasting:
        over.setdefault(one.device_id, {})[one.replica_id] = one.over_mib
    uses = tuple(msgspec.structs.replace(use, over_limit_mib=over.get(use.device_id, {})) for use in look.uses)
    return replace(look, uses=uses)
