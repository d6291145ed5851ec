"""What is asked for: ModelSpec and Deployment (desired), and the states of a Replica (current)."""

from enum import StrEnum
from typing import Any

import msgspec

from xinfer.ops import OPS_OF_KIND, Kind, Op


class Format(StrEnum):
    """How the weights are stored."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    NONE = "none"
    """Nothing to load: the echo engine, a remote endpoint."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve. ``source`` is a local folder or file (hub ids come with the downloads).

    ``weights_mib`` is the size of the weights on disk in MiB; ``context_length`` is in tokens.
    """

    name: str
    kind: Kind
    source: str
    format: Format
    family: str = ""
    quantization: str = "none"
    size_in_billions: float | None = None
    abilities: tuple[str, ...] = ()
    context_length: int | None = None
    dimensions: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    weights_mib: int = 0

    @property
    def ops(self) -> frozenset[Op]:
        """The operations a model of this kind can be asked for."""
        return OPS_OF_KIND[self.kind]


class Policy(StrEnum):
    """Which of the places that fit is taken. Also the words of HAMi."""

    BINPACK = "binpack"
    """The fullest: large gaps stay for large models."""
    SPREAD = "spread"
    """The emptiest: replicas disturb each other least."""
    TOPOLOGY = "topology-aware"
    """Several devices: those with the fastest links to each other. One: the worst connected, which is missed least."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How much each resource counts when devices are compared."""

    slot: int = 1
    core: int = 1
    memory: int = 1


class ResourceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica needs: devices of one worker, and on each of them memory and cores.

    Neither ``memory_mib`` nor ``memory_percent``: the memory is estimated.
    """

    devices: int = 1
    memory_mib: int | None = None
    memory_percent: int | None = None
    """Of the memory of the physical device."""
    cores_percent: int = 0
    """Percent of the physical device; 0 means no limit."""
    exclusive: bool = False
    """The devices for itself."""
    device_kind: str = "any"
    """"cpu", "accelerator", or "any": accelerators where the cluster has some, else CPUs."""
    device_indices: tuple[int, ...] = ()
    """Only devices with one of these indices; empty: any."""
    device_types: tuple[str, ...] = ()
    """Only devices with one of these words in their name."""
    device_types_denied: tuple[str, ...] = ()
    device_uuids: tuple[str, ...] = ()
    device_uuids_denied: tuple[str, ...] = ()
    numa_bind: bool = False
    """All devices of a replica on one NUMA node."""
    anti_affinity: bool = False
    """Every replica on physical cards of its own."""
    worker_policy: Policy | None = None
    """How a worker is chosen; None: as the cluster does."""
    device_policy: Policy | None = None
    """How its devices are chosen."""
    weights: Weights = Weights()
    worker: str | None = None
    """Only on this worker (its id, name or address)."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """The desired state of one model, durable. ``revision`` grows with each change; ``created_at``: epoch seconds."""

    model_uid: str
    spec: ModelSpec
    engine: str
    replicas: int = 1
    request: ResourceRequest = ResourceRequest()
    options: dict[str, Any] = {}
    """Engine keywords, checked against the engine's own ``Options``."""
    envs: dict[str, str] = {}
    revision: int = 1
    created_at: float = 0.0


class ReplicaState(StrEnum):
    """The life of a replica. Only READY ones are routed to; FAILED keeps its reason."""

    PENDING = "PENDING"
    DOWNLOADING = "DOWNLOADING"
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Nothing more will happen to it by itself."""
        return self in (ReplicaState.STOPPED, ReplicaState.FAILED)
