import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Grant, Lease
from xinfer.engines.batch_engine import BatchEngine, Prepared, RateMeter
from xinfer.engines.batch_queue import BatchLimits, BatchQueue, Piece
from xinfer.errors import EngineFailed, InvalidRequest, NotReady
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

LIMITS = BatchLimits(max_tokens=64, max_items=8, max_padding=0.25, free_padding=8)

OWNERS = st.lists(st.lists(st.integers(1, 80), min_size=1, max_size=30), min_size=1, max_size=6)


def queue_of(lengths_by_owner, limits=LIMITS):
    queue = BatchQueue(limits)
    for owner, lengths in enumerate(lengths_by_owner):
        for index, tokens in enumerate(lengths):
            queue.add(Piece(owner, index, tokens, None))
    return queue


def drain(queue):
    batches = []
    while batch := queue.next_batch():
        batches.append(batch)
    return batches


@given(OWNERS)
def test_every_input_runs_exactly_once_and_nothing_stays(owners):
    queue = queue_of(owners)
    ran = [(piece.owner, piece.index) for batch in drain(queue) for piece in batch]
    assert sorted(ran) == [(owner, index) for owner, lengths in enumerate(owners) for index in range(len(lengths))]
    assert (len(queue), queue.tokens, bool(queue)) == (0, 0, False)


@given(OWNERS)
def test_a_batch_keeps_its_limits(owners):
    for batch in drain(queue_of(owners)):
        padded = max(piece.tokens for piece in batch) * len(batch)
        padding = padded - sum(piece.tokens for piece in batch)
        assert len(batch) <= LIMITS.max_items
        assert len(batch) == 1 or padded <= LIMITS.max_tokens
        assert padding <= max(LIMITS.free_padding, LIMITS.max_padding * padded)


@given(OWNERS)
def test_everybody_gets_ahead_once_in_as_many_batches_as_there_are_owners(owners):
    queue = queue_of(owners)
    left = {owner: set(range(len(lengths))) for owner, lengths in enumerate(owners)}
    waited = dict.fromkeys(left, 0)
    while batch := queue.next_batch():
        for owner in waited:
            waited[owner] += 1
        for piece in batch:
            if piece.index == min(left[piece.owner]):
                waited[piece.owner] = 0
        for piece in batch:
            left[piece.owner].discard(piece.index)
        left = {owner: indices for owner, indices in left.items() if indices}
        waited = {owner: waited[owner] for owner in left}
        assert all(count <= len(owners) for count in waited.values())


@given(OWNERS, st.data())
def test_what_an_owner_had_waiting_never_runs_after_it_was_dropped(owners, data):
    queue = queue_of(owners)
    queue.next_batch()
    dropped = data.draw(st.integers(0, len(owners)))
    queue.drop(dropped)
    rest = [piece for batch in drain(queue) for piece in batch]
    assert dropped not in {piece.owner for piece in rest}
    assert queue.tokens == 0


def test_a_small_request_that_comes_while_a_batch_of_a_huge_one_runs_is_in_the_next_batch():
    queue = queue_of([[10] * 2000])
    for newcomer in range(5):
        queue.next_batch()
        queue.add(Piece(f"small {newcomer}", 0, 60, None))
        assert f"small {newcomer}" in {piece.owner for piece in queue.next_batch()}


def test_a_huge_request_gets_on_however_many_small_ones_come():
    queue = queue_of([[60] * 5])
    for newcomer in range(20):
        queue.add(Piece(f"small {newcomer}", 0, 1, None))
        queue.next_batch()
    assert 0 not in {piece.owner for batch in drain(queue) for piece in batch}


def test_inputs_of_like_length_run_together():
    queue = queue_of([[4], [60], [5], [58], [4], [5]], BatchLimits(max_tokens=256, max_items=8, free_padding=8))
    assert [[piece.tokens for piece in batch] for batch in drain(queue)] == [[4, 4, 5, 5], [60, 58]]


