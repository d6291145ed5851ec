"""Tags in a stream of text."""


def partial_tag(text: str, tag: str) -> int:
    """How many of the last characters could be the beginning of the tag (the whole tag does not count)."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0
