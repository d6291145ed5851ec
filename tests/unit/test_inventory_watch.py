from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device
from xinfer.worker.inventory.base import DeviceReading, InventoryReading
from xinfer.worker.inventory.monitor import DeviceMonitor
from xinfer.worker.inventory.watch import (
    FAILURES_TO_BELIEVE,
    DeviceAdded,
    DeviceChanged,
    DeviceEvent,
    DeviceHealthy,
    DeviceLost,
    DeviceReturned,
    DeviceUnhealthy,
    ForeignMemoryChanged,
    Watched,
    watch,
)


def device(name: str = "a", *, healthy: bool = True, reason: str = "", memory_mib: int = 20000) -> Device:
    return Device(device_id=name, kind="cuda", memory_mib=memory_mib, cores=100, healthy=healthy, health_reason=reason)


def well(name: str = "a", used: int | None = None, memory_mib: int = 20000) -> DeviceReading:
    free = None if used is None else memory_mib - used
    return DeviceReading(device=device(name, memory_mib=memory_mib), used_mib=used, free_mib=free)


def ill(name: str = "a", *, certain: bool = False, lost: bool = False) -> DeviceReading:
    return DeviceReading(device=device(name, healthy=False, reason="broken"), certain=certain, lost=lost)


def story(*looks: Iterable[DeviceReading], ours: dict[str, int] | None = None) -> list[list[DeviceEvent]]:
    """The events of each look."""
    watched, told = Watched(), []
    for look in looks:
        watched, events = watch(watched, look, ours)
        told.append(list(events))
    return told


def test_a_device_that_is_missed_once_or_twice_is_still_there() -> None:
    assert story([well()], [], [], [well()], [], []) == [[DeviceAdded(device())], [], [], [], [], []]


def test_a_device_that_stays_away_is_lost_once() -> None:
    lost = DeviceLost("a", "it is not there any more")
    assert story([well()], [], [], [], [], []) == [[DeviceAdded(device())], [], [], [lost], [], []]


def test_a_source_that_is_certain_is_believed_at_once() -> None:
    assert story([well()], [ill(lost=True)], [ill(lost=True)])[1:] == [[DeviceLost("a", "broken")], []]
    assert story([well()], [ill(certain=True)], [ill(certain=True)])[1:] == [[DeviceUnhealthy("a", "broken")], []]


def test_a_lost_device_returns_when_it_stays() -> None:
    looks = [well()], [ill(lost=True)], [well()], [], [well()], [ill()], [well()], [well()], [well()]
    assert story(*looks)[2:] == [[], [], [], [], [], [DeviceReturned(device())], []]


def test_a_call_that_fails_now_and_then_moves_nobody() -> None:
    assert story([well()], [ill()], [ill()], [well()], [ill()], [ill()], [well()])[1:] == [[]] * 6
    assert story([well()], [ill()], [ill()], [ill()], [ill()])[3:] == [[DeviceUnhealthy("a", "broken")], []]


def test_an_ill_device_is_well_again_when_it_stays_so() -> None:
    looks = [well()], [ill(certain=True)], [well()], [ill()], [well()], [well()]
    assert story(*looks)[2:] == [[], [], [], [DeviceHealthy("a")]]


def test_an_ill_device_can_be_lost_too() -> None:
    assert story([well()], [ill(certain=True)], [], [], [])[2:] == [
        [],
        [],
        [DeviceLost("a", "it is not there any more")],
    ]


def test_a_device_that_is_found_ill() -> None:
    watched, events = watch(Watched(), [ill(certain=True)])
    assert events == (DeviceAdded(ill().device),)
    watched, _ = watch(watched, [well()])
    assert watch(watched, [well()])[1] == (DeviceHealthy("a"),)


