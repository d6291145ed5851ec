"""What the devices of one worker report, as far as it bears on what may be placed there. Pure.

A reading is a few seconds old when it is asked for. Two things have changed since then that can be told: a replica has
ended, whose memory the reading still counts as used; and the free main memory of a machine, which moves all the time.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from xinfer.devices import Device, DeviceSlice, DeviceUse
from xinfer.protocol import WorkerReport
from xinfer.slices.usage import used_by

CPU = "cpu"
STEADY_S = 30.0
"""Of main memory, the most that was free within so many seconds counts: a worker waits for room as long."""


class Readings:
    """The free memory of a worker's devices by their own account, as far as they give one."""

    def __init__(self) -> None:
        self.free_mib: dict[str, int] = {}
        """By device id. Replicas that have ended since do not count as using any of it."""
        self._uses: dict[str, DeviceUse] = {}
        self._named: frozenset[str] = frozenset()
        """The devices that say which replica uses how much."""
        self._freed_mib: dict[str, int] = {}
        self._peaks: dict[str, deque[tuple[float, int]]] = {}
        """By device id, times and MiB, the latest last and every one lower than those before it."""

    def take(self, before: WorkerReport, report: WorkerReport, devices: Iterable[Device], now: float) -> None:
        """Take over what a report says. ``before`` is the one that came before it, ``now`` epoch seconds."""
        if report.uses != before.uses:
            self._freed_mib = {}
        # A worker reports the end of a replica before it has looked at its devices again.
        for piece in _ended(before, report):
            self._freed_mib[piece.device_id] = self._freed_mib.get(piece.device_id, 0) + piece.memory_mib
        kinds = {device.device_id: device.kind for device in devices}
        self._uses = {use.device_id: use for use in report.uses if use.free_mib is not None}
        self._named = frozenset(use.device_id for use in self._uses.values() if use.by_replica)
        self.free_mib = {
            device_id: self._free(use, on_cpu=kinds.get(device_id) == CPU, now=now)
            for device_id, use in self._uses.items()
        }

    def used_by(self, reserved_mib: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """MiB by device and replica, of devices with replicas that give an account of themselves.

        ``reserved_mib``: what the replicas that run on each device have reserved there.
        """
        found = {}
        for device_id in self._named.union(reserved_mib):
            use = self._uses.get(device_id)
            if use is not None:
                found[device_id] = {**use.by_replica, **used_by(use, reserved_mib.get(device_id, {}))}
        return found

    def _free(self, use: DeviceUse, *, on_cpu: bool, now: float) -> int:
        free = use.free_mib or 0
        if not use.by_replica:  # else those that have ended are seen by name
            free += min(self._freed_mib.get(use.device_id, 0), use.used_mib or 0)
        if not on_cpu:
            return free
        ours = sum(use.by_replica.values())
        return self._steady(use.device_id, free + ours, now) - ours

    def _steady(self, device_id: str, mib: int, now: float) -> int:
        """The highest of the latest values, this one among them."""
        peaks = self._peaks.setdefault(device_id, deque())
        while peaks and peaks[-1][1] <= mib:
            peaks.pop()
        peaks.append((now, mib))
        while peaks[0][0] < now - STEADY_S:
            peaks.popleft()
        return peaks[0][1]


def _ended(before: WorkerReport, report: WorkerReport) -> list[DeviceSlice]:
    """The slices of replicas that ran at the time of the last report and do not any more."""
    running = {(status.replica_id, status.generation) for status in report.replicas if not status.state.is_final}
    return [
        piece
        for status in before.replicas
        if not status.state.is_final and (status.replica_id, status.generation) not in running
        for piece in status.slices
    ]
