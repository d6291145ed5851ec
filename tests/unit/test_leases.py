import msgspec
import pytest

from xinfer.devices import Device, DeviceSlice, DeviceUse, Hold
from xinfer.errors import Conflict, NoCapacity
from xinfer.slices.request import SliceRequest
from xinfer.spec import Policy
from xinfer.worker.leases import LeaseBook


def card(device_id: str = "gpu-0", memory_mib: int = 1000, **fields: object) -> Device:
    return Device(device_id=device_id, kind="cuda", memory_mib=memory_mib, cores=100, **fields)


def part(memory_mib: int, device_id: str = "gpu-0", cores_percent: int = 0) -> DeviceSlice:
    return DeviceSlice(device_id=device_id, memory_mib=memory_mib, cores_percent=cores_percent)


def test_a_refusal_says_how_many_mib_each_device_falls_short() -> None:
    book = LeaseBook([card("gpu-0", 1000), card("gpu-1", 500)])
    with pytest.raises(NoCapacity) as refused:
        book.book("r", 1, (part(1200, "gpu-0"), part(600, "gpu-1")))
    assert refused.value.message == (
        "no room for r: device gpu-0 falls short by 200 MiB (1000 of 1000 MiB free), "
        "device gpu-1 falls short by 100 MiB (500 of 500 MiB free)"
    )
    assert [(d["device_id"], d["missing_mib"]) for d in refused.value.details["devices"]] == [
        ("gpu-0", 200),
        ("gpu-1", 100),
    ]


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


def test_a_key_does_not_stand_for_two_things() -> None:
    book = LeaseBook([card()])
    book.book("r", 1, (part(600),))
    with pytest.raises(Conflict, match="has a lease of other slices already"):
        book.book("r", 1, (part(601),))


def test_another_generation_is_another_booking() -> None:
    book = LeaseBook([card()])
    book.book("r", 1, (part(600),))
    with pytest.raises(NoCapacity):
        book.book("r", 2, (part(600),))
    book.release("r", 1)
    book.book("r", 2, (part(600),))


def test_an_earlier_generation_comes_too_late() -> None:
    book = LeaseBook([card()])
    book.book("r", 2, (part(600),))
    with pytest.raises(Conflict, match="generation 1 of 'r' is out of date: 2 has a lease"):
        book.book("r", 1, (part(10),))


def test_slices_of_one_device_have_to_fit_together() -> None:
    with pytest.raises(NoCapacity):
        LeaseBook([card()]).book("r", 1, (part(600), part(600)))


def test_cores_are_booked_too() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(1, cores_percent=70),))
    with pytest.raises(NoCapacity, match="falls short by 10 % of its cores"):
        book.book("b", 1, (part(1, cores_percent=40),))
    book.book("c", 1, (part(1),))


def test_all_cores_of_a_card_are_the_card() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(1),))
    with pytest.raises(NoCapacity, match="has 1 tenants already, it cannot be had alone"):
        book.book("b", 1, (part(1, cores_percent=100),))
    book.release("a", 1)
    assert book.book("b", 1, (part(1, cores_percent=100),)).slices[0].exclusive
    with pytest.raises(NoCapacity, match="belongs to one replica alone"):
        book.book("a", 1, (part(1),))


def test_a_device_lost_between_placement_and_launch() -> None:
    book = LeaseBook([card("gpu-0"), card("gpu-1")])
    book.update([card("gpu-0")])
    with pytest.raises(NoCapacity) as refused:
        book.book("r", 1, (part(1, "gpu-1"),))
    assert refused.value.message == "no room for r: there is no device 'gpu-1', or not any more"
    assert refused.value.details["reasons"] == {"UnknownDevice": 1}


def test_a_lost_device_keeps_its_tenants_until_it_returns() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(600),))
    book.update([])
    with pytest.raises(NoCapacity, match="device gpu-0 is not healthy: the device is gone"):
        book.book("b", 1, (part(1),))
    book.update([card()])
    assert book.free_mib("gpu-0") == 400
    book.book("b", 1, (part(1),))


def test_leases_on_a_device_that_was_unknown_count_once_it_is_there() -> None:
    book = LeaseBook([])
    book.record("a", 1, (part(600),))
    book.update([card()])
    assert book.free_mib("gpu-0") == 400
    book.update([card(memory_mib=500)])
    assert book.free_mib("gpu-0") == -100


def test_what_is_kept_for_the_system_is_not_given_away() -> None:
    book = LeaseBook([card(reserve_mib=100)])
    with pytest.raises(NoCapacity, match="falls short by 1 MiB"):
        book.book("r", 1, (part(901),))
    book.book("r", 1, SliceRequest(memory_percent=100))
    assert book.free_mib("gpu-0") == 0


def test_a_cordoned_device_takes_nothing_new_and_keeps_what_it_has() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(100),))
    book.rooms.cordon("gpu-0")
    with pytest.raises(NoCapacity, match="is cordoned"):
        book.book("b", 1, (part(1),))
    assert book.book("a", 1, (part(100),)).slices == (part(100),)
    assert book.resize("a", 1, (part(200),)).slices == (part(200),)
    book.rooms.cordon("gpu-0", False)
    book.book("b", 1, (part(1),))


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