def test_a_new_size_is_told() -> None:
    smaller = well(memory_mib=10000)
    assert story([well()], [smaller], [smaller])[1:] == [[DeviceChanged(smaller.device)], []]
    assert story([well()], [ill(certain=True)], [smaller], [smaller])[3] == [
        DeviceHealthy("a"),
        DeviceChanged(smaller.device),
    ]


def test_more_foreign_memory_counts_at_once_and_less_when_it_lasts() -> None:
    looks = (
        [well(used=5000)],
        [well(used=9000)],
        [well(used=5000)],
        [well(used=9000)],
        [well(used=5000)],
        [well(used=5100)],
    )
    told = story(*looks, ours={"a": 5000})
    assert told[1:] == [
        [ForeignMemoryChanged("a", 4000, 11000)],
        [],
        [],
        [],
        [ForeignMemoryChanged("a", 100, 14900)],
    ]


def test_small_changes_of_foreign_memory_are_noise() -> None:
    assert story([well(used=0)], [well(used=200)], [well(used=255)])[1:] == [[], []]
    big = 1_000_000
    assert story([well(used=0, memory_mib=big)], [well(used=9_000, memory_mib=big)])[1] == []
    assert len(story([well(used=0, memory_mib=big)], [well(used=10_000, memory_mib=big)])[1]) == 1


def test_memory_that_nobody_can_tell_is_no_news() -> None:
    assert story([well(used=None)], [well(used=None)])[1] == []


looks = st.lists(
    st.dictionaries(
        st.sampled_from("ab"),
        st.one_of(
            st.builds(well, used=st.one_of(st.none(), st.integers(0, 20000))),
            st.builds(ill, certain=st.booleans()),
            st.just(ill(lost=True)),
        ),
        max_size=2,
    ),
    max_size=30,
)


@given(looks)
def test_what_is_told_adds_up(readings: list[dict[str, DeviceReading]]) -> None:
    """Added first and once; lost and returned alternate, ill and well too; the books agree with what was told."""
    watched = Watched()
    state: dict[str, str] = {}
    for look in readings:
        named = [
            msgspec.structs.replace(each, device=msgspec.structs.replace(each.device, device_id=name))
            for name, each in look.items()
        ]
        watched, events = watch(watched, named)
        for event in events:
            name = event.device.device_id if hasattr(event, "device") else event.device_id
            match event:
                case DeviceAdded():
                    assert name not in state
                    state[name] = "well" if event.device.healthy else "ill"
                case DeviceLost():
                    assert state[name] in ("well", "ill")
                    state[name] = "lost"
                case DeviceReturned():
                    assert state[name] in ("lost", "ill")
                    state[name] = "well"
                case DeviceUnhealthy():
                    assert state[name] == "well"
                    state[name] = "ill"
                case DeviceHealthy():
                    assert state[name] == "ill"
                    state[name] = "well"
                case DeviceChanged():
                    assert state[name] == "well"
        assert {name: here == "well" for name, here in state.items()} == {
            d.device_id: d.healthy for d in watched.devices
        }


def test_nothing_is_believed_to_be_there_for_longer_than_it_takes() -> None:
    watched, _ = watch(Watched(), [well()])
    for _ in range(FAILURES_TO_BELIEVE):
        watched, events = watch(watched, [])
    assert events
    assert [(each.healthy, each.health_reason) for each in watched.devices] == [(False, "it is not there any more")]


def test_the_monitor_warns_once() -> None:
    warnings: tuple[str, ...] = ("one",)

    def read() -> dict[str, InventoryReading]:
        return {
            "x": InventoryReading(devices=(well(),), warnings=warnings),
            "y": InventoryReading(reason="nothing here"),
        }

    monitor = DeviceMonitor(read)
    first = monitor.refresh()
    assert (first.warnings, first.events, first.devices) == (("x: one",), (DeviceAdded(device()),), (device(),))
    assert first.reasons == {"y": "nothing here"}
    assert monitor.refresh().warnings == ()
    warnings = ("one", "two")
    assert monitor.refresh().warnings == ("x: two",)
