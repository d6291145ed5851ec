"""The same answers as HAMi's scheduler on the same cards: its rules, written down a second time in its own terms."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice
from xinfer.slices.choose import choose
from xinfer.slices.fit import Reason, refusal, wanted_slice
from xinfer.slices.place import place
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Rooms
from xinfer.slices.score import ONE, device_score, worker_score
from xinfer.spec import Policy, Weights

NO_PERCENTAGE = 101
OUR_WORDS = {
    "CardNotHealth": Reason.UNHEALTHY,
    "CardCordoned": Reason.CORDONED,
    "CardTypeMismatch": Reason.TYPE_MISMATCH,
    "CardUuidMismatch": Reason.UUID_MISMATCH,
    "CardTimeSlicingExhausted": Reason.SLOTS_EXHAUSTED,
    "CardInsufficientMemory": Reason.INSUFFICIENT_MEMORY,
    "CardInsufficientCore": Reason.INSUFFICIENT_CORES,
    "ExclusiveDeviceAllocateConflict": Reason.EXCLUSIVE_CONFLICT,
    "CardComputeUnitsExhausted": Reason.CORES_EXHAUSTED,
}


@dataclass
class Card:
    """A card as HAMi keeps it."""

    index: int
    type: str
    numa: int
    count: int
    totalmem: int
    used: int = 0
    usedmem: int = 0
    usedcores: int = 0
    totalcore: int = 100
    health: bool = True
    cordoned: bool = False

    @property
    def uuid(self) -> str:
        return f"GPU-{self.index}"


@dataclass
class Ask:
    """A container's request, with the annotations of its pod."""

    nums: int
    memreq: int
    mem_percentage: int
    coresreq: int
    use_type: str = ""
    nouse_uuid: str = ""


def memory(card: Card, ask: Ask) -> int:
    return ask.memreq if ask.memreq > 0 else card.totalmem * ask.mem_percentage // 100


def card_reason(card: Card, ask: Ask) -> str:
    """The first check that fails; they are made in this order."""
    checks = {
        "CardNotHealth": not card.health,
        "CardCordoned": card.cordoned,
        "CardTypeMismatch": ask.use_type.upper() not in card.type.upper(),
        "CardUuidMismatch": ask.nouse_uuid == card.uuid,
        "CardTimeSlicingExhausted": card.count <= card.used,
        "CardInsufficientMemory": card.totalmem - card.usedmem < memory(card, ask),
        "CardInsufficientCore": card.totalcore - card.usedcores < ask.coresreq,
        "ExclusiveDeviceAllocateConflict": card.totalcore == 100 and ask.coresreq == 100 and card.used > 0,
        "CardComputeUnitsExhausted": 0 < card.totalcore == card.usedcores and ask.coresreq == 0,
    }
    return next((reason for reason, fails in checks.items() if fails), "")


def card_score(card: Card, ask: Ask, weights: Weights) -> Fraction:
    return 10 * (
        weights.slot * Fraction(ask.nums + card.used, card.count)
        + weights.core * Fraction(ask.coresreq + card.usedcores, card.totalcore)
        + weights.memory * Fraction(memory(card, ask) + card.usedmem, card.totalmem)
    )


def node_score(cards: list[Card]) -> Fraction:
    return 10 * (
        Fraction(sum(c.used for c in cards), sum(c.count for c in cards))
        + Fraction(sum(c.usedcores for c in cards), sum(c.totalcore for c in cards))
        + Fraction(sum(c.usedmem for c in cards), sum(c.totalmem for c in cards))
    )


def fit(cards: list[Card], ask: Ask, policy: Policy, weights: Weights) -> list[int] | None:
    """The indices of the cards that HAMi takes."""
    sign = -1 if policy is Policy.BINPACK else 1
    taken = []
    for card in sorted(cards, key=lambda c: (sign * card_score(c, ask, weights), c.numa, c.index)):
        if not card_reason(card, ask):
            taken.append(card.index)
        if len(taken) == ask.nums:
            return taken
    return None


@st.composite
def cards(draw: st.DrawFn) -> Card:
    """A card with some tenants, all of which once fitted."""
    index = draw(st.integers(0, 7))
    count, totalmem = draw(st.sampled_from([1, 4, 10])), draw(st.sampled_from([8192, 24576, 81559]))
    card = Card(index, draw(st.sampled_from(["NVIDIA A100", "NVIDIA L4"])), draw(st.integers(0, 1)), count, totalmem)
    card.health, card.cordoned = draw(st.integers(0, 9)) > 0, draw(st.integers(0, 9)) == 0
    for mem, core in draw(
        st.lists(st.tuples(st.integers(0, 40_000), st.sampled_from([0, 10, 25, 50, 100])), max_size=6)
    ):
        if not card_reason(Card(**(vars(card) | {"health": True, "cordoned": False})), Ask(1, mem, 0, core)):
            card.used, card.usedmem, card.usedcores = card.used + 1, card.usedmem + mem, card.usedcores + core
    return card


