import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device
from xinfer.errors import InvalidSliceRequest
from xinfer.slices.fit import wanted_slice
from xinfer.slices.request import SliceRequest
from xinfer.slices.rooms import Room, cap_mib
from xinfer.spec import Policy, Weights


def room(memory_mib: int = 1000, **fields: object) -> Room:
    device = Device(device_id="gpu-0", kind="cuda", memory_mib=memory_mib, cores=100, **fields)
    return Room(device, cap_mib(device))


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"memory_mib": -1}, "memory_mib", "memory_mib must be at least 1, not -1"),
        ({"memory_mib": 0}, "memory_mib", "memory_mib must be at least 1, not 0"),
        ({"memory_percent": 0}, "memory_percent", "memory_percent must be between 1 and 100, not 0"),
        ({"memory_percent": -5}, "memory_percent", "memory_percent must be between 1 and 100, not -5"),
        ({"memory_percent": 101}, "memory_percent", "memory_percent must be between 1 and 100, not 101"),
        (
            {"memory_mib": 500, "memory_percent": 50},
            "memory_percent",
            "memory is asked for twice, as 500 MiB and as 50 %; choose one",
        ),
        ({}, "memory_mib", "no memory is asked for; say memory_mib or memory_percent"),
        ({"memory_mib": 1, "cores": -1}, "cores", "cores must be between 0 and 100, not -1"),
        ({"memory_mib": 1, "cores": 101}, "cores", "cores must be between 0 and 100, not 101"),
        ({"memory_mib": 1, "count": 0}, "count", "count must be at least 1, not 0"),
        (
            {"memory_mib": 1, "exclusive": True, "cores": 50},
            "cores",
            "an exclusive device comes with all of its cores, not with 50 %",
        ),
        (
            {"memory_mib": 1, "worker_policy": Policy.TOPOLOGY},
            "worker_policy",
            "workers are chosen by binpack or spread; topology-aware is for devices",
        ),
        ({"memory_mib": 1, "weights": Weights(core=-1)}, "weights.core", "weights.core must be at least 0, not -1"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(fields: dict[str, object], param: str, message: str) -> None:
    with pytest.raises(InvalidSliceRequest) as refused:
        SliceRequest(**fields)
    assert (refused.value.message, refused.value.param, refused.value.status) == (message, param, 422)


def test_the_same_holds_for_one_that_is_decoded_or_changed() -> None:
    with pytest.raises(InvalidSliceRequest):
        msgspec.json.decode(b'{"memory_mib": 1, "cores": 101}', type=SliceRequest)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"memory_mib": 1.5}', type=SliceRequest)
    with pytest.raises(InvalidSliceRequest):
        msgspec.structs.replace(SliceRequest(memory_mib=1), count=0)


def test_percent_is_of_the_physical_memory_rounded_down() -> None:
    assert wanted_slice(room(1999), SliceRequest(memory_percent=10)).memory_mib == 199


def test_all_of_the_memory_is_all_that_may_be_given_away() -> None:
    assert wanted_slice(room(1000, reserve_mib=100), SliceRequest(memory_percent=100)).memory_mib == 900
    assert wanted_slice(room(1000, cap_mib=700), SliceRequest(memory_percent=80)).memory_mib == 700


@pytest.mark.parametrize(
    ("request_", "device", "expected"),
    [
        (SliceRequest(memory_mib=1, cores=100), {}, (100, True)),
        (SliceRequest(memory_mib=1, exclusive=True), {}, (100, True)),
        (SliceRequest(memory_mib=1, cores=99), {}, (99, False)),
        (SliceRequest(memory_mib=1, exclusive=True), {"cap_cores": 30}, (30, True)),
        (SliceRequest(memory_mib=1, cores=100), {"cap_cores": 200}, (100, False)),
    ],
)
def test_all_cores_of_a_whole_device_mean_the_device(
    request_: SliceRequest, device: dict[str, int], expected: tuple[int, bool]
) -> None:
    piece = wanted_slice(room(**device), request_)
    assert (piece.cores_percent, piece.exclusive) == expected


@given(st.integers(1, 10**6), st.integers(0, 10**5), st.integers(1, 99))
def test_more_percent_are_never_less_memory_nor_more_than_there_is(total: int, reserve: int, percent: int) -> None:
    one = room(total, reserve_mib=reserve)
    less, more = (wanted_slice(one, SliceRequest(memory_percent=p)).memory_mib for p in (percent, percent + 1))
    assert 0 <= less <= more <= one.cap_mib
