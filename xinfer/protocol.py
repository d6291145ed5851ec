"""Control-plane messages: what supervisor, workers, replicas and gateways say to each other through xoscar.

Both directions are level-triggered: the supervisor sends a worker the whole list of what it should run, the worker
sends the whole list of what it runs. A lost or repeated message changes nothing, and a restarted side is caught up by
the next one.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from xinfer.devices import Budget, Device, DeviceSlice, DeviceUse, Seat
from xinfer.routes import Endpoint
from xinfer.spec import Adapter, Deployment, EnvironmentRequest, ReplicaState

SUPERVISOR_UID = "xinfer-supervisor"
"""Actor uid of the supervisor in its pool."""
WORKER_UID = "xinfer-worker"
"""Actor uid of a worker in its pool."""
REPLICA_UID = "xinfer-replica"
"""Actor uid of a replica in its pool."""


class EngineOffer(msgspec.Struct, frozen=True):
    """Whether a worker can run an engine, as its ``available()`` said there."""

    ok: bool
    reason: str = ""
    version: str = ""
    environment: str = ""
    """The environment of its own that it would run in; empty: the worker's Python."""
    installable: bool = False
    """The worker can build such an environment; a launch that names the engine makes it do so."""
    cpu_only: str = ""
    """Why it computes on the CPU there even if the machine has an accelerator; empty: it does not."""
    packages: tuple[str, ...] = ()
    """As in ``Available``, of the Python that it would run in."""

    def serves(self, request: EnvironmentRequest) -> bool:
        """Whether a replica with such an environment can run there, perhaps after building it."""
        if request.python:
            return True  # what that interpreter has, only the worker can see
        if request.is_own:
            return self.installable
        if request.mode == "none":
            return self.ok and not self.environment
        return self.ok or (self.installable and request.build)


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that a worker is to run. A higher ``generation`` replaces a lower one of the same replica_id."""

    replica_id: str
    generation: int
    deployment: Deployment
    slices: tuple[DeviceSlice, ...] = ()
    seat: Seat | None = None


class Assignments(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker is to run; what is not in it is to be drained and stopped."""

    epoch: int
    version: int
    items: tuple[Assignment, ...] = ()


class StandingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What may change of a replica while its process runs. The latest one holds."""

    adapters: tuple[Adapter, ...] = ()
    sleep_level: int = 0
    """0: awake."""
    paused: bool = False
    """The download of its weights rests, where it still waits for that."""

    @classmethod
    def of(cls, deployment: Deployment) -> "StandingOrder":
        """What a Deployment says about that."""
        return cls(adapters=deployment.adapters, sleep_level=deployment.sleep_level, paused=deployment.paused)


class AdapterFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that an engine could not load."""

    adapter: Adapter
    reason: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica has made of its StandingOrder so far."""

    adapters: tuple[Adapter, ...] = ()
    """Loaded, in the order in which they were."""
    failures: tuple[AdapterFailure, ...] = ()
    """Of those that are ordered."""
    sleep_level: int = 0
    complaint: str = ""
    """Why it does not sleep although it should."""


class FileProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the download of a file is, in bytes."""

    name: str
    """Its path in the repository."""
    done: int
    total: int


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as its worker sees it now. ``since`` is epoch seconds, ``progress`` 0..1."""

    replica_id: str
    model_uid: str
    generation: int
    revision: int
    state: ReplicaState
    stage: str = ""
    progress: float = 0.0
    reason: str = ""
    """Why it failed, with the last lines of the engine's log."""
    refused: str = ""
    """The parameter of its launch that is wrong, if that is why it failed."""
    restarts: int = 0
    was_ready: bool = False
    since: float = 0.0
    pid: int = 0
    control_address: str = ""
    endpoint: Endpoint | None = None
    slices: tuple[DeviceSlice, ...] = ()
    served: bool = False
    """It has answered a request: only then what it uses says something about what it needs."""
    warning: str = ""
    """What is wrong with it while it runs: that it uses more than its slice."""
    standing: Standing = Standing()
    files: tuple[FileProgress, ...] = ()
    """What it waits for, while its weights are downloaded."""
    instance: str = ""
    """Names its process."""
    seat: Seat | None = None
    worker: str = ""
    """The name of its worker, of the members of a gang."""
    members: tuple["ReplicaStatus", ...] = ()
    """Of a gang as a whole: its members, the leader first."""