def test_the_rate_forgets():
    meter = RateMeter(memory_s=5)
    assert meter.rate(0) == 0
    for second in range(100):
        meter.add(second, 1000)
    assert meter.rate(99) == pytest.approx(1000, rel=0.15)
    assert meter.rate(200) < 1


class Gate(BatchEngine):
    """An engine whose inputs are words, each as long as its letters; each batch waits for its turn."""

    def __init__(self, limits=LIMITS):
        super().__init__()
        self.limits = limits
        self.batches = []
        self.prepared = []
        self.threads = set()
        self.entered = threading.Semaphore(0)
        self.turns = threading.Semaphore(0)

    def open(self, spec, options, grant, progress):
        self.threads.add(threading.get_ident())
        if options.get("broken"):
            raise ValueError("no weights")
        return self.limits

    def prepare(self, inputs):
        self.threads.add(threading.get_ident())
        self.prepared += inputs
        if "unpreparable" in inputs:
            raise RuntimeError("tokenizer")
        return [
            InvalidRequest("refused", param=word) if word == "refused" else Prepared(len(word), word) for word in inputs
        ]

    def run(self, payloads):
        self.threads.add(threading.get_ident())
        self.entered.release()
        self.turns.acquire()
        self.batches.append(list(payloads))
        if "poison" in payloads:
            raise RuntimeError("out of memory")
        return [word.upper() for word in payloads]


SPEC = ModelSpec(name="m", kind=Kind.EMBEDDING, source="", format=Format.NONE)
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))


def with_engine(scenario, engine=None):
    """Run ``await scenario(engine)`` with a loaded engine, and close it whatever happens."""
    engine = engine or Gate()

    async def main():
        await engine.load(SPEC, {}, GRANT, lambda stage, fraction: None)
        try:
            return await scenario(engine)
        finally:
            engine.turns.release(10_000)
            await engine.close()

    return asyncio.run(main())


async def entered(engine):
    """Wait until a batch has begun."""
    await asyncio.to_thread(engine.entered.acquire)


async def ticks():
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_results_come_back_in_the_order_of_the_inputs_with_the_sum_of_tokens():
    async def scenario(engine):
        engine.turns.release(100)
        answer = await engine.submit(["ccc", "a", "bbbbbbbb", "a", "dd"])
        assert answer.results == ["CCC", "A", "BBBBBBBB", "A", "DD"]
        assert answer.tokens == 15
        assert len(engine.threads) == 1
        assert threading.get_ident() not in engine.threads

    with_engine(scenario)


def test_what_arrives_while_a_batch_runs_makes_the_next_one():
    async def scenario(engine):
        first = asyncio.create_task(engine.submit(["a"]))
        await entered(engine)
        others = [asyncio.create_task(engine.submit([word])) for word in ("b", "c", "d")]
        await ticks()
        load = engine.load_report()
        assert (load.running, load.queued) == (1, 3)
        engine.turns.release(2)
        answers = await asyncio.gather(first, *others)
        assert [answer.results for answer in answers] == [["A"], ["B"], ["C"], ["D"]]
        assert engine.batches == [["a"], ["b", "c", "d"]]
        load = engine.load_report()
        assert (load.running, load.queued, load.tokens_queued) == (0, 0, 0)
        assert load.tokens_per_s > 0

    with_engine(scenario)


def test_each_input_is_prepared_once_however_many_batches_it_takes():
    async def scenario(engine):
        engine.turns.release(10_000)
        words = [f"w{index}" for index in range(500)]
        answer = await engine.submit(words)
        assert answer.results == [word.upper() for word in words]
        assert sorted(engine.prepared) == sorted(words)
        assert len(engine.batches) >= 500 / LIMITS.max_items

    with_engine(scenario)


