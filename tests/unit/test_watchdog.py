import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.devices import Device, DeviceSlice, DeviceUse, Lease
from xinfer.worker.watchdog import MIN_TOLERANCE_MIB, READINGS, Judgement, OverLimit, Watchdog, warning

DEVICES = (
    Device(device_id="cpu", kind="cpu", memory_mib=16000, cores=4, reserve_mib=512),
    Device(device_id="GPU-a", kind="cuda", memory_mib=16000, cores=100, reserve_mib=512),
)
LEASES = tuple(
    Lease(replica_id=name, generation=1, slices=(DeviceSlice(device_id=device_id, memory_mib=1000),))
    for name, device_id in (("a-0", "cpu"), ("b-0", "cpu"), ("c-0", "GPU-a"))
)


class Bench:
    """A watchdog, a hand-turned clock, and devices that report what a test wants."""

    def __init__(self, action: OverLimit = "end", grace_s: float = 10.0) -> None:
        self.dog = Watchdog(action, grace_s=grace_s, tolerance_percent=10)
        self.now = 1000.0

    def look(self, after_s: float = 5.0, free_mib: int = 8000, **used: int) -> Judgement:
        self.now += after_s
        by_replica = {name.replace("_", "-"): mib for name, mib in used.items()}
        uses = [DeviceUse(device_id=device.device_id, free_mib=free_mib, by_replica=by_replica) for device in DEVICES]
        return self.dog.judge(uses, LEASES, DEVICES, self.now)


def over(judgement: Judgement) -> dict[str, int]:
    return {one.replica_id: one.over_mib for one in judgement.over}


def test_who_stays_within_his_slice_is_left_alone() -> None:
    assert Bench().look(a_0=1000, b_0=1, c_0=500) == Judgement()


def test_a_little_more_is_forgiven() -> None:
    bench = Bench()
    assert over(bench.look(a_0=1100)) == {}
    assert over(bench.look(a_0=1101)) == {"a-0": 101}
    small = (Lease(replica_id="a-0", generation=1, slices=(DeviceSlice(device_id="cpu", memory_mib=10),)),)
    for used, found in ((10 + MIN_TOLERANCE_MIB, 0), (11 + MIN_TOLERANCE_MIB, 1)):
        use = DeviceUse(device_id="cpu", by_replica={"a-0": used})
        assert len(bench.dog.judge([use], small, DEVICES, bench.now).over) == found


def test_slices_of_one_device_count_together() -> None:
    halves = (DeviceSlice(device_id="cpu", memory_mib=500), DeviceSlice(device_id="cpu", memory_mib=500))
    use = DeviceUse(device_id="cpu", by_replica={"a-0": 1000})
    lease = Lease(replica_id="a-0", generation=1, slices=halves)
    assert Bench().dog.judge([use], [lease], DEVICES, 0.0) == Judgement()


def test_a_peak_is_no_offence_but_what_lasts_is() -> None:
    bench = Bench()
    for _ in range(READINGS - 1):
        judged = bench.look(a_0=2000)
        assert over(judged) == {"a-0": 1000}
        assert judged.lasting == ()
    assert bench.look(a_0=1000) == Judgement()  # a new streak
    for _ in range(READINGS - 1):
        assert bench.look(a_0=2000).to_end == {}
    judged = bench.look(a_0=2500)
    assert [one.replica_id for one in judged.lasting] == ["a-0"]
    assert judged.to_end == {
        "a-0": "it used 2500 MiB of its 1000 MiB on device cpu for 10 s; "
        "give it more (--gpumem), or less to do at a time"
    }


def test_time_alone_is_not_enough_and_looks_alone_neither() -> None:
    bench = Bench()
    bench.look(a_0=2000)
    assert bench.look(100.0, a_0=2000).lasting == ()
    hasty = Bench(grace_s=60.0)
    for _ in range(10):
        assert hasty.look(1.0, a_0=2000).lasting == ()


def test_each_device_has_its_own_streak_and_a_replica_with_no_slice_of_it_none() -> None:
    bench = Bench(grace_s=0.0)
    for _ in range(READINGS):
        judged = bench.look(c_0=5000)
    assert [(one.replica_id, one.device_id) for one in judged.lasting] == [("c-0", "GPU-a")]


def test_a_new_process_starts_with_a_clean_record() -> None:
    bench = Bench(grace_s=0.0)
    for _ in range(READINGS):
        assert bench.look(a_0=2000).over
    bench.dog.forget("a-0")
    assert bench.look(a_0=2000).lasting == ()  # a late reading of the process before


def test_where_nobody_can_tell_replicas_apart_nobody_is_blamed() -> None:
    use = DeviceUse(device_id="GPU-a", used_mib=16000, free_mib=0)
    dog = Watchdog("end", grace_s=0.0, tolerance_percent=0)
    for now in range(10):
        assert dog.judge([use], LEASES, DEVICES, now) == Judgement()


@pytest.mark.parametrize("action", ["report", "throttle"])
def test_only_who_was_told_to_ends_replicas(action: OverLimit) -> None:
    bench = Bench(action, grace_s=0.0)
    for _ in range(READINGS):
        judged = bench.look(free_mib=0, a_0=2000)
    assert judged.lasting
    assert judged.to_end == {}


def test_when_the_machine_runs_out_of_memory_the_worst_goes_at_once_and_alone() -> None:
    bench = Bench()
    judged = bench.look(free_mib=255, a_0=2000, b_0=3000, c_0=9000)
    assert list(judged.to_end) == ["b-0"]  # c-0 uses another memory
    assert judged.to_end["b-0"].startswith("the machine was running out of memory, and it used 3000 MiB of its 1000")
    assert bench.look(free_mib=256, a_0=2000).to_end == {}


def test_a_card_that_is_full_harms_nobody_on_the_machine() -> None:
    assert Bench().look(free_mib=0, c_0=9000).to_end == {}


def test_nobody_is_ended_because_others_have_filled_the_machine() -> None:
    assert Bench().look(free_mib=0, a_0=1000, b_0=1000) == Judgement()


def test_warnings_say_what_is_done() -> None:
    bench = Bench(grace_s=0.0)
    for _ in range(READINGS):
        judged = bench.look(a_0=1512)
    (one,) = judged.lasting
    assert warning(one, "report") == "it uses 1512 MiB of its 1000 MiB on device cpu"
    assert "it runs at the lowest priority until" in warning(one, "throttle")


@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 3000)), max_size=30))
def test_whoever_is_ended_was_over_his_slice_for_all_of_the_grace(looks: list[tuple[float, int]]) -> None:
    bench = Bench()
    streak: list[float] = []
    for after_s, used in looks:
        judged = bench.look(after_s, a_0=used)
        streak = [*streak, bench.now] if used > 1100 else []
        lasts = len(streak) >= READINGS and bench.now - streak[0] >= 10.0
        assert ("a-0" in judged.to_end) == lasts
