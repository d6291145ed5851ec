import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.replica.lifecycle import (
    ORPHAN_DRAIN_S,
    Broke,
    Claimed,
    Drain,
    DrainAsked,
    Drained,
    Event,
    Exit,
    Lifecycle,
    Loaded,
    Progressed,
    Serve,
    Served,
    Serving,
    StopAsked,
    Tick,
)
from xinfer.routes import Endpoint
from xinfer.spec import ReplicaState

ENDPOINT = Endpoint("r", "i", "tcp://127.0.0.1:1")


def ready() -> Lifecycle:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    life.handle(Loaded(), 0.0)
    life.handle(Serving(ENDPOINT), 0.0)
    return life


def test_the_way_to_ready() -> None:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    assert life.view.state is ReplicaState.PENDING
    assert life.handle(Progressed("downloading", 0.25), 1.0) == ()
    assert (life.view.state, life.view.progress) == (ReplicaState.DOWNLOADING, 0.25)
    life.handle(Progressed("loading", 0.5), 1.0)
    assert (life.view.state, life.view.stage) == (ReplicaState.STARTING, "loading")
    assert life.handle(Loaded(), 2.0) == (Serve(),)
    assert life.view.state is ReplicaState.STARTING
    assert life.handle(Serving(ENDPOINT), 2.0) == ()
    assert (life.view.state, life.view.endpoint, life.view.progress) == (ReplicaState.READY, ENDPOINT, 1.0)


def test_a_first_answer_is_told_once() -> None:
    life = ready()
    assert not life.view.served
    version = life.view.version
    assert life.handle(Served(), 1.0) == life.handle(Served(), 2.0) == ()
    assert (life.view.served, life.view.version) == (True, version + 1)


def test_small_progress_wakes_nobody() -> None:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    life.handle(Progressed("loading", 0.500), 0.0)
    version = life.view.version
    life.handle(Progressed("loading", 0.501), 0.0)
    assert life.view.version == version
    life.handle(Progressed("loading", 7.0), 0.0)
    assert life.view.progress == 1.0


def test_progress_that_comes_late_changes_nothing() -> None:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    life.handle(Loaded(), 0.0)
    before = life.view
    life.handle(Progressed("loading", 1.0), 0.0)
    assert life.view == before


def test_a_failed_load_keeps_its_reason() -> None:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    assert life.handle(Broke("no such file"), 1.0) == (Exit(failure="no such file"),)
    assert (life.view.state, life.view.reason) == (ReplicaState.FAILED, "no such file")


def test_a_claim_renews_the_lease() -> None:
    life = ready()
    life.handle(Claimed(), 9.0)
    assert life.lease_deadline == 19.0
    assert life.handle(Tick(), 18.9) == ()
    assert life.handle(Tick(), 19.0) == (Drain(ORPHAN_DRAIN_S),)
    assert life.view.state is ReplicaState.DRAINING
    assert "10 s" in life.view.stage


def test_draining_ends_stopped() -> None:
    life = ready()
    assert life.handle(DrainAsked(30.0), 1.0) == (Drain(30.0),)
    assert life.handle(DrainAsked(30.0), 1.0) == ()
    assert life.handle(Drained(), 2.0) == (Exit(),)
    assert life.view.state is ReplicaState.STOPPED
    assert life.view.endpoint is None


def test_a_claim_does_not_stop_a_drain() -> None:
    life = ready()
    life.handle(Tick(), 10.0)
    life.handle(Claimed(), 10.1)
    assert life.view.state is ReplicaState.DRAINING


@pytest.mark.parametrize("event", [DrainAsked(30.0), StopAsked(), Tick()])
def test_nothing_is_in_flight_while_it_loads_so_it_ends_at_once(event: Event) -> None:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    life.handle(Progressed("loading", 0.1), 0.0)
    assert life.handle(event, 100.0) == (Exit(),)
    assert life.view.state is ReplicaState.STOPPED
    assert life.handle(Loaded(), 100.0) == ()


events = st.one_of(
    st.builds(Progressed, st.sampled_from(["downloading", "loading"]), st.floats(-1, 2)),
    st.just(Loaded()),
    st.just(Serving(ENDPOINT)),
    st.builds(Broke, st.just("broken")),
    st.just(Claimed()),
    st.builds(DrainAsked, st.just(5.0)),
    st.just(StopAsked()),
    st.just(Drained()),
    st.just(Tick()),
)


@given(st.lists(st.tuples(events, st.floats(0, 5)), max_size=30))
def test_whatever_happens_it_ends_once_and_for_ever(steps: list[tuple[Event, float]]) -> None:
    life = Lifecycle("i", lease_s=10.0, now=0.0)
    now, exits, version = 0.0, 0, life.view.version
    for event, passed in steps:
        now += passed
        was_final = life.view.state.is_final
        commands = life.handle(event, now)
        assert not (was_final and commands)
        assert life.view.version >= version
        version = life.view.version
        exits += sum(isinstance(command, Exit) for command in commands)
        assert exits == (1 if life.view.state.is_final else 0)
        assert (life.view.endpoint is not None) <= (life.view.state in (ReplicaState.READY, ReplicaState.DRAINING))
