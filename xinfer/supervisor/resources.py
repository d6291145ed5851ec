"""From the words of a launch about devices, memory, cores and workers to a ResourceRequest.

The words are those of HAMi and mean what they mean there; every refusal names the word that the user wrote. On a CPU
they slice the CPU.
"""

from collections.abc import Iterable, Sequence

from xinfer.errors import InvalidRequest, InvalidSliceRequest
from xinfer.protocol import LaunchRequest, WorkerHello
from xinfer.spec import Policy, ResourceRequest
from xinfer.supervisor.capacity import CPU, allowed_devices, answers_to, worker_names

POLICIES = {
    "binpack": Policy.BINPACK,
    "spread": Policy.SPREAD,
    "topology": Policy.TOPOLOGY,
    Policy.TOPOLOGY.value: Policy.TOPOLOGY,
}
PERCENT = 100


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
    """What each replica needs.

    ``n_gpu`` and ``gpu`` are the same: "auto" is one device, an accelerator where there is one; None or 0 the CPU.

    Raises:
        InvalidSliceRequest: a value cannot be meant, whatever devices there are.
        InvalidRequest: the workers have no such devices.
    """
    count, count_word = _device_count(request)
    if request.gpu_idx and count == 0:
        raise InvalidRequest(f"gpu_idx names GPUs, but {count_word} asks for none", param="gpu_idx")
    if count is None and request.gpu_idx:
        count = _indices_per_replica(request)
    memory_mib, memory_percent = _memory(request)
    policy = _policy(request.policy)
    if request.n_worker < 1:
        raise InvalidRequest(f"n_worker must be at least 1, not {request.n_worker}", param="n_worker")
    if request.n_worker > 1 and request.worker_ip:
        raise InvalidRequest(
            f"worker_ip names one worker, but n_worker asks for {request.n_worker}; leave one of them out",
            param="n_worker",
        )
    wanted = ResourceRequest(
        devices=count or 1,
        workers=request.n_worker,
        memory_mib=memory_mib,
        memory_percent=memory_percent,
        cores_percent=_number("gpucores", request.gpucores, PERCENT),
        device_kind="any" if count is None else "accelerator" if count else CPU,
        device_indices=tuple(sorted(set(request.gpu_idx))),
        device_types=_words(request.gputype),
        device_types_denied=_words(request.nouse_gputype),
        device_uuids=_words(request.gpuuuid),
        device_uuids_denied=_words(request.nouse_gpuuuid),
        worker_policy=None if policy is Policy.TOPOLOGY else policy,  # the links between devices end at their worker
        device_policy=policy,
        worker=request.worker_ip or None,
    )
    if wanted.device_kind == "accelerator":
        _require_accelerators(wanted, workers, "gpu_idx" if request.gpu_idx else count_word)
    return wanted


def _device_count(request: LaunchRequest) -> tuple[int | None, str]:
    """Accelerators per replica (None: let the cluster decide), and the word that says so."""
    count = _n_gpu(request.n_gpu)
    if request.gpu is None:
        return count, "n_gpu"
    _number("gpu", request.gpu)
    if count not in (None, request.gpu):
        raise InvalidSliceRequest(f"gpu is {request.gpu}, but n_gpu is {request.n_gpu}; choose one", param="gpu")
    return request.gpu, "gpu"


def _n_gpu(value: int | str | None) -> int | None:
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


def _indices_per_replica(request: LaunchRequest) -> int:
    if len(request.gpu_idx) % request.replica:
        raise InvalidRequest(
            f"gpu_idx has {len(request.gpu_idx)} entries, which cannot be shared by {request.replica} replicas",
            param="gpu_idx",
        )
    return len(request.gpu_idx) // request.replica


def _memory(request: LaunchRequest) -> tuple[int | None, int | None]:
    """MiB and percent of each device, at most one of them; MiB goes before percent, as in HAMi."""
    if request.memory_mib is not None and request.memory_mib < 1:
        raise InvalidRequest("memory_mib must be at least 1", param="memory_mib")
    mib = _number("gpumem", request.gpumem)
    percent = _number("gpumem_percentage", request.gpumem_percentage, PERCENT)
    if mib and request.memory_mib not in (None, mib):
        raise InvalidSliceRequest(
            f"gpumem is {mib} MiB, but memory_mib is {request.memory_mib}; choose one", param="gpumem"
        )
    mib = mib or request.memory_mib or 0
    return (mib, None) if mib else (None, percent or None)


def _number(word: str, value: int | None, high: int | None = None) -> int:
    """0 where nothing is said."""
    if value is None:
        return 0
    if value < 0 or (high is not None and value > high):
        limits = "0 or more" if high is None else f"between 0 and {high}"
        raise InvalidSliceRequest(f"{word} must be {limits}, not {value}", param=word)
    return value


def _policy(word: str | None) -> Policy | None:
    if not word:
        return None
    policy = POLICIES.get(word.strip().lower())
    if policy is None:
        raise InvalidSliceRequest(f"there is no policy {word!r}; there are: binpack, spread, topology", param="policy")
    return policy


def _words(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for text in given for part in text.split(",") if (word := part.strip()))


def _require_accelerators(wanted: ResourceRequest, workers: Sequence[WorkerHello], param: str) -> None:
    names = worker_names(workers)
    if all(device.kind == CPU for hello in workers for device in hello.devices):
        raise InvalidRequest(f"there is no GPU: {names} have only a CPU; launch without {param}", param=param)
    most = max(len(devices) for devices in allowed_devices(workers, wanted).values())
    if most < wanted.devices:
        which = f" with index {list(wanted.device_indices)}" if wanted.device_indices else ""
        raise InvalidRequest(
            f"a replica needs {wanted.devices} GPUs{which} on one worker, the most there are is {most}", param=param
        )
