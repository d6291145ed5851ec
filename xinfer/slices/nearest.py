"""The request that would fit, where one does not."""

from collections.abc import Callable, Sequence

import msgspec

from xinfer.slices.place import place
from xinfer.slices.request import ALL, SliceRequest
from xinfer.slices.rooms import Rooms


class Nearest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has to be changed in a request, and to what; the rest of it stays."""

    count: int | None = None
    memory_mib: int | None = None
    memory_percent: int | None = None
    cores: int | None = None

    @property
    def text(self) -> str:
        """In words: "with 300 MiB and 20 % of the cores"."""
        if self.count is not None:
            return f"on {self.count} device{'s' if self.count > 1 else ''}"
        parts = (
            (self.memory_mib, "{} MiB"),
            (self.memory_percent, "{} % of the memory"),
            (self.cores, "{} % of the cores"),
        )
        return "with " + " and ".join(words.format(value) for value, words in parts if value is not None)


def nearest(request: SliceRequest, workers: Sequence[Rooms]) -> Nearest | None:
    """The most that fits instead of a request that does not; None: of these devices not even the least.

    Less memory or fewer cores, whichever keeps the larger part of what was asked for; where neither is enough, less of
    both; else the same of fewer devices.
    """
    in_mib = request.memory_mib is not None
    asked_memory = request.memory_mib or request.memory_percent or 0
    asked_cores = ALL if request.exclusive else request.cores

    def changed(*, memory: int | None = None, cores: int | None = None, count: int | None = None) -> Nearest:
        return Nearest(
            memory_mib=memory if in_mib else None,
            memory_percent=None if in_mib else memory,
            cores=cores,
            count=count,
        )

    def fits(change: Nearest) -> bool:
        return place(_applied(request, change), workers) is not None

    memory = _largest(1, asked_memory - 1, lambda value: fits(changed(memory=value)))
    cores = _largest(0, asked_cores - 1, lambda value: fits(changed(cores=value)))
    if memory is not None and (cores is None or memory * asked_cores >= cores * asked_memory):
        return changed(memory=memory)
    if cores is not None:
        return changed(cores=cores)
    memory = _largest(1, asked_memory - 1, lambda value: fits(changed(memory=value, cores=0)))
    if memory is not None:
        cores = _largest(0, asked_cores - 1, lambda value: fits(changed(memory=memory, cores=value)))
        return changed(memory=memory, cores=cores)
    count = _largest(1, request.count - 1, lambda value: fits(changed(count=value)))
    return None if count is None else changed(count=count)


def _applied(request: SliceRequest, change: Nearest) -> SliceRequest:
    fields = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
    if change.cores is not None:
        fields["exclusive"] = False
    return msgspec.structs.replace(request, **fields)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number in low..high that fits; every smaller one fits if a larger one does."""
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