class WorkerHello(msgspec.Struct, frozen=True, kw_only=True):
    """Who a worker is. ``worker_id`` survives restarts, ``incarnation`` names one process."""

    worker_id: str
    incarnation: str
    name: str
    address: str
    """Of its actor pool, host:port."""
    host_id: str
    version: str
    devices: tuple[Device, ...]
    engines: dict[str, EngineOffer]
    node: str = ""
    """The machine, as Kubernetes or its operating system calls it."""


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker runs now; sent on every change and as the heartbeat. ``sequence`` grows within an incarnation."""

    worker_id: str
    incarnation: str
    sequence: int
    assignments_version: tuple[int, int] = (0, 0)
    """(epoch, version) of the Assignments it works by."""
    replicas: tuple[ReplicaStatus, ...] = ()
    uses: tuple[DeviceUse, ...] = ()
    """What its devices reported last; none of a lost device."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a hello or a report. ``known=False``: say hello again. ``assignments=None``: keep what you have."""

    known: bool
    assignments: Assignments | None = None


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker writes for the process of a replica to start from (``launch.json``)."""

    replica_id: str
    instance: str
    """Names this one process; a restart of the same replica has a new one."""
    generation: int
    deployment: Deployment
    slices: tuple[DeviceSlice, ...]
    threads: int
    host: str
    """Where the replica binds its control and data ports."""
    lease_s: float
    """Seconds without a claim after which the process ends itself."""
    env: dict[str, str] = {}
    """What the worker added to the environment of the process: the enforcers' and the deployment's variables."""
    budgets: tuple[Budget, ...] = ()
    """As in the Grant."""
    python: str = ""
    """The Python that runs it; empty: the worker's."""
    weights: str = ""
    """Where the weights are on this machine; empty: where the spec says."""
    seat: Seat | None = None


LAUNCH_FILE = "launch.json"
"""The LaunchOrder, in the directory of a replica's instance."""
PROCESS_FILE = "process.json"
"""The ProcessRecord, in the same directory."""
FAILURE_FILE = "failure.json"
"""The FailureRecord, in the same directory."""
LOG_FILE = "log"
"""Output of the process, in the same directory."""


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica writes about its process (``process.json``), so that a restarted worker finds it again."""

    pid: int
    started: float
    """Epoch seconds; with the pid it names the process."""
    address: str = ""
    """Of its actor pool, host:port; empty until that is up."""
    socket: str = ""
    """The unix socket that it serves on; empty until it does. Whoever finds the process dead removes it."""


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Why a replica could not load its engine (``failure.json``); written before its process ends."""

    reason: str
    refused: str = ""
    """The parameter of its launch that is wrong, if that is why."""
    logged_well: int = 0
    """Bytes of its log from when it still served: what these say of errors was about requests."""


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica tells whoever watches it. ``version`` grows with every change."""

    instance: str
    version: int
    state: ReplicaState
    stage: str = ""
    progress: float = 0.0
    reason: str = ""
    endpoint: Endpoint | None = None
    served: bool = False
    """It has answered a request."""
    ordered: StandingOrder = StandingOrder()
    """The order that it works by."""
    standing: Standing = Standing()
    files: tuple[FileProgress, ...] = ()
    """While its weights are downloaded, before it has a process."""


class LaunchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A launch as a client asked for it, in the words of the management API. Unknown keywords are in ``options``."""

    model_name: str
    model_uid: str | None = None
    model_type: str | None = None
    model_engine: str | None = None
    model_format: str | None = None
    model_size_in_billions: str | float | int | None = None
    quantization: str | None = None
    model_path: str | None = None
    replica: int = 1
    n_gpu: int | str | None = "auto"
    gpu: int | None = None
    """The same as ``n_gpu``, in the words of HAMi, as are those that follow."""
    gpu_idx: tuple[int, ...] = ()
    gpumem: int | None = None
    """MiB of each device; 0: not said. Goes before the percentage."""
    gpumem_percentage: int | None = None
    """Percent of the memory of each device; 0: not said."""
    gpucores: int | None = None
    """Percent of the cores of each device; 0: no limit, 100: the devices for itself."""
    policy: str | None = None
    """"binpack", "spread" or "topology": how a worker and its devices are chosen."""
    gputype: tuple[str, ...] = ()
    """Words in the names of devices; each may hold several, separated by commas. So may the three others."""
    nouse_gputype: tuple[str, ...] = ()
    gpuuuid: tuple[str, ...] = ()
    nouse_gpuuuid: tuple[str, ...] = ()
    worker_ip: str | None = None
    n_worker: int = 1
    """On how many workers each replica runs, with as many devices on each."""
    memory_mib: int | None = None
    """The same as ``gpumem``."""
    envs: dict[str, str] = {}
    overrides: dict[str, Any] = {}
    """What the launch says about the model against its files: fields of a ModelSpec, see ``catalog/overrides.py``."""
    fallback: str | None = None
    """The model_uid that stands in where nothing serves this one, or its queues are full."""
    adapters: tuple[Adapter, ...] = ()
    """Names and paths."""
    environment: str | None = None
    """"auto", "none", "own", or the folder of a virtual environment on the workers."""
    python: str | None = None
    """An interpreter on the workers."""
    virtual_env_packages: tuple[str, ...] = ()
    enable_virtual_env: bool | None = None
    """True is "own", False is "none"."""
    options: dict[str, Any] = {}


