"""The decisions of the transformers engine that need no library: the shape of the cache, and what is read together."""

from hypothesis import given
from hypothesis import strategies as st

from xinfer.engines.token_engine import Sequence
from xinfer.engines.transformers.rows import Row, next_window
from xinfer.engines.transformers.shape import CacheLimits, CacheShape, grown
from xinfer.generation.sampling import Sampling

sizes = st.integers(1, 200)


@given(sizes, sizes, st.integers(1, 40_000), st.lists(st.tuples(sizes, sizes), max_size=20))
def test_the_cache_grows_to_what_fits_and_never_beyond(max_rows, max_length, positions, wishes):
    limits = CacheLimits(max_rows, max_length, positions)
    shape = CacheShape(1, min(max_length, positions))
    for some_rows, some_length in wishes:
        rows, length = min(some_rows, max_rows), min(some_length, max_length)
        found = grown(shape, rows, length, limits)
        if found is None:
            assert rows * length > positions
            continue
        assert found.holds(rows, length)
        assert found.positions <= max(positions, shape.positions)
        assert found.rows <= max_rows
        assert found.length <= max_length
        shape = found


def test_the_cache_grows_by_doubling_so_that_it_grows_seldom():
    limits = CacheLimits(32, 4096, 32 * 4096)
    assert grown(CacheShape(1, 64), 2, 65, limits) == CacheShape(2, 128)
    assert grown(CacheShape(4, 128), 3, 100, limits) == CacheShape(4, 128)
    assert grown(CacheShape(4, 128), 5, 129, limits) == CacheShape(8, 256)
    assert grown(CacheShape(4, 4000), 4, 4001, limits) == CacheShape(4, 4096)


def row(size: int, filled: int = 0) -> Row:
    made = Row(Sequence([1] * size, Sampling(max_tokens=1), receiver=None))  # type: ignore[arg-type]
    made.filled = filled
    return made


@given(st.lists(st.tuples(sizes, st.booleans()), min_size=1, max_size=12), st.integers(16, 300))
def test_a_window_is_bounded_and_finishes_what_it_reads_together(rows, budget):
    waiting = [row(size, size - 1 if almost else 0) for size, almost in rows]
    count, tokens = next_window(waiting, budget)
    assert 1 <= count <= len(waiting)
    assert tokens >= 1
    assert count * tokens <= budget or count == 1
    assert tokens <= budget
    window = waiting[:count]
    assert len({one.filled for one in window}) == 1
    if count > 1:
        assert all(one.remaining <= tokens for one in window)


def test_a_long_prompt_is_read_alone_and_in_parts():
    assert next_window([row(1000), row(10)], 512) == (1, 512)
    assert next_window([row(1000, filled=800), row(10)], 512) == (1, 200)
    assert next_window([row(100), row(120), row(300)], 512) == (2, 120)
    assert next_window([row(50, filled=49)] * 3, 512) == (3, 1)
