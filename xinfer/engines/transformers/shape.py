"""How large the cache of keys and values must be, and what fits into the memory that was granted. Pure."""

import msgspec

MIN_LENGTH = 64
"""The cache starts with so many positions per row, and grows by doubling."""


class CacheShape(msgspec.Struct, frozen=True):
    """``rows`` sequences of up to ``length`` tokens."""

    rows: int
    length: int

    @property
    def positions(self) -> int:
        """Tokens it has room for."""
        return self.rows * self.length

    def holds(self, rows: int, length: int) -> bool:
        """Whether so many rows of this length fit as it is."""
        return rows <= self.rows and length <= self.length


class CacheLimits(msgspec.Struct, frozen=True):
    """``positions``: what the memory has room for, in tokens over all rows."""

    max_rows: int
    max_length: int
    positions: int


def grown(current: CacheShape, rows: int, length: int, limits: CacheLimits) -> CacheShape | None:
    """The shape that holds ``rows`` x ``length``: doubled if memory allows, else exact; ``None`` if it does not fit."""
    if current.holds(rows, length):
        return current
    wide = min(limits.max_rows, max(_doubled(current.rows, rows), current.rows))
    long = min(limits.max_length, max(_doubled(max(current.length, MIN_LENGTH), length), current.length))
    for shape in (
        CacheShape(wide, long),
        CacheShape(max(rows, current.rows), long),
        CacheShape(rows, max(length, current.length)),
        CacheShape(rows, length),
    ):
        if shape.holds(rows, length) and shape.positions <= limits.positions:
            return shape
    return None


def _doubled(size: int, wanted: int) -> int:
    size = max(size, 1)
    while size < wanted:
        size *= 2
    return size
