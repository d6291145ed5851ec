"""Tags in a stream of text."""

from collections.abc import Iterable


def partial_tag(text: str, *tags: str) -> int:
    """How many of the last characters could be the beginning of a tag (a whole tag does not count)."""
    return max((_begun(text, tag) for tag in tags), default=0)


def _begun(text: str, tag: str) -> int:
    start = max(0, len(text) - len(tag) + 1)
    while (start := text.find(tag[:1], start)) >= 0:
        if tag.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0


def first_tag(text: str, tags: Iterable[str]) -> tuple[int, str] | None:
    """Where the first of the tags is, and which; of those at one place the longest."""
    found = [(start, -len(tag), tag) for tag in tags if (start := text.find(tag)) >= 0]
    if not found:
        return None
    start, _, tag = min(found)
    return start, tag


def begins_tag(text: str, *tags: str) -> bool:
    """Whether more text could make a tag of this one: it is empty or the beginning of a tag, and not yet all of it."""
    return any(len(tag) > len(text) and tag.startswith(text) for tag in tags)
