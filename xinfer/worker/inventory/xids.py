"""Xid errors: what the NVIDIA driver reports of a card, and which of them a card survives."""

import contextlib
from typing import Any

from xinfer.worker.inventory.calls import NvmlCalls

HARMLESS = frozenset({13, 31, 43, 45, 63, 68, 92, 94, 109})
"""What a program did to itself (13, 31, 43, 45, 68, 109), or what the card has already contained or repaired (63, 92,
94). Everything else may leave the card in a state in which the next program fails too."""

_MEANINGS = {
    48: "uncorrectable memory error",
    62: "a microcontroller of the card halted",
    64: "a bad memory row could not be retired",
    74: "NVLink error",
    79: "the card fell off the bus",
    95: "uncontained memory error",
    119: "the firmware does not answer",
    120: "firmware error",
}


def is_fatal(xid: int) -> bool:
    """Whether a card that reported it must not be given to anybody until it was reset."""
    return xid not in HARMLESS


def described(xid: int) -> str:
    """``"Xid 79: the card fell off the bus"``."""
    meaning = _MEANINGS.get(xid)
    return f"Xid {xid}: {meaning}" if meaning else f"Xid {xid}"


class XidListener:
    """Collects the fatal Xid errors of every card. The driver queues them; nothing waits and no thread is needed.

    They go into ``fatal`` (UUID -> the first Xid), which outlives the listener: only a reset mends such a card.
    """

    def __init__(self, calls: NvmlCalls, fatal: dict[str, int]) -> None:
        self._calls = calls
        self._fatal = fatal
        self._events = self._listen()

    def _listen(self) -> Any:
        api = self._calls.api
        events = self._calls.ask(None, api.nvmlEventSetCreate)
        for index in range(0 if events is None else int(self._calls.ask(0, api.nvmlDeviceGetCount))):
            with contextlib.suppress(*self._calls.errors):  # some have none (WSL, guests) and are read all the same
                handle = api.nvmlDeviceGetHandleByIndex(index)
                api.nvmlDeviceRegisterEvents(handle, api.nvmlEventTypeXidCriticalError, events)
        return events

    def collect(self) -> None:
        """Take what came since the last time."""
        api = self._calls.api
        while self._events is not None:
            try:
                event = api.nvmlEventSetWait_v2(self._events, 0)
                uuid = str(api.nvmlDeviceGetUUID(event.device))
            except self._calls.errors:  # a timeout: there is no more
                break
            if is_fatal(int(event.eventData)):
                self._fatal.setdefault(uuid, int(event.eventData))

    def close(self) -> None:
        """Free the event set."""
        if self._events is not None:
            with contextlib.suppress(*self._calls.errors):
                self._calls.api.nvmlEventSetFree(self._events)
            self._events = None
