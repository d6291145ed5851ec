"""From the words of a launch about GPUs, memory and workers to a ResourceRequest."""

from collections.abc import Sequence

from xinfer.errors import InvalidRequest
from xinfer.protocol import LaunchRequest, WorkerHello
from xinfer.spec import ResourceRequest
from xinfer.supervisor.capacity import CPU, allowed_devices, answers_to, worker_names


def wanted_workers(request: LaunchRequest, workers: Sequence[WorkerHello]) -> list[WorkerHello]:
    """The workers that a launch may use: the one that it names, else all.

    Raises:
        InvalidRequest: none is called so.
    """
    if not request.worker_ip:
        return list(workers)
    chosen = [hello for hello in workers if answers_to(hello, request.worker_ip)]
    if not chosen:
        raise InvalidRequest(
            f"no worker is called {request.worker_ip!r}; there are: {worker_names(workers)}", param="worker_ip"
        )
    return chosen


def resources(request: LaunchRequest, workers: Sequence[WorkerHello]) -> ResourceRequest:
    """What each replica needs. ``n_gpu``: "auto" is one device, an accelerator where there is one; None or 0 the CPU.

    Raises:
        InvalidRequest: the workers have no such devices.
    """
    count = _gpu_count(request.n_gpu)
    if request.gpu_idx and count == 0:
        raise InvalidRequest("gpu_idx names GPUs, but n_gpu asks for none", param="gpu_idx")
    if count is None and request.gpu_idx:
        if len(request.gpu_idx) % request.replica:
            raise InvalidRequest(
                f"gpu_idx has {len(request.gpu_idx)} entries, which cannot be shared by {request.replica} replicas",
                param="gpu_idx",
            )
        count = len(request.gpu_idx) // request.replica
    if request.memory_mib is not None and request.memory_mib < 1:
        raise InvalidRequest("memory_mib must be at least 1", param="memory_mib")
    wanted = ResourceRequest(
        devices=count or 1,
        memory_mib=request.memory_mib,
        device_kind="any" if count is None else "accelerator" if count else CPU,
        device_indices=tuple(sorted(set(request.gpu_idx))),
        worker=request.worker_ip or None,
    )
    if wanted.device_kind == "accelerator":
        _require_accelerators(wanted, workers)
    return wanted


def _gpu_count(value: int | str | None) -> int | None:
    """Accelerators per replica; None: let the cluster decide."""
    if value is None:
        return 0
    if isinstance(value, str) and value.strip().lower() in ("auto", ""):
        return None
    try:
        count = int(value)
    except ValueError:
        count = -1
    if count < 0:
        raise InvalidRequest(f'n_gpu must be "auto" or a number from 0, not {value!r}', param="n_gpu")
    return count


def _require_accelerators(wanted: ResourceRequest, workers: Sequence[WorkerHello]) -> None:
    param = "gpu_idx" if wanted.device_indices else "n_gpu"
    names = worker_names(workers)
    if all(device.kind == CPU for hello in workers for device in hello.devices):
        raise InvalidRequest(f"there is no GPU: {names} have only a CPU; launch without {param}", param=param)
    most = max(len(devices) for devices in allowed_devices(workers, wanted).values())
    if most < wanted.devices:
        which = f" with index {list(wanted.device_indices)}" if wanted.device_indices else ""
        raise InvalidRequest(
            f"a replica needs {wanted.devices} GPUs{which} on one worker, the most there are is {most}", param=param
        )