nodes = st.lists(cards(), min_size=1, max_size=5, unique_by=lambda card: card.index)
asks = st.builds(
    lambda nums, mem, cores, use_type, nouse: Ask(nums, *mem, cores, use_type, nouse),
    st.integers(1, 3),
    st.one_of(st.tuples(st.integers(1, 60_000), st.just(NO_PERCENTAGE)), st.tuples(st.just(0), st.integers(1, 100))),
    st.sampled_from([0, 10, 30, 50, 100]),
    st.sampled_from(["", "", "a100"]),
    st.sampled_from(["", "", "GPU-0"]),
)
weights = st.builds(Weights, slot=st.integers(0, 3), core=st.integers(0, 3), memory=st.integers(1, 3))
policies = st.sampled_from([Policy.BINPACK, Policy.SPREAD])


def ours(node: list[Card], name: str = "w") -> Rooms:
    rooms = Rooms(
        (
            Device(
                device_id=f"gpu-{card.index}",
                kind="cuda",
                name=card.type,
                index=card.index,
                uuid=card.uuid,
                numa=card.numa,
                memory_mib=card.totalmem,
                cores=100,
                slots=card.count,
                healthy=card.health,
            )
            for card in node
        ),
        worker_id=name,
    )
    for card in node:
        device_id = f"gpu-{card.index}"
        alone = card.usedcores == 100 and card.used == 1
        for first in range(card.used):
            mib, cores = (card.usedmem, card.usedcores) if first == 0 else (0, 0)
            rooms.take([DeviceSlice(device_id=device_id, memory_mib=mib, cores_percent=cores, exclusive=alone)])
        rooms.cordon(device_id, card.cordoned)
    return rooms


def translated(ask: Ask, policy: Policy, weights: Weights) -> SliceRequest:
    return SliceRequest(
        count=ask.nums,
        memory_mib=ask.memreq or None,
        memory_percent=None if ask.memreq else ask.mem_percentage,
        cores=ask.coresreq,
        types=(ask.use_type,) if ask.use_type else (),
        uuids_denied=(ask.nouse_uuid,) if ask.nouse_uuid else (),
        worker_policy=policy,
        device_policy=policy,
        weights=weights,
    )


def our_word(card: Card, reason: str) -> Reason:
    """HAMi does not remember that a card was sold as a whole; we do, and say so."""
    if reason == "CardComputeUnitsExhausted" and card.used == 1:
        return Reason.EXCLUSIVE_CONFLICT
    return OUR_WORDS[reason]


@given(nodes, asks, weights)
def test_every_card_gets_the_same_reason_and_the_same_score(node: list[Card], ask: Ask, weights: Weights) -> None:
    rooms, request = ours(node), translated(ask, Policy.SPREAD, weights)
    theirs = Counter(our_word(card, reason) for card in node if (reason := card_reason(card, ask)))
    found = [refusal(room, request) for room in rooms.by_id.values()]
    assert Counter(reason for reason in found if reason) == theirs
    for card in node:
        room = rooms.by_id[f"gpu-{card.index}"]
        score = device_score(room, wanted_slice(room, request), weights, ask.nums)
        assert score == card_score(card, ask, weights) * ONE // 1
    assert worker_score(rooms.totals) == node_score(node) * ONE // 1


@settings(max_examples=300)
@given(nodes, asks, weights, policies)
def test_the_same_cards_are_taken(node: list[Card], ask: Ask, weights: Weights, policy: Policy) -> None:
    slices = choose(translated(ask, policy, weights), ours(node).by_id.values())
    theirs = fit(node, ask, policy, weights)
    assert (slices and [piece.device_id for piece in slices]) == (theirs and [f"gpu-{index}" for index in theirs])
    if slices:
        by_index = {f"gpu-{card.index}": card for card in node}
        assert [piece.memory_mib for piece in slices] == [memory(by_index[p.device_id], ask) for p in slices]


@settings(max_examples=200)
@given(st.lists(nodes, min_size=1, max_size=4), asks, policies)
def test_the_same_node_is_taken(cluster: list[list[Card]], ask: Ask, policy: Policy) -> None:
    sign = -1 if policy is Policy.BINPACK else 1
    able = [
        (sign * node_score(node), number)
        for number, node in enumerate(cluster)
        if fit(node, ask, policy, Weights()) is not None
    ]
    workers = [ours(node, f"w{number}") for number, node in enumerate(cluster)]
    placement = place(translated(ask, policy, Weights()), workers)
    assert (placement and placement.worker_id) == (f"w{min(able)[1]}" if able else None)
