"""How near two cards are: one number for each pair, on the scale that HAMi's scheduler uses."""

from typing import Any

from xinfer.worker.inventory.calls import NvmlCalls, bus_of

SCORE_OF_ANCESTOR = {0: 60, 10: 50, 20: 40, 30: 30, 40: 20, 50: 10}
"""What two cards have in common on PCIe (NVML's levels: board, one switch, several switches, host bridge, NUMA node,
system) -> score."""
SCORE_OF_NVLINK = 100
SWITCH = "switch"
"""What an NVSwitch is called among the ends of a card's links."""


def pair_score(ancestor: int | None, nvlinks: int) -> int:
    """The score of two cards with this common ancestor (None: not known) and so many links between them."""
    near = 0 if ancestor is None else SCORE_OF_ANCESTOR.get(ancestor, 0)
    return near + SCORE_OF_NVLINK * nvlinks


def links_between(one: dict[str, int], one_bus: str, other: dict[str, int], other_bus: str) -> int:
    """How many NVLinks join two cards, from the ends of the links of each: PCI bus id (or ``SWITCH``) -> links.

    A switch joins all cards on it, two of them with as many links as the poorer one has.
    """
    direct = max(one.get(other_bus, 0), other.get(one_bus, 0))
    return direct + min(one.get(SWITCH, 0), other.get(SWITCH, 0))


class LinkReader:
    """Reads pair scores from NVML. Remembers the links of a card: they do not change, and each costs a call."""

    def __init__(self, calls: NvmlCalls) -> None:
        self._calls = calls
        self._ends: dict[str, dict[str, int]] = {}

    def scores(self, handles: dict[str, Any]) -> dict[str, dict[str, int]]:
        """UUID -> UUID -> score, for cards by UUID.

        Raises:
            NVMLError: a card was lost meanwhile.
        """
        buses = {uuid: self._calls.bus(handle) for uuid, handle in handles.items()}
        ends = {uuid: self._ends_of(uuid, handle) for uuid, handle in handles.items()}
        scores: dict[str, dict[str, int]] = {uuid: {} for uuid in handles}
        for one, first in handles.items():
            for other, second in handles.items():
                if one < other:
                    ancestor = self._calls.ask(None, self._calls.api.nvmlDeviceGetTopologyCommonAncestor, first, second)
                    links = links_between(ends[one], buses[one], ends[other], buses[other])
                    scores[one][other] = scores[other][one] = pair_score(ancestor, links)
        return scores

    def _ends_of(self, uuid: str, handle: Any) -> dict[str, int]:
        if uuid not in self._ends:
            self._ends[uuid] = self._read_ends(handle)
        return self._ends[uuid]

    def _read_ends(self, handle: Any) -> dict[str, int]:
        ask, api = self._calls.ask, self._calls.api
        ends: dict[str, int] = {}
        for link in range(api.NVML_NVLINK_MAX_LINKS):
            active = ask(None, api.nvmlDeviceGetNvLinkState, handle, link)
            if active is None:  # no such link, and none after it
                break
            if not active:
                continue
            kind = ask(api.NVML_NVLINK_DEVICE_TYPE_GPU, api.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
            if kind == api.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                end = SWITCH
            else:
                end = bus_of(ask(None, api.nvmlDeviceGetNvLinkRemotePciInfo, handle, link))
            ends[end] = ends.get(end, 0) + 1
        return ends
