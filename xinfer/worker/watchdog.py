"""Who uses more than its slice. Pure: what devices report, leases and the time in; who is over, and who has to go, out.

It decides by what devices say each replica uses. Where they cannot tell replicas apart, it says nothing of anybody.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from xinfer.devices import Device, DeviceUse, Lease
from xinfer.worker.leases import per_device

OverLimit = Literal["report", "throttle", "end"]
READINGS = 3
"""So often in a row a replica must be seen over its slice: a peak while weights are loaded is none."""
MIN_TOLERANCE_MIB = 64
"""An interpreter and its libraries, of which a small slice would be full."""
LOW_SHARE_OF_RESERVE = 2
"""Main memory runs out when less than half of what is kept for the system is free."""


@dataclass(frozen=True)
class Overuse:
    """A replica that uses more of a device than its slice. Memory in MiB, time in seconds."""

    replica_id: str
    device_id: str
    used_mib: int
    slice_mib: int
    for_s: float
    lasts: bool
    """It is no peak: it has been over for as long, and as often, as is forgiven."""

    @property
    def over_mib(self) -> int:
        """How much it uses beyond its slice."""
        return self.used_mib - self.slice_mib

    def __str__(self) -> str:
        return f"{self.used_mib} MiB of its {self.slice_mib} MiB on device {self.device_id}"


@dataclass(frozen=True)
class Judgement:
    """What one look at the devices comes to."""

    over: tuple[Overuse, ...] = ()
    """Everybody who is over, peaks too: whom the kernel should take first."""
    to_end: Mapping[str, str] = field(default_factory=dict)
    """replica_id -> why it has to go."""

    @property
    def lasting(self) -> tuple[Overuse, ...]:
        """Those who are over for good."""
        return tuple(one for one in self.over if one.lasts)


@dataclass
class _Streak:
    since: float
    readings: int = 0


class Watchdog:
    """Compares what replicas use with their leases, look after look.

    Args:
        action: what becomes of a replica that is over for good; only "end" is a verdict, the rest is up to the caller.
        grace_s: seconds that a replica may be over.
        tolerance_percent: of its slice, that count as within.
    """

    def __init__(self, action: OverLimit, *, grace_s: float, tolerance_percent: int) -> None:
        self.action = action
        self._grace_s = grace_s
        self._tolerance_percent = tolerance_percent
        self._streaks: dict[tuple[str, str], _Streak] = {}

    def forget(self, replica_id: str) -> None:
        """A new process of the replica starts: what the one before used does not count against it."""
        self._streaks = {key: streak for key, streak in self._streaks.items() if key[0] != replica_id}

    def judge(
        self, uses: Iterable[DeviceUse], leases: Iterable[Lease], devices: Iterable[Device], now: float
    ) -> Judgement:
        """Take one look into account.

        Args:
            uses: what the devices reported.
            leases: what runs, and what was given to it.
            devices: the same devices as the books have them.
            now: seconds of a clock that never steps.
        """
        uses = tuple(uses)
        over = tuple(self._over(uses, leases, now))
        current = {(one.replica_id, one.device_id) for one in over}
        self._streaks = {key: streak for key, streak in self._streaks.items() if key in current}
        if self.action != "end":
            return Judgement(over)
        to_end = {one.replica_id: _reason(one) for one in over if one.lasts}
        for device_id in _running_out(uses, devices):
            here = [one for one in over if one.device_id == device_id]
            if here and not any(one.replica_id in to_end for one in here):  # one at a time: it frees what is needed
                worst = max(here, key=lambda one: (one.over_mib, one.replica_id))
                to_end[worst.replica_id] = f"the machine was running out of memory, and {_reason(worst)}"
        return Judgement(over, to_end)

    def _over(self, uses: Iterable[DeviceUse], leases: Iterable[Lease], now: float) -> Iterator[Overuse]:
        by_device = {use.device_id: use for use in uses}
        for lease in leases:
            for piece in per_device(lease.slices):
                use = by_device.get(piece.device_id)
                used_mib = use.by_replica.get(lease.replica_id, 0) if use is not None else 0
                if used_mib <= piece.memory_mib + self._tolerance_mib(piece.memory_mib):
                    continue
                streak = self._streaks.setdefault((lease.replica_id, piece.device_id), _Streak(now))
                streak.readings += 1
                lasts = streak.readings >= READINGS and now - streak.since >= self._grace_s
                yield Overuse(
                    lease.replica_id, piece.device_id, used_mib, piece.memory_mib, now - streak.since, lasts=lasts
                )

    def _tolerance_mib(self, slice_mib: int) -> int:
        return max(MIN_TOLERANCE_MIB, slice_mib * self._tolerance_percent // 100)


def _running_out(uses: Iterable[DeviceUse], devices: Iterable[Device]) -> Iterator[str]:
    """Devices whose memory everybody on the machine needs, and of which hardly any is left."""
    reserves = {device.device_id: device.reserve_mib for device in devices if device.kind == "cpu"}
    for use in uses:
        reserve_mib = reserves.get(use.device_id)
        if reserve_mib and use.free_mib is not None and use.free_mib < reserve_mib // LOW_SHARE_OF_RESERVE:
            yield use.device_id


def _reason(overuse: Overuse) -> str:
    time = f" for {overuse.for_s:.0f} s" if overuse.for_s >= 1.0 else ""
    return f"it used {overuse}{time}; give it more (--gpumem), or less to do at a time"


def warning(overuse: Overuse, action: OverLimit) -> str:
    """A lasting overuse in words, with what is done about it."""
    slowed = "; it runs at the lowest priority until it is within its slice again" if action == "throttle" else ""
    return f"it uses {overuse}{slowed}"
