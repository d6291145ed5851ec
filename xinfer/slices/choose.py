"""Which devices of one worker a replica gets. Same devices and request: same choice, whatever their order."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

from xinfer.devices import DeviceSlice
from xinfer.slices.fit import forbidden, lack, wanted_slice
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Room
from xinfer.slices.score import device_score
from xinfer.spec import Policy

MAX_COMBINATIONS = 10_000
"""Up to so many combinations of devices are all looked at."""
BEAM = 64
"""Beyond that, so many of the best partial combinations are carried on."""
SAME_NUMA = 1
"""Link score of two devices on one NUMA node whose link is not known; the slowest known link has 10."""


class Candidate(NamedTuple):
    """A device that fits, with the slice that the request would get there."""

    room: Room
    piece: DeviceSlice
    score: int


class Choice(NamedTuple):
    """A set of devices for a request. ``rank``: of two choices the lower is better."""

    slices: tuple[DeviceSlice, ...]
    rank: tuple[int, ...]


def choose(request: SliceRequest, rooms: Iterable[Room]) -> tuple[DeviceSlice, ...] | None:
    """The slices of the best devices of one worker, or None if too few fit."""
    fitting = candidates(request, rooms)
    if len(fitting) < request.count:
        return None
    best = min((_best(request, group) for group in groups(request, fitting)), key=lambda it: it.rank, default=None)
    return best.slices if best else None


def candidates(request: SliceRequest, rooms: Iterable[Room]) -> list[Candidate]:
    """The devices that fit."""
    fitting = []
    for room in rooms:
        if forbidden(room, request) is None:
            piece = wanted_slice(room, request)
            if lack(room, piece) is None:
                fitting.append(Candidate(room, piece, device_score(room, piece, request.weights, request.count)))
    return fitting


def groups(request: SliceRequest, fitting: Sequence[Candidate]) -> list[list[Candidate]]:
    """The sets of devices within which all devices of the request have to be, if they are large enough."""
    if not request.numa_bind:
        return [list(fitting)] if len(fitting) >= request.count else []
    nodes: dict[int, list[Candidate]] = {}
    for candidate in fitting:
        nodes.setdefault(candidate.room.device.numa, []).append(candidate)
    return [nodes[numa] for numa in sorted(nodes) if len(nodes[numa]) >= request.count]


def _best(request: SliceRequest, group: list[Candidate]) -> Choice:
    binpack = request.device_policy is Policy.BINPACK
    ordered = sorted(group, key=lambda one: _order(one, binpack=binpack))
    if request.device_policy is Policy.TOPOLOGY:
        chosen, link_rank = _by_links(ordered, request.count)
    else:
        chosen, link_rank = ordered[: request.count], 0
    filled = sum(one.score for one in chosen)
    numa = min(one.room.device.numa for one in chosen)
    return Choice(tuple(one.piece for one in chosen), (link_rank, -filled if binpack else filled, numa))


def _order(one: Candidate, *, binpack: bool) -> tuple[int, int, int, str]:
    device = one.room.device
    return (-one.score if binpack else one.score, device.numa, device.index, device.device_id)


def _by_links(ordered: list[Candidate], count: int) -> tuple[list[Candidate], int]:
    """The best connected set of devices, and its rank. For one device: the one that is worst connected to the rest."""
    links = [[_link(one.room, other.room) for other in ordered] for one in ordered]
    if count == 1:
        sums = [sum(row) for row in links]
        worst = sums.index(min(sums))
        return [ordered[worst]], sums[worst]
    if comb(len(ordered), count) <= MAX_COMBINATIONS:
        # Of equal ones max takes the first, which has the devices that come first in the order.
        chosen = max(combinations(range(len(ordered)), count), key=lambda numbers: _inner(links, numbers))
    else:
        chosen = _beam(links, count)
    return [ordered[number] for number in chosen], -_inner(links, chosen)


def _inner(links: list[list[int]], numbers: tuple[int, ...]) -> int:
    return sum(links[one][other] for one, other in combinations(numbers, 2))


def _beam(links: list[list[int]], count: int) -> tuple[int, ...]:
    """A good set where looking at all takes too long: sets grow device by device, and the best ones go on."""
    sets: dict[tuple[int, ...], int] = {(number,): 0 for number in range(len(links))}
    for _ in range(count - 1):
        grown = {
            tuple(sorted((*numbers, more))): score + sum(links[more][number] for number in numbers)
            for numbers, score in sets.items()
            for more in range(len(links))
            if more not in numbers
        }
        best = sorted(grown.items(), key=lambda item: (-item[1], item[0]))
        sets = dict(best[:BEAM])
    return next(iter(sets))


def _link(one: Room, other: Room) -> int:
    """How fast two devices are connected, from either side's view."""
    if one is other:
        return 0
    a, b = one.device, other.device
    known = max(a.pair_scores.get(b.device_id, 0), b.pair_scores.get(a.device_id, 0))
    return known or (SAME_NUMA if a.numa == b.numa >= 0 else 0)