def test_a_cancelled_request_does_not_run_and_the_others_do():
    async def scenario(engine):
        first = asyncio.create_task(engine.submit(["a"]))
        await entered(engine)
        gone = asyncio.create_task(engine.submit(["x", "y"]))
        stays = asyncio.create_task(engine.submit(["b"]))
        await ticks()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert engine.load_report().queued == 1
        engine.turns.release(10)
        await asyncio.gather(first, stays)
        assert engine.batches == [["a"], ["b"]]

    with_engine(scenario)


def test_a_request_cancelled_half_way_runs_no_further():
    async def scenario(engine):
        big = asyncio.create_task(engine.submit(["w" * 8] * 100))
        await entered(engine)
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        engine.turns.release(1)
        after = asyncio.create_task(engine.submit(["z"]))
        engine.turns.release(1)
        await after
        assert [len(batch) for batch in engine.batches] == [LIMITS.max_items, 1]

    with_engine(scenario)


def test_the_error_of_a_batch_reaches_its_requests_and_no_others():
    async def scenario(engine):
        first = asyncio.create_task(engine.submit(["a"]))
        await entered(engine)
        bad = asyncio.create_task(engine.submit(["poison"]))
        near = asyncio.create_task(engine.submit(["neigh"]))
        far = asyncio.create_task(engine.submit(["f" * 60]))
        await ticks()
        engine.turns.release(10)
        answers = await asyncio.gather(first, bad, near, far, return_exceptions=True)
        assert isinstance(answers[1], EngineFailed)
        assert "out of memory" in answers[1].message
        assert isinstance(answers[2], EngineFailed)
        assert answers[1] is not answers[2]
        assert (answers[0].results, answers[3].results) == (["A"], ["F" * 60])
        assert (await engine.submit(["again"])).results == ["AGAIN"]

    with_engine(scenario)


def test_a_refused_input_fails_its_own_request_only_and_drops_the_rest_of_it():
    async def scenario(engine):
        first = asyncio.create_task(engine.submit(["a"]))
        await entered(engine)
        bad = asyncio.create_task(engine.submit(["b", "refused", "c"]))
        good = asyncio.create_task(engine.submit(["d"]))
        await ticks()
        engine.turns.release(10)
        answers = await asyncio.gather(first, bad, good, return_exceptions=True)
        assert isinstance(answers[1], InvalidRequest)
        assert answers[2].results == ["D"]
        assert engine.batches == [["a"], ["d"]]

    with_engine(scenario)


def test_when_preparing_fails_the_requests_of_that_slice_fail():
    async def scenario(engine):
        engine.turns.release(10)
        with pytest.raises(EngineFailed, match="tokenizer"):
            await engine.submit(["unpreparable"])
        assert (await engine.submit(["fine"])).results == ["FINE"]

    with_engine(scenario)


def test_closing_finishes_the_batch_that_runs_and_fails_the_rest():
    async def scenario(engine):
        first = asyncio.create_task(engine.submit(["a"]))
        await entered(engine)
        second = asyncio.create_task(engine.submit(["b"]))
        await ticks()
        closing = asyncio.create_task(engine.close())
        await ticks()
        with pytest.raises(NotReady):
            await engine.submit(["c"])
        engine.turns.release(1)
        await closing
        assert (await first).results == ["A"]
        with pytest.raises(NotReady):
            await second
        assert not [thread for thread in threading.enumerate() if thread.name == "batches"]

    with_engine(scenario)


def test_a_failing_load_raises_its_own_error_and_leaves_no_thread():
    async def main():
        engine = Gate()
        with pytest.raises(ValueError, match="no weights"):
            await engine.load(SPEC, {"broken": True}, GRANT, lambda stage, fraction: None)
        await engine.close()

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_before_it_is_loaded_nothing_is_served():
    async def main():
        engine = Gate()
        with pytest.raises(NotReady):
            await engine.submit(["a"])
        assert engine.load_report().queued == 0
        await engine.close()

    asyncio.run(main())
