"""What devices report counts beside the books, and what is too old in it does not."""

import pytest

from xinfer.devices import DeviceUse, Hold
from xinfer.errors import NoCapacity
from xinfer.spec import ReplicaState
from xinfer.supervisor import admission
from xinfer.supervisor.events import DeploymentRemoved
from xinfer.supervisor.readings import STEADY_S


def card(used_mib, free_mib, by_replica=None, memory="none"):
    hold = Hold(memory=memory)
    return DeviceUse(device_id="gpu-0", used_mib=used_mib, free_mib=free_mib, by_replica=by_replica or {}, hold=hold)


def main_memory(free_mib, **by_replica):
    named = {name.replace("_", "-"): mib for name, mib in by_replica.items()}
    return DeviceUse(device_id="cpu0", used_mib=1000 - free_mib, free_mib=free_mib, by_replica=named)


def refusal(world, wanted):
    with pytest.raises(NoCapacity) as refused:
        admission.launched(world.cluster, wanted)
    return refused.value


def fits(world, wanted):
    return bool(admission.launched(world.cluster, wanted))


@pytest.fixture
def a(world, gpu):
    """A worker with one card of 1000 MiB."""
    return world.worker("a", devices=[gpu(0)])


def test_memory_of_strangers_is_not_given_away(world, deployment, a):
    a.see(card(used_mib=700, free_mib=300))
    refused = refusal(world, deployment(memory_mib=400))
    assert refused.message == (
        "a replica of 'm' needs 400 MiB on one device: a: device gpu-0 falls short by 100 MiB "
        "(300 of 1000 MiB free): the device reports 300 MiB free; it would fit with 300 MiB"
    )
    (verdict,) = refused.details["devices"]
    assert (verdict["free_mib"], verdict["reported_mib"], verdict["missing_mib"]) == (300, 300, 100)
    assert fits(world, deployment(memory_mib=300))
    answer = admission.explained(world.cluster, deployment(memory_mib=400))
    assert (answer["fits"], answer["explanation"]["reasons"]) == (False, {"InsufficientMemory": 1})


def test_strangers_count_however_firmly_our_own_replicas_are_held(world, deployment, a):
    a.see(card(used_mib=700, free_mib=300, memory="hard"))
    assert refusal(world, deployment(memory_mib=400))


def test_a_device_that_says_nothing_is_taken_by_the_books(world, deployment, a):
    a.see(DeviceUse(device_id="gpu-0"))
    assert fits(world, deployment(memory_mib=1000))


@pytest.mark.parametrize("named", [True, False], ids=["by name", "in all"])
def test_what_a_replica_has_not_filled_yet_is_promised_to_it(world, deployment, a, named):
    world.set(deployment(memory_mib=500))
    a.obey(ReplicaState.STARTING)
    a.see(card(used_mib=200, free_mib=800, by_replica={"m-0": 200} if named else {}))
    assert fits(world, deployment("n", memory_mib=500))
    a.see(card(used_mib=300, free_mib=700, by_replica={"m-0": 200} if named else {}))
    # By name, 100 MiB are a stranger's; else all of it may be ours.
    assert admission.explained(world.cluster, deployment("n", memory_mib=500))["fits"] is not named


def test_a_replica_that_was_just_placed_is_promised_all_of_its_slice(world, deployment, a):
    a.see(card(used_mib=200, free_mib=800))
    world.set(deployment(memory_mib=500))
    refused = refusal(world, deployment("n", memory_mib=400))
    assert "(300 of 1000 MiB free): the device reports 800 MiB free, of which 500 MiB are promised" in refused.message


@pytest.mark.parametrize("named", [True, False], ids=["by name", "in all"])
def test_memory_of_a_replica_that_has_just_ended_is_free(world, deployment, a, named):
    world.set(deployment(memory_mib=900))
    a.obey()
    a.see(card(used_mib=900, free_mib=100, by_replica={"m-0": 900} if named else {}))
    world.handle(DeploymentRemoved("m", world.now))
    a.obey()  # it has ended, and the device was not looked at since
    assert fits(world, deployment("n", memory_mib=900))
    a.see(card(used_mib=901, free_mib=99))  # a newer look finds it used all the same
    assert refusal(world, deployment("n", memory_mib=900))


def test_memory_of_replicas_that_stop_admits_a_launch_which_is_placed_when_they_are_gone(world, deployment, a):
    world.set(deployment(memory_mib=900))
    a.obey()
    a.see(card(used_mib=900, free_mib=100, by_replica={"m-0": 900}))
    world.handle(DeploymentRemoved("m", world.now))
    wanted = deployment("n", memory_mib=900, revision=2)
    assert fits(world, wanted)
    world.set(wanted)
    assert world.places("n") == {}
    a.obey()
    assert list(world.places("n")) == ["n-0"]


def test_a_replica_over_its_limit_takes_from_what_is_free(world, deployment, a):
    world.set(deployment(memory_mib=500))
    a.obey()
    a.see(card(used_mib=800, free_mib=200, by_replica={"m-0": 800}))
    assert "(200 of 1000 MiB free)" in refusal(world, deployment("n", memory_mib=300)).message


def test_a_failed_replica_is_promised_nothing_that_it_could_still_fill(world, deployment, a):
    world.set(deployment(memory_mib=500))
    a.obey(ReplicaState.FAILED)
    a.see(card(used_mib=500, free_mib=500))
    assert fits(world, deployment("n", memory_mib=500))


def test_free_main_memory_that_comes_and_goes_counts_for_as_long_as_a_worker_would_wait(world, deployment):
    a = world.worker("a")
    a.see(main_memory(600))
    world.now += 5
    a.see(main_memory(400))
    assert fits(world, deployment(memory_mib=600))
    assert "(600 of 1000 MiB free)" in refusal(world, deployment(memory_mib=601)).message
    world.now += STEADY_S
    a.see(main_memory(450))
    assert "the device reports 450 MiB free" in refusal(world, deployment(memory_mib=600)).message


def test_what_our_own_replicas_fill_meanwhile_is_not_thought_free(world, deployment):
    a = world.worker("a")
    a.see(main_memory(900))
    world.set(deployment(memory_mib=500))
    a.obey()
    a.see(main_memory(420, m_0=480))
    assert fits(world, deployment("n", memory_mib=400))
    assert "(400 of 1000 MiB free)" in refusal(world, deployment("n", memory_mib=401)).message


def test_what_does_not_fit_by_the_report_waits_and_is_placed_when_the_stranger_has_gone(world, deployment, a):
    a.see(card(used_mib=950, free_mib=50))
    world.set(deployment())
    assert world.places() == {}
    assert "the device reports 50 MiB free" in world.cluster.models["m"].pending_reason
    a.see(card(used_mib=0, free_mib=1000))
    world.pass_time(1)
    assert list(world.places()) == ["m-0"]
