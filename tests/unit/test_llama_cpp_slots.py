"""Who gets which part of llama.cpp's cache, and what is shared: decided without the library."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.engines.llama_cpp.pace import ALONE_S, BESIDE_S, FIRST, LEAST, Pace
from xinfer.engines.llama_cpp.slots import LEAST_SHARED, Coming, Found, SlotTable, common_prefix, shares_of
from xinfer.engines.token_engine import Sequence
from xinfer.generation.sampling import Sampling

tokens = st.lists(st.integers(0, 2), max_size=300)
SYSTEM = list(range(1000, 1100))


def sequence() -> Sequence:
    return Sequence([1], Sampling(max_tokens=1), receiver=None)


def occupy(table: SlotTable, prompt: list[int], *, read: int | None = None):
    """Place a prompt, and read so many tokens of it (all of them, if nothing is said)."""
    found = table.place(prompt)
    assert isinstance(found, Found)
    slot = table.take(found, sequence(), list(prompt))
    slot.filled = len(prompt) if read is None else read
    return slot


@given(tokens, tokens)
def test_a_common_prefix_is_as_long_as_it_can_be(one, other):
    equal = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    assert common_prefix(one, other, block=8) == len(equal)


def test_a_first_prompt_shares_nothing():
    slot, source, shared = SlotTable(2).place(SYSTEM)
    assert slot is source
    assert shared == 0


def test_the_next_turn_of_a_conversation_goes_where_the_last_one_was():
    table = SlotTable(3)
    slot = occupy(table, [*SYSTEM, 1, 2, 3])
    table.free(slot)
    found = table.place([*SYSTEM, 1, 2, 3, 4, 5])
    assert found == Found(slot, slot, len(SYSTEM) + 3)


def test_at_least_the_last_token_is_read_again():
    table = SlotTable(2)
    slot = occupy(table, SYSTEM)
    table.free(slot)
    assert table.place(SYSTEM) == Found(slot, slot, len(SYSTEM) - 1)


def test_what_a_busy_slot_knows_is_copied():
    table = SlotTable(2)
    busy = occupy(table, [*SYSTEM, 1, 2])
    found = table.place([*SYSTEM, 7])
    assert isinstance(found, Found)
    assert found.source is busy
    assert found.slot is not busy
    assert found.shared == len(SYSTEM)


def test_a_long_history_is_copied_rather_than_overwritten_while_another_slot_is_free():
    table = SlotTable(2)
    history = occupy(table, SYSTEM + list(range(500)))
    table.free(history)
    found = table.place([*SYSTEM, 900])
    assert found.source is history
    assert found.slot is not history
    occupy(table, [5])  # nothing in common: takes the empty slot
    assert table.place([*SYSTEM, 900]) == Found(history, history, len(SYSTEM))


def test_the_slot_that_was_used_longest_ago_is_given_away():
    table = SlotTable(3)
    slots = [occupy(table, [index] * 50) for index in range(3)]
    for index in (1, 0, 2):
        table.free(slots[index])
    assert table.place([9] * 50).slot is slots[1]


def test_a_prompt_waits_for_another_that_begins_alike_and_is_being_read():
    table = SlotTable(2)
    leader = occupy(table, [*SYSTEM, 1], read=10)
    assert table.place([*SYSTEM, 2]) == Coming(leader, leader.sequence, len(SYSTEM))
    leader.filled = len(SYSTEM)
    assert table.place([*SYSTEM, 2]).shared == len(SYSTEM)


def test_nobody_waits_for_a_few_tokens():
    table = SlotTable(2)
    occupy(table, [*SYSTEM[: LEAST_SHARED - 1], 1], read=0)
    assert table.place(SYSTEM).shared == 0


def test_nothing_is_shared_where_it_must_not_be():
    for table, anew in ((SlotTable(2, shares=False), False), (SlotTable(2), True)):
        table.free(occupy(table, SYSTEM))
        assert table.place([*SYSTEM, 1], anew=anew).shared == 0


def test_what_was_computed_with_other_weights_is_of_no_use():
    one, other = object(), object()
    table = SlotTable(4)
    found = table.place(SYSTEM, weights=one)
    table.take(found, sequence(), list(SYSTEM), one).filled = len(SYSTEM)
    assert table.place([*SYSTEM, 1], weights=one).shared == len(SYSTEM)
    assert table.place([*SYSTEM, 1], weights=other).shared == 0
    assert table.place([*SYSTEM, 1]).shared == 0


@pytest.mark.parametrize("busy", [True, False])
def test_what_lost_its_beginning_is_shared_where_nobody_looks_back_so_far(busy):
    table = SlotTable(2, window=20)
    slot = occupy(table, SYSTEM)
    if not busy:
        table.free(slot)
    assert table.fading == [slot]
    slot.begins = 30
    near, far = (table.place([*SYSTEM[:known], 7, 8]) for known in (49, 50))
    assert isinstance(near, Found)
    assert isinstance(far, Found)
    assert (near.shared, far.shared) == (0, 50)


def test_nobody_waits_for_a_prompt_that_is_read_with_other_weights():
    table = SlotTable(2)
    table.take(table.place(SYSTEM), sequence(), list(SYSTEM), object())
    assert isinstance(table.place([*SYSTEM, 1]), Found)


def test_there_is_a_gap_only_between_slots_of_one_batch():
    table = SlotTable(8)
    slots = [occupy(table, [index] * 9) for index in range(4)]
    assert table.gaps([slots[0], slots[2]]) == [], "somebody else is there"
    table.free(slots[1])
    assert table.gaps([slots[0], slots[2]]) == [slots[1]]


def test_slots_are_taken_side_by_side():
    table = SlotTable(8)
    slots = [occupy(table, [index] * 9) for index in range(6)]
    assert [slot.number for slot in table.busy] == [0, 1, 2, 3, 4, 5]
    table.free(slots[2])
    table.free(slots[0])
    assert [slot.number for slot in table.gaps(table.busy)] == [2]
    assert table.place([9] * 9).slot is slots[2]  # fills the gap, though another one has been free for longer


def test_there_are_no_gaps_where_neighbours_do_not_matter():
    table = SlotTable(8, neighbours=False)
    slots = [occupy(table, [index] * 9) for index in range(3)]
    table.free(slots[1])
    assert table.gaps(table.busy) == []


def test_a_gap_that_is_too_wide_is_left_open():
    table = SlotTable(8)
    slots = [occupy(table, [index] * 9) for index in range(6)]
    for index in (1, 2, 3):
        table.free(slots[index])
    assert table.gaps(table.busy) == []
    table.free(slots[4])
    occupy(table, [8] * 9)
    assert [slot.number for slot in table.busy] in ([0, 1, 5], [0, 4, 5], [0, 5, 6])


def test_the_oldest_memory_is_given_up_first():
    table = SlotTable(3)
    first, second = occupy(table, [1] * 9), occupy(table, [2] * 9)
    assert table.oldest_memory() is None
    table.free(second)
    table.free(first)
    assert table.oldest_memory() is second
    table.forget(second)
    assert table.oldest_memory() is first


def test_the_pace_keeps_steps_short():
    pace = Pace(512)
    assert pace.tokens(alone=True) == FIRST
    pace.note(FIRST, FIRST * 0.001)  # a thousand tokens a second
    assert pace.tokens(alone=True) == int(ALONE_S * 1000)
    assert pace.tokens(alone=False) == int(BESIDE_S * 1000)
    pace.note(3, 100.0)  # too few to say anything
    assert pace.tokens(alone=False) == int(BESIDE_S * 1000)
    for _ in range(30):
        pace.note(16, 16.0)
    assert pace.tokens(alone=True) == LEAST
    for _ in range(60):
        pace.note(512, 0.001)
    assert pace.tokens(alone=False) == 512


def test_a_pace_can_be_given():
    pace = Pace(512, fixed=40)
    pace.note(40, 100.0)
    assert (pace.tokens(alone=False), pace.tokens(alone=True)) == (40, 512)


def test_a_freed_slot_knows_what_the_cache_holds_and_no_more():
    table = SlotTable(1)
    slot = occupy(table, SYSTEM, read=60)
    table.free(slot)
    assert slot.tokens == SYSTEM[:60]
    assert table.has_room
    assert not table.busy


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=80), max_size=30), st.integers(1, 4), st.randoms())
def test_whatever_comes_a_slot_serves_one_and_shares_what_is_there(prompts, count, random):
    table = SlotTable(count)
    running = []
    for prompt in prompts:
        while not table.has_room:
            table.free(running.pop(random.randrange(len(running))))
        place = table.place(prompt)
        if isinstance(place, Coming):
            assert place.leader.filled < place.until < len(prompt)
            assert place.leader.tokens[: place.until] == prompt[: place.until]
            continue
        assert place.slot.sequence is None
        assert place.source.tokens[: place.shared] == prompt[: place.shared]
        assert place.shared <= min(place.source.filled, len(prompt) - 1)
        slot = table.take(place, sequence(), list(prompt))
        slot.filled = random.randint(place.shared, len(prompt))
        running.append(slot)
        assert sorted(slot.number for slot in table.busy) == sorted({slot.number for slot in running})


@given(st.lists(st.integers(1, 400), max_size=20), st.integers(1, 600))
def test_prompts_divide_a_step_completely(remaining, budget):
    shares = shares_of(remaining, budget)
    assert sum(shares) == min(budget, sum(remaining))
    assert all(0 <= share <= wanted for share, wanted in zip(shares, remaining, strict=True))


def test_short_prompts_pass_a_long_one_which_still_gets_on():
    assert shares_of([1000, 20, 30], 100) == [50, 20, 30]
    assert shares_of([1000, 400, 30], 100) == [25, 45, 30]
    assert shares_of([], 100) == []


@pytest.mark.parametrize("module", ["xinfer.engines.llama_cpp", "xinfer.engines.llama_cpp.planning"])
def test_the_engine_is_imported_without_its_library(module):
    code = f"import sys, {module}; sys.exit('llama_cpp' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
