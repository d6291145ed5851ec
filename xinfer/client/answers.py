"""What the server answers, as far as people look at it. Fields that are not named here are left out.

Everything has a default, so that a client reads the answers of a server that is a little older or newer.
"""

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``GET /v1/models``. ``context_length`` is in tokens, ``created`` epoch seconds."""

    id: str
    created: int = 0
    model_name: str = ""
    model_type: str = ""
    model_engine: str = ""
    model_ability: tuple[str, ...] = ()
    context_length: int | None = None
    status: str = ""
    """loading, ready, recovering, asleep or failed."""
    parent: str = ""
    """Of an adapter: the model that it belongs to."""
    replica: int = 0
    """How many replicas were asked for."""
    ready_replicas: int = 0


class ModelList(msgspec.Struct, frozen=True):
    """The whole of ``GET /v1/models``."""

    data: tuple[Model, ...]


class Launched(msgspec.Struct, frozen=True):
    """The answer to a launch."""

    model_uid: str
    picked: str = ""
    """The engine and the weights that were picked of what the launch left open, and why."""
    warnings: tuple[str, ...] = ()


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a device that a replica has booked: MiB, and percent of its cores (0: no limit)."""

    device_id: str
    memory_mib: int = 0
    cores_percent: int = 0


class ReplicaProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of a model: its state, and while it starts how far it is (``progress`` 0..1)."""

    replica_id: str
    state: str = ""
    stage: str = ""
    progress: float = 0.0
    reason: str = ""
    warning: str = ""
    """What is wrong with it while it runs."""
    worker: str = ""
    restarts: int = 0
    devices: tuple[Slice, ...] = ()
    rank: int = 0
    """Of a member; 0 leads."""
    members: tuple["ReplicaProgress", ...] = ()
    """Of a replica that runs on several workers: each of its processes."""


class LaunchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a launch is, 0..1. When ``done``, an empty ``reason`` means success."""

    progress: float = 0.0
    stage: str = ""
    replicas: tuple[ReplicaProgress, ...] = ()
    done: bool = False
    reason: str | None = None


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A deployed model and its replicas, in ``instances`` and in the cluster's status."""

    model_uid: str
    model_name: str = ""
    model_type: str = ""
    model_engine: str = ""
    replica: int = 0
    status: str = ""
    replicas: tuple[ReplicaProgress, ...] = msgspec.field(default=(), name="replica_statuses")


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a worker; memory in MiB."""

    device_id: str
    kind: str = ""
    name: str = ""
    memory_mib: int = 0
    cores: int = 0
    cordoned: bool = False
    """It, or its worker as a whole, takes nothing new."""
    draining: bool = False


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a worker can run an engine, and if not, why."""

    ok: bool = False
    reason: str = ""
    version: str = ""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as the supervisor sees it."""

    worker_id: str
    name: str = ""
    address: str = ""
    alive: bool = False
    last_seen_s_ago: float = 0.0
    cordoned: bool = False
    """As a whole; it takes nothing new."""
    draining: bool = False
    devices: tuple[Device, ...] = ()
    engines: dict[str, EngineStatus] = {}
    replicas: tuple[ReplicaProgress, ...] = ()


class SliceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica has of a device: ``memory_mib`` is its limit, ``used_mib`` what it uses where that is known."""

    model_uid: str
    replica_id: str
    state: str = ""
    memory_mib: int = 0
    cores_percent: int = 0
    exclusive: bool = False
    used_mib: int | None = None
    over_limit_mib: int = 0
    """How far it has been over its slice for a while; 0 within the tolerance."""


class Enforcement(msgspec.Struct, frozen=True, kw_only=True):
    """How firmly replicas are held to their slices: "hard", "soft" or "none", and by what."""

    memory: str = ""
    cores: str = ""
    by: tuple[str, ...] = ()


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its slices; memory in MiB, None where nobody can tell."""

    worker_id: str
    worker: str = ""
    alive: bool = False
    device_id: str
    kind: str = ""
    index: int = 0
    name: str = ""
    source: str = ""
    healthy: bool = True
    health_reason: str = ""
    memory_mib: int = 0
    capacity_mib: int = 0
    """What of it may be reserved."""
    reserved_mib: int = 0
    free_mib: int = 0
    """What can still be reserved, nothing where it is not healthy; negative: more is reserved than there is."""
    used_mib: int | None = None
    """What everybody on it uses, as the device reports it."""
    others_mib: int | None = None
    """What processes use that are none of ours."""
    device_free_mib: int | None = None
    """What the device itself reports as free."""
    cap_cores: int = 100
    reserved_cores_percent: int = 0
    enforced: Enforcement | None = None
    enforced_by: str = ""
    """Who holds all of us together to ``memory_mib`` ("hami", "mig")."""
    cordoned: bool = False
    """It takes nothing new; it may be healthy all the same."""
    draining: bool = False
    slices: tuple[SliceStatus, ...] = ()


class CordonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker or a device after a word of an operator. ``device=None``: the whole worker."""

    worker_id: str
    worker: str = ""
    device: str | None = None
    cordoned: bool = False
    draining: bool = False
    replicas: tuple[str, ...] = ()
    """Those that are still there."""


class DeviceVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What stands against one device; ``reason=None``: nothing does. Memory in MiB, cores in percent."""

    worker_id: str = ""
    worker: str = ""
    device_id: str
    uuid: str = ""
    name: str = ""
    reason: str | None = None
    message: str = ""
    needed_mib: int = 0
    free_mib: int = 0
    cap_mib: int = 0
    reported_mib: int | None = None
    """What the device itself reports as free, where that counts."""
    missing_mib: int = 0
    needed_cores: int = 0
    free_cores: int = 0


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Every device for the first replica that does not fit; if all fit, for the first one."""

    devices: tuple[DeviceVerdict, ...] = ()
    reasons: dict[str, int] = {}
    """How many devices are refused for each reason."""
    free_mib: int = 0
    largest_free_mib: int = 0
    fragmented: bool = False
    """There is enough free memory, but not on one device."""
    unknown_uuids: tuple[str, ...] = ()
    nearest: dict[str, int] | None = None
    """The request that would fit: what has to change (count, memory_mib, memory_percent, cores), and to what."""


class EstimateParts(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica needs on each of its devices, by parts; MiB and tokens."""

    device_kind: str = ""
    devices: int = 1
    weights_mib: int = 0
    kv_cache_mib: int = 0
    activations_mib: int = 0
    engine_mib: int = 0
    driver_mib: int = 0
    safety_mib: int = 0
    per_device_mib: int = 0
    total_mib: int = 0
    context_length: int = 0
    concurrency: int = 0
    kv_tokens: int = 0
    batch_tokens: int = 0
    observed_mib: int | None = None
    """The most that such a replica was seen to use; None: none has run yet."""
    needed_mib: int = 0
    """What a launch reserves on each device."""
    error_percent: float | None = None
    """How far the estimate is above what was observed."""
    notes: tuple[str, ...] = ()
    message: str = ""


class PlannedSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica would get of a device."""

    device_id: str
    memory_mib: int = 0
    cores_percent: int = 0
    exclusive: bool = False


class PlannedReplica(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica would run."""

    worker_id: str
    slices: tuple[PlannedSlice, ...] = ()
    followers: tuple["PlannedReplica", ...] = ()
    """Of one that would run on several workers: its places on the others."""

    @property
    def members(self) -> tuple["PlannedReplica", ...]:
        """Every place that it takes."""
        return (self, *self.followers)


class ModelEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """How much memory a launch would need, and where one replica of it fits now."""

    model_name: str
    model_engine: str = ""
    model_format: str = ""
    quantization: str = ""
    size_in_billions: float | None = None
    device_kind: str = ""
    """On what it would run: "cpu" or "accelerator"."""
    estimates: dict[str, EstimateParts] = {}
    """By kind of device."""
    fits: bool = False
    message: str = ""
    placements: tuple[PlannedReplica, ...] = ()
    explanation: Explanation = Explanation()


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a launch. ``fits``: all of its replicas have a place."""

    model_uid: str
    engine: str = ""
    replicas: int = 1
    memory: str = ""
    """Where the memory of a replica comes from, if the launch does not say."""
    fits: bool = False
    message: str = ""
    placements: tuple[PlannedReplica, ...] = ()
    explanation: Explanation = Explanation()
    picked: str = ""
    """What was picked of what the launch left open, and why."""
    warnings: tuple[str, ...] = ()


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole cluster. ``settling``: the supervisor has just restarted and waits for the workers it knew."""

    version: str = ""
    address: str = ""
    epoch: int = 0
    uptime_s: float = 0.0
    settling: bool = False
    workers: tuple[WorkerStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a streamed answer. ``finish_reason`` comes with the last one."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None


class ChunkDelta(msgspec.Struct, frozen=True):
    """What a chat chunk adds."""

    content: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """One choice of a chunk, of a chat (``delta``) or of a completion (``text``)."""

    delta: ChunkDelta = ChunkDelta()
    text: str = ""
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a streamed answer, as it comes on the wire."""

    choices: tuple[ChunkChoice, ...] = ()
