"""What one replica asks for: so many devices of one worker, and on each of them memory and cores."""

import msgspec

from xinfer.errors import InvalidSliceRequest
from xinfer.spec import Policy, Weights

ALL = 100
"""Percent of a device."""


class SliceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` devices of one worker; ``memory_*`` and ``cores`` are meant for each of them.

    Making one raises InvalidSliceRequest if it cannot be meant, whatever devices there are.
    """

    count: int = 1
    memory_mib: int | None = None
    memory_percent: int | None = None
    """Of the device's memory, rounded down to MiB."""
    cores: int = 0
    """Percent of the device's cores; 0: no limit, and no claim. 100: the device for itself."""
    exclusive: bool = False
    """The device for itself, with all of its cores."""
    types: tuple[str, ...] = ()
    """Only devices with one of these words in their name, or of this kind; case does not matter."""
    types_denied: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    """Only devices with one of these numbers on their worker."""
    uuids: tuple[str, ...] = ()
    """Only devices with one of these UUIDs, their own or the card's."""
    uuids_denied: tuple[str, ...] = ()
    numa_bind: bool = False
    """All devices on one NUMA node. Devices whose node is not known count as one node."""
    anti_affinity: frozenset[str] = frozenset()
    """UUIDs of physical cards to stay away from, because other replicas of the model run there."""
    worker_policy: Policy | None = None
    """None: it is left to whoever places; ``place`` itself spreads."""
    device_policy: Policy | None = None
    weights: Weights = Weights()

    def __post_init__(self) -> None:
        _check_range("count", self.count, 1)
        _check_range("cores", self.cores, 0, ALL)
        if self.memory_mib is not None and self.memory_percent is not None:
            raise InvalidSliceRequest(
                f"memory is asked for twice, as {self.memory_mib} MiB and as {self.memory_percent} %; choose one",
                param="memory_percent",
            )
        if self.memory_mib is not None:
            _check_range("memory_mib", self.memory_mib, 1)
        elif self.memory_percent is not None:
            _check_range("memory_percent", self.memory_percent, 1, ALL)
        else:
            raise InvalidSliceRequest("no memory is asked for; say memory_mib or memory_percent", param="memory_mib")
        if self.exclusive and self.cores not in (0, ALL):
            raise InvalidSliceRequest(
                f"an exclusive device comes with all of its cores, not with {self.cores} %", param="cores"
            )
        if self.worker_policy is Policy.TOPOLOGY:
            raise InvalidSliceRequest(
                f"workers are chosen by {Policy.BINPACK} or {Policy.SPREAD}; {Policy.TOPOLOGY} is for devices",
                param="worker_policy",
            )
        for name, weight in msgspec.structs.asdict(self.weights).items():
            _check_range(f"weights.{name}", weight, 0)

    @property
    def is_choosy(self) -> bool:
        """Whether it matters which device it is, not only what is free there."""
        return bool(
            self.types or self.types_denied or self.indices or self.uuids or self.uuids_denied or self.anti_affinity
        )


def _check_range(name: str, value: int, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        limits = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise InvalidSliceRequest(f"{name} must be {limits}, not {value}", param=name)