class EngineBuild(msgspec.Struct, frozen=True, kw_only=True):
    """The building of an environment on one worker, as it is now."""

    engine: str
    environment: str
    """Its name."""
    state: Literal["building", "ready", "failed", "cancelled"]
    stage: str = ""
    progress: float = 0.0
    """0..1"""
    reason: str = ""
    """Why it failed."""


class ModelProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a launch is: the slowest replica's stage and the mean progress, 0..1."""

    model_uid: str
    progress: float
    stage: str
    replicas: tuple[ReplicaStatus, ...]
    done: bool
    """Every replica is READY, or nothing more will happen."""
    reason: str = ""
    """Why it failed, when it did."""
    refused: str = ""
    """The parameter of the launch that is wrong, if that is why."""


class ModelInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A Deployment beside its current replicas: what ``list``, ``instances`` and ``status`` show."""

    deployment: Deployment
    replicas: tuple[ReplicaStatus, ...]
    workers: dict[str, str] = {}
    """replica_id -> worker name."""
    picked: str = ""
    """As the answer to a launch: what was picked of what the launch left open, and why."""
    warnings: tuple[str, ...] = ()
    """As the answer to a launch: what whoever launched it should know."""


class Cordon(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word on a worker, or on one of its devices: it takes nothing new. ``since`` is epoch seconds."""

    worker_id: str
    device_id: str = ""
    """Empty: the whole worker."""
    drain: bool = False
    """What runs there is moved away, one replica after the other."""
    since: float = 0.0


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the supervisor sees it."""

    hello: WorkerHello
    alive: bool
    last_seen_s_ago: float
    replicas: tuple[ReplicaStatus, ...]
    uses: tuple[DeviceUse, ...] = ()
    cordons: tuple[Cordon, ...] = ()
    """Of the worker and of its devices."""


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The whole cluster, for ``xinfer status``."""

    epoch: int
    version: str
    address: str
    uptime_s: float
    settling: bool
    workers: tuple[WorkerInfo, ...]
    instances: tuple[ModelInstance, ...]
    cordons: tuple[Cordon, ...] = ()
    """Also of workers that are not there."""
    rejects: dict[str, int] = {}
    """How many requests for a place were refused since the supervisor started, by reason."""


class SupervisorRecord(msgspec.Struct, frozen=True):
    """Where the supervisor of a home is, on disk, so that gateways find one that was restarted elsewhere."""

    address: str


def supervisor_record(home: Path) -> Path:
    """The file of that record."""
    return home / "supervisor" / "address.json"
