import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer import plugins
from xinfer.routing.base import Candidate
from xinfer.routing.least_loaded import LeastLoaded
from xinfer.routing.round_robin import RoundRobin

counts = st.integers(0, 50)
candidate = st.builds(
    Candidate,
    instance=st.text(max_size=3),
    running=counts,
    queued=counts,
    tokens_queued=st.integers(0, 10**6),
    tokens_per_s=st.floats(0, 1e5),
    own_since_report=counts,
)
candidates = st.lists(candidate, min_size=1, max_size=12)
turns = st.integers(0, 10**9)


def work(one: Candidate) -> int:
    return one.running + one.queued + one.own_since_report


def idle(name: int) -> Candidate:
    return Candidate(f"i{name}", 0, 0, 0, 0.0, 0)


@pytest.mark.parametrize("name", ["least_loaded", "round_robin"])
def test_policies_are_found_by_name(name):
    assert plugins.policies("xinfer.routing")[name].name == name


@given(candidates=candidates, turn=turns)
@pytest.mark.parametrize("name", ["least_loaded", "round_robin"])
def test_every_policy_chooses_one_of_the_candidates(name, candidates, turn):
    assert plugins.policies("xinfer.routing")[name].choose(candidates, turn) in range(len(candidates))


@given(candidates=candidates, turn=turns)
def test_least_loaded_never_chooses_one_with_more_work(candidates, turn):
    chosen = candidates[LeastLoaded().choose(candidates, turn)]
    assert work(chosen) == min(map(work, candidates))


@given(candidates=candidates, start=turns)
def test_least_loaded_gives_equals_their_turns(candidates, start):
    least = min(map(work, candidates))
    best = [index for index, one in enumerate(candidates) if work(one) == least]
    chosen = [LeastLoaded().choose(candidates, start + turn) for turn in range(len(best))]
    assert sorted(chosen) == best


@given(replicas=st.integers(1, 8), burst=st.integers(1, 100), start=turns)
def test_a_burst_between_two_reports_is_spread_evenly(replicas, burst, start):
    """All reports say idle, as they do when a burst comes after a pause; one's own calls make the difference."""
    fleet = [idle(name) for name in range(replicas)]
    for turn in range(burst):
        chosen = LeastLoaded().choose(fleet, start + turn)
        fleet[chosen] = msgspec.structs.replace(fleet[chosen], own_since_report=fleet[chosen].own_since_report + 1)
    sent = [one.own_since_report for one in fleet]
    assert sum(sent) == burst
    assert max(sent) - min(sent) <= 1


@given(loads=st.lists(counts, min_size=2, max_size=6), burst=st.integers(0, 300))
def test_a_burst_fills_the_gaps_of_an_uneven_fleet_first(loads, burst):
    fleet = [msgspec.structs.replace(idle(name), running=load) for name, load in enumerate(loads)]
    for turn in range(burst):
        chosen = LeastLoaded().choose(fleet, turn)
        fleet[chosen] = msgspec.structs.replace(fleet[chosen], own_since_report=fleet[chosen].own_since_report + 1)
    # Nobody who got a call ends up with more than one call above anybody else.
    touched = [work(one) for one in fleet if one.own_since_report]
    assert not touched or max(touched) - min(map(work, fleet)) <= 1


@given(replicas=st.integers(1, 8), start=turns)
def test_round_robin_gives_each_its_turn_whatever_its_load(replicas, start):
    fleet = [msgspec.structs.replace(idle(name), running=random.Random(name).randrange(99)) for name in range(replicas)]
    assert sorted(RoundRobin().choose(fleet, start + turn) for turn in range(replicas)) == list(range(replicas))
