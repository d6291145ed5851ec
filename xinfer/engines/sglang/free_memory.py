"""How much memory is free: SGLang's share of memory is of that, not of all there is."""

import logging
from collections.abc import Mapping, Sequence

import psutil

from xinfer.devices import Budget
from xinfer.errors import describe

log = logging.getLogger(__name__)

MIB = 1024 * 1024


def free_mib(cards: Sequence[Budget], env: Mapping[str, str]) -> list[int]:
    """What each card has free now; where nobody can tell, all of its memory.

    Args:
        cards: in the order in which the process counts them.
        env: that the process was started with; it says which cards those are.
    """
    totals = [card.total_mib for card in cards]
    names = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(names) != len(cards):
        return totals
    import pynvml  # noqa: PLC0415  it loads the driver's library

    try:
        pynvml.nvmlInit()
        try:
            return [min(total, _free_of(pynvml, name)) for total, name in zip(totals, names, strict=True)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        log.warning("NVML does not say how much of the cards is free: %s", describe(error))
        return totals


def _free_of(pynvml: object, name: str) -> int:
    by_index, by_uuid = (getattr(pynvml, f"nvmlDeviceGetHandleBy{key}") for key in ("Index", "UUID"))
    handle = by_index(int(name)) if name.isdigit() else by_uuid(name)
    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) // MIB  # type: ignore[attr-defined]  # it has no types


def free_cpu_mib() -> int:
    """What the machine has free now."""
    return int(psutil.virtual_memory().available) // MIB
