import pytest

from xinfer.devices import DeviceSlice, Grant, Lease
from xinfer.engines.torch_device import pick_device
from xinfer.errors import LoadFailed

torch = pytest.importorskip("torch")


def grant(*device_ids: str) -> Grant:
    slices = tuple(DeviceSlice(device_id=one, memory_mib=1) for one in device_ids)
    return Grant(lease=Lease(replica_id="r", generation=1, slices=slices))


@pytest.mark.parametrize(
    ("wanted", "devices", "cuda", "picked"),
    [
        ("auto", (), False, "cpu"),
        ("auto", (), True, "cuda"),
        ("auto", ("cpu",), True, "cpu"),
        ("auto", ("GPU-1",), True, "cuda"),
        ("cpu", ("GPU-1",), True, "cpu"),
        ("cuda:0", ("GPU-1",), True, "cuda:0"),
    ],
)
def test_auto_is_what_was_leased(wanted, devices, cuda, picked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert str(pick_device(wanted, grant(*devices))) == picked


@pytest.mark.parametrize(("wanted", "devices"), [("auto", ("GPU-1",)), ("cuda", ()), ("cuda:0", ("cpu",))])
def test_cuda_that_torch_does_not_see_is_said_and_never_becomes_the_cpu(wanted, devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LoadFailed, match="sees no CUDA device"):
        pick_device(wanted, grant(*devices))
