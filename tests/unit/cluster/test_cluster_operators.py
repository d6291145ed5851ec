"""How operators name workers and devices."""

import msgspec
import pytest

from xinfer.errors import Conflict, NotFound
from xinfer.supervisor.operators import target


@pytest.fixture
def a(world, gpu):
    return world.worker("a", devices=[gpu(0), gpu(1)])


@pytest.mark.parametrize("name", ["a", "a:1"])
def test_a_worker_has_several_names(world, a, name):
    assert target(world.cluster, name) == ("a", "")


@pytest.mark.parametrize("name", ["gpu-1", "GPU-1", "1"])
def test_so_has_a_device(world, a, name):
    assert target(world.cluster, "a", name) == ("a", "gpu-1")


def test_the_number_of_a_device_is_that_of_an_accelerator(world, gpu):
    a = world.worker("a")
    a.hello = msgspec.structs.replace(a.hello, devices=(*a.hello.devices, gpu(0)))
    a.join()
    assert target(world.cluster, "a", "0") == ("a", "gpu-0")
    assert target(world.cluster, "a", "cpu0") == ("a", "cpu0")


def test_two_instances_of_one_card_are_told_apart_by_their_ids(world, gpu):
    halves = [msgspec.structs.replace(gpu(0), device_id=name, uuid=name, parent_uuid="GPU-p") for name in ("x", "y")]
    world.worker("a", devices=halves)
    assert target(world.cluster, "a", "y") == ("a", "y")
    with pytest.raises(NotFound, match="worker 'a' has no device '0'; it has: x, y"):
        target(world.cluster, "a", "0")


def test_what_is_not_there_is_refused_with_what_there_is(world, a):
    with pytest.raises(NotFound, match=r"no worker is called 'b'; there are: a \(a:1\)") as refused:
        target(world.cluster, "b")
    assert refused.value.param == "worker"
    with pytest.raises(NotFound, match="worker 'a' has no device 'gpu-2'; it has: gpu-0, gpu-1") as refused:
        target(world.cluster, "a", "gpu-2")
    assert refused.value.param == "device"


def test_a_name_of_several_workers_is_not_guessed(world):
    for name in ("a", "b"):
        worker = world.worker(name)
        worker.hello = msgspec.structs.replace(worker.hello, name="twin")
        worker.join()
    with pytest.raises(Conflict, match=r"several workers are called 'twin'.*twin \(a:1\), twin \(b:1\)"):
        target(world.cluster, "twin")
    assert target(world.cluster, "b") == ("b", "")


def test_what_is_cordoned_can_be_named_when_it_is_gone(world, a):
    world.cordon("a", "gpu-7")
    world.cordon("long-gone")
    assert target(world.cluster, "a", "gpu-7") == ("a", "gpu-7")
    assert target(world.cluster, "long-gone") == ("long-gone", "")