def test_the_book_chooses_devices_by_a_request() -> None:
    book = LeaseBook([card("gpu-0", name="NVIDIA L4"), card("gpu-1", name="NVIDIA A100"), card("gpu-2")])
    book.book("a", 1, (part(500, "gpu-2"),))
    request = SliceRequest(count=2, memory_percent=10, types_denied=("l4",), device_policy=Policy.BINPACK)
    lease = book.book("b", 1, request)
    assert lease.slices == (part(100, "gpu-2"), part(100, "gpu-1"))
    assert book.book("b", 1, request) is lease
    with pytest.raises(NoCapacity, match="it would fit on 2 device"):
        book.book("c", 1, msgspec.structs.replace(request, count=3))


def test_a_reservation_lasts_once_it_is_confirmed_and_expires_if_not() -> None:
    book = LeaseBook([card()])
    first = book.book("a", 1, (part(300),), expires_at=10.0)
    second = book.book("b", 1, (part(300),), expires_at=10.0)
    assert book.confirm("a", 1) is first
    assert book.expire(9.9) == ()
    assert book.expire(10.0) == (second,)
    assert book.leases == (first,)
    with pytest.raises(Conflict, match="it expired or was given back"):
        book.confirm("b", 1)
    with pytest.raises(Conflict, match="it expired or was given back"):
        book.resize("b", 1, (part(1),))


def test_a_resize_that_does_not_fit_changes_nothing() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(300),))
    book.book("b", 1, (part(300),))
    with pytest.raises(NoCapacity, match="falls short by 1 MiB"):
        book.resize("a", 1, (part(701),))
    assert book.free_mib("gpu-0") == 400
    book.resize("a", 1, (part(700),))
    assert book.free_mib("gpu-0") == 0


def test_after_a_crash_the_book_is_what_lives() -> None:
    book = LeaseBook([card()])
    kept = book.book("a", 1, (part(300),))
    gone = book.book("b", 1, (part(300),))
    assert book.reconcile({("a", 1), ("never-heard-of", 1)}) == (gone,)
    assert book.leases == (kept,)
    assert book.free_mib("gpu-0") == 700


def test_where_nothing_enforces_only_what_the_device_really_has_is_given_away() -> None:
    book = LeaseBook([card(), card("gpu-1")])
    book.book("a", 1, (part(400),))
    # Of its 400 MiB, "a" has filled 100; a stranger uses 350; the device has 550 left, 300 of it promised to "a".
    book.observe([DeviceUse(device_id="gpu-0", used_mib=450, free_mib=550, by_replica={"a": 100})])
    assert book.free_mib("gpu-0") == 250
    assert book.free_mib("gpu-1") == 1000
    book.book("b", 1, (part(200),))
    assert book.free_mib("gpu-0") == 50
    with pytest.raises(NoCapacity, match="falls short by 10 MiB"):
        book.book("c", 1, (part(60),))
    # "b" ends before it used anything; then "a" does, and its 100 MiB are free when the device has said so.
    book.release("b", 1)
    assert book.free_mib("gpu-0") == 250
    book.release("a", 1)
    assert book.free_mib("gpu-0") == 550
    book.observe([DeviceUse(device_id="gpu-0", used_mib=350, free_mib=650), DeviceUse(device_id="gone", free_mib=1)])
    assert book.free_mib("gpu-0") == 650
    book.observe([DeviceUse(device_id="gpu-0")])
    assert book.free_mib("gpu-0") == 1000


def test_who_uses_more_than_his_slice_takes_it_from_the_others() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(400),))
    book.observe([DeviceUse(device_id="gpu-0", used_mib=700, free_mib=300, by_replica={"a": 700})])
    assert book.free_mib("gpu-0") == 300


def test_where_processes_cannot_be_told_apart_nothing_is_counted_twice() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(400),))
    book.book("b", 1, (part(200),))
    book.observe([DeviceUse(device_id="gpu-0", used_mib=500, free_mib=500)])
    assert book.free_mib("gpu-0") == 400
    book.observe([DeviceUse(device_id="gpu-0", used_mib=900, free_mib=100)])
    assert book.free_mib("gpu-0") == 100


@pytest.mark.parametrize("hold", [Hold(), Hold(memory="soft"), Hold(memory="hard")])
def test_what_strangers_use_is_not_there_however_firmly_our_own_are_held(hold: Hold) -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(400),))
    book.observe([DeviceUse(device_id="gpu-0", used_mib=700, free_mib=300, by_replica={"a": 300}, hold=hold)])
    assert book.free_mib("gpu-0") == 200


def test_what_is_used_belongs_to_the_generation_that_runs() -> None:
    book = LeaseBook([card()])
    book.book("a", 1, (part(300),))
    book.book("a", 2, (part(300),))
    book.observe([DeviceUse(device_id="gpu-0", used_mib=300, free_mib=700, by_replica={"a": 300})])
    assert book.free_mib("gpu-0") == 400
    book.release("a", 1)
    assert book.free_mib("gpu-0") == 400
    book.observe([DeviceUse(device_id="gpu-0", used_mib=0, free_mib=1000)])
    assert book.free_mib("gpu-0") == 700
