"""What is done to replicas that are over their slice, short of ending them. Undone when they are within it again."""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from xinfer.worker.cgroups import Cgroups
from xinfer.worker.devices import processes_by_group

log = logging.getLogger(__name__)

PROC = Path("/proc")
FIRST_TO_GO = 900
"""Of 1000. The kernel, out of memory, kills the process with the highest score: its share of the memory plus this."""
LOWEST_PRIORITY = 19


class Restraint:
    """Marks processes for the kernel, and slows them down. A replica is its instance and its process group."""

    def __init__(self, cgroups: Cgroups | None, proc: Path = PROC) -> None:
        self._cgroups = cgroups
        self._proc = proc
        self._usual_score = self._own_score()  # replicas inherit both
        self._usual_priority = os.getpriority(os.PRIO_PROCESS, 0)
        self._marked: Mapping[str, int] = {}
        self._slowed: Mapping[str, int] = {}

    def apply(self, marked: Mapping[str, int], slowed: Mapping[str, int]) -> None:
        """From now on these are restrained (instance -> process group), and no others.

        ``marked``: the kernel takes them first when memory runs out. ``slowed``: they get what others leave of the CPU.
        """
        scores = {self._marked[instance]: self._usual_score for instance in self._marked.keys() - marked.keys()}
        scores |= dict.fromkeys(marked.values(), FIRST_TO_GO)  # again each time: it may have started processes
        if scores:
            self._score(scores)
        for instance in self._slowed.keys() - slowed.keys():
            self._slow_down(instance, self._slowed[instance], slow=False)
        for instance in slowed.keys() - self._slowed.keys():
            self._slow_down(instance, slowed[instance], slow=True)
        self._marked, self._slowed = marked, slowed

    def _own_score(self) -> int:
        try:
            return int((self._proc / "self" / "oom_score_adj").read_text())
        except (OSError, ValueError):  # no system with such scores
            return 0

    def _score(self, scores: Mapping[int, int]) -> None:
        for group, pids in processes_by_group(scores).items():
            for pid in pids:
                with contextlib.suppress(OSError):  # it has just ended, or the system has no such scores
                    (self._proc / str(pid) / "oom_score_adj").write_text(str(scores[group]))

    def _slow_down(self, instance: str, group: int, *, slow: bool) -> None:
        if self._cgroups is not None and self._cgroups.slow_down(instance, slow):
            return
        try:
            os.setpriority(os.PRIO_PGRP, group, LOWEST_PRIORITY if slow else self._usual_priority)
        except ProcessLookupError:
            pass
        except PermissionError:  # only lowering one's priority is free to everybody
            log.info("process group %d keeps its low priority until it is started again", group)
