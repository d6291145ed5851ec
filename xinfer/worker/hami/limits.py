"""The limits that HAMi puts into a container's environment, as HAMi-core reads them."""

import re
from dataclasses import dataclass

MEMORY = "CUDA_DEVICE_MEMORY_LIMIT"
CORES = "CUDA_DEVICE_SM_LIMIT"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_ABSURD_MIB = 1 << 30


@dataclass(frozen=True)
class EnvironmentLimits:
    """Limits by the position of a device in the container's view; position ``None``: all without one of their own."""

    memory_mib: dict[int | None, int]
    cores: dict[int | None, int]
    warnings: tuple[str, ...] = ()

    def memory_of(self, index: int) -> tuple[str, int] | None:
        """The variable that limits a device, and its MiB; None: no limit."""
        return _of(self.memory_mib, MEMORY, index)

    def cores_of(self, index: int) -> tuple[str, int] | None:
        """The variable that limits a device, and its percent; None: no limit."""
        return _of(self.cores, CORES, index)

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.memory_mib or self.cores)


def _of(limits: dict[int | None, int], variable: str, index: int) -> tuple[str, int] | None:
    if index in limits:
        return f"{variable}_{index}", limits[index]
    return (variable, limits[None]) if None in limits else None


def read_limits(env: dict[str, str]) -> EnvironmentLimits:
    """Read every ``CUDA_DEVICE_MEMORY_LIMIT[_i]`` and ``CUDA_DEVICE_SM_LIMIT[_i]``; 0 and nonsense are no limits."""
    memory: dict[int | None, int] = {}
    cores: dict[int | None, int] = {}
    warnings: list[str] = []
    for variable, text in sorted(env.items()):
        named = re.fullmatch(rf"({MEMORY}|{CORES})(?:_(\d+))?", variable)
        if named is None or not text.strip():
            continue
        is_memory = named[1] == MEMORY
        value = memory_limit_mib(text) if is_memory else _percent(text)
        if value is None:
            wanted = "a size (bytes, or with k, m or g)" if is_memory else "a percentage from 0 to 100"
            warnings.append(f"{variable}={text} is not {wanted} and is ignored")
        elif value > 0:
            (memory if is_memory else cores)[int(named[2]) if named[2] else None] = value
    return EnvironmentLimits(memory, cores, tuple(warnings))


def memory_limit_mib(text: str) -> int | None:
    """``"8000m"`` as MiB, units of 1024; None: no size."""
    parsed = re.fullmatch(r"\s*(\d+)\s*([kmg]?)\s*", text, re.IGNORECASE)
    if parsed is None:
        return None
    mib = int(parsed[1]) * _UNITS[parsed[2].lower()] >> 20
    return mib if mib < _ABSURD_MIB else None


def _percent(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() and int(text) <= 100 else None
