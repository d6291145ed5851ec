"""CUDA_VISIBLE_DEVICES: which of the cards somebody left to us."""

from xinfer.worker.inventory.cards import Card

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_cards(cards: tuple[Card, ...], env: dict[str, str]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards that ``CUDA_VISIBLE_DEVICES`` lets through, in its order, and warnings. Not set: all.

    As in CUDA, entries are indices or (beginnings of) UUIDs of cards and MIG instances, everything after the first
    entry that names nothing is invisible, and an entry named twice makes nothing visible. An index of a card that is
    divided by MIG stands for all of its instances.
    """
    text = env.get(VARIABLE)
    if text is None:
        return cards, ()
    chosen: list[Card] = []
    warnings: list[str] = []
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    for entry in entries:
        named = _named(cards, entry)
        if not named:
            if entry not in ("-1", "none", "NoDevFiles"):  # how people write "no device"
                warnings.append(f"{VARIABLE}={text}: {entry!r} names no card; it and all after it are not used")
            break
        if any(card in chosen for card in named):
            return (), (f"{VARIABLE}={text} names {entry!r} twice: CUDA sees no card then",)
        chosen.extend(named)
    if _order_is_doubtful(cards, entries, env):
        warnings.append(
            f"{VARIABLE}={text}: the machine has cards of several models, which CUDA may count in another order than "
            "here; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs"
        )
    return tuple(chosen), tuple(warnings)


def _named(cards: tuple[Card, ...], entry: str) -> list[Card]:
    if entry.isdigit():
        return [card for card in cards if card.index == int(entry)]
    if entry.startswith(("GPU-", "MIG-")):
        matching = [card for card in cards if card.uuid.startswith(entry)]
        instances = [card for card in cards if card.is_mig and card.parent_uuid == entry]
        return matching if len(matching) == 1 else instances
    return []


def _order_is_doubtful(cards: tuple[Card, ...], entries: list[str], env: dict[str, str]) -> bool:
    """NVML counts by PCI bus; CUDA puts the fastest first unless told otherwise."""
    models = {card.name for card in cards if not card.is_mig}
    by_index = any(entry.isdigit() for entry in entries)
    return by_index and len(models) > 1 and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
