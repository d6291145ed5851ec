import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice
from xinfer.errors import NoCapacity
from xinfer.worker.leases import LeaseBook


def card(device_id: str = "gpu-0", memory_mib: int = 1000) -> Device:
    return Device(device_id=device_id, kind="cuda", memory_mib=memory_mib, cores=100)


def part(memory_mib: int, device_id: str = "gpu-0", cores_percent: int = 0) -> DeviceSlice:
    return DeviceSlice(device_id=device_id, memory_mib=memory_mib, cores_percent=cores_percent)


def test_a_refusal_says_how_many_mib_each_device_falls_short() -> None:
    book = LeaseBook([card("gpu-0", 1000), card("gpu-1", 500)])
    with pytest.raises(NoCapacity) as refused:
        book.book("r", 1, (part(1200, "gpu-0"), part(600, "gpu-1")))
    assert "gpu-0 has 1000 of 1200 MiB free, 200 MiB short" in refused.value.message
    assert "gpu-1 has 500 of 600 MiB free, 100 MiB short" in refused.value.message


def test_all_or_nothing() -> None:
    book = LeaseBook([card("gpu-0"), card("gpu-1", 10)])
    with pytest.raises(NoCapacity):
        book.book("r", 1, (part(100, "gpu-0"), part(100, "gpu-1")))
    assert book.free_mib("gpu-0") == 1000
    assert book.leases == ()


def test_booking_again_returns_the_same_lease() -> None:
    book = LeaseBook([card()])
    lease = book.book("r", 1, (part(600),))
    assert book.book("r", 1, (part(600),)) is lease
    assert book.free_mib("gpu-0") == 400


def test_another_generation_is_another_booking() -> None:
    book = LeaseBook([card()])
    book.book("r", 1, (part(600),))
    with pytest.raises(NoCapacity):
        book.book("r", 2, (part(600),))
    book.release("r", 1)
    book.book("r", 2, (part(600),))


def test_slices_of_one_device_have_to_fit_together() -> None:
    with pytest.raises(NoCapacity):
        LeaseBook([card()]).book("r", 1, (part(600), part(600)))


def test_cores_are_booked_too() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(1, cores_percent=70),))
    with pytest.raises(NoCapacity, match="30 of 40 % of its cores"):
        book.book("b", 1, (part(1, cores_percent=40),))
    book.book("c", 1, (part(1),))


def test_an_unknown_device_is_no_capacity() -> None:
    with pytest.raises(NoCapacity, match="no device 'gpu-7'"):
        LeaseBook([card()]).book("r", 1, (part(1, "gpu-7"),))


def test_what_runs_already_is_booked_even_if_it_does_not_fit() -> None:
    book = LeaseBook([card(memory_mib=100)])
    book.record("r", 1, (part(150), part(5, "gone")))
    assert book.free_mib("gpu-0") == -50


def test_releasing_twice_is_harmless() -> None:
    book = LeaseBook([card()])
    book.book("r", 1, (part(600),))
    book.release("r", 1)
    book.release("r", 1)
    assert book.free_mib("gpu-0") == 1000


names = st.sampled_from("abcd")
slices = st.lists(
    st.builds(part, st.integers(0, 700), st.sampled_from(["gpu-0", "gpu-1"]), st.integers(0, 60)), max_size=3
)


@given(st.lists(st.tuples(st.booleans(), names, st.integers(1, 2), slices), max_size=40))
def test_a_device_is_never_given_away_twice(steps: list[tuple[bool, str, int, list[DeviceSlice]]]) -> None:
    book = LeaseBook([card("gpu-0"), card("gpu-1")])
    for books, name, generation, wanted in steps:
        before = book.leases
        if books:
            try:
                book.book(name, generation, tuple(wanted))
            except NoCapacity:
                assert book.leases == before
        else:
            book.release(name, generation)
        for device_id in ("gpu-0", "gpu-1"):
            booked = [one for lease in book.leases for one in lease.slices if one.device_id == device_id]
            assert sum(one.memory_mib for one in booked) == 1000 - book.free_mib(device_id) <= 1000
            assert sum(one.cores_percent for one in booked) == 100 - book.free_percent(device_id) <= 100
