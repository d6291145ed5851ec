"""What is asked for: ModelSpec and Deployment (desired), and the states of a Replica (current)."""

from enum import StrEnum
from typing import Any, Literal

import msgspec

from xinfer.ops import OPS_OF_KIND, Kind, Op


class Format(StrEnum):
    """How the weights are stored."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    MLX = "mlx"
    """Safetensors in the layout of MLX, mostly quantised in its own way."""
    PICKLE = "pickle"
    """PyTorch's older files (pytorch_model.bin). They could hold code: those that do are refused."""
    NONE = "none"
    """Nothing to load: the echo engine, a remote endpoint."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how much memory a model takes, as its files say. 0: they do not say, or it has none of it."""

    layers: int = 0
    attention_layers: int = 0
    """Those that keep the keys and values of every past token."""
    sliding_layers: int = 0
    """Those that keep them of the last ``window`` tokens only. The rest (state-space, linear attention) keep none."""
    window: int = 0
    hidden: int = 0
    intermediate: int = 0
    """Width of the feed-forward part for one token; of a mixture of experts, of all that are active together."""
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    """Of a key."""
    value_dim: int = 0
    """Of a value."""
    kv_lora_rank: int = 0
    """Multi-head latent attention: width of the latent from which keys and values are computed anew."""
    qk_rope_head_dim: int = 0
    """Multi-head latent attention: width of the rotated part of a key, which is kept beside the latent."""
    vocabulary: int = 0
    embedding_tables: int = 2
    """How often the vocabulary is in the weights: once where input and output share it."""
    parameters: int = 0
    dtype: str = ""
    """What the model computes in, by its config.json: "bfloat16", "float16" or "float32"."""
    weight_bytes: dict[str, int] = {}
    """Bytes of the tensors by their type in the files: {"BF16": 1192099840}."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve. ``source`` is a local folder or file, or symbolic, see ``catalog/sources.py``.

    ``weights_mib`` is the size of the weights on disk in MiB; ``context_length`` is in tokens.
    """

    name: str
    kind: Kind
    source: str
    format: Format
    family: str = ""
    quantization: str = "none"
    size_in_billions: float | None = None
    """Parameters, as the model's name says it."""
    active_size_in_billions: float | None = None
    """Of a mixture of experts, the parameters that one token uses."""
    mirrors: tuple[str, ...] = ()
    """Where the same weights are on other hubs, as ``source``."""
    abilities: tuple[str, ...] = ()
    context_length: int | None = None
    dimensions: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    pooling: str = ""
    """How an embedding model makes one vector of all tokens: "cls", "mean", "lasttoken"; empty: nobody says."""
    normalized: bool | None = None
    """Whether its vectors have unit length; None: its files do not say."""
    has_chat_template: bool = False
    tool_parser: str = ""
    """The form in which it writes tool calls, by its chat template; empty: none, or none that is known."""
    reasoning_parser: str = ""
    """The same of its thoughts."""
    remote_code: bool = False
    """Its folder brings Python code of its own, for libraries that do not know its architecture."""
    weights_mib: int = 0
    shape: ModelShape | None = None
    """None: nobody has looked into the files."""

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
    """What one replica needs: devices of one worker (or of several), and on each of them memory and cores.

    Neither ``memory_mib`` nor ``memory_percent``: the memory is estimated.
    """

    devices: int = 1
    workers: int = 1
    """It takes so many devices on each of so many workers."""
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


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica is expected to need on each of its devices, by parts; MiB and tokens."""

    device_kind: str
    """"cpu" or "accelerator"."""
    devices: int = 1
    weights_mib: int = 0
    kv_cache_mib: int = 0
    activations_mib: int = 0
    engine_mib: int = 0
    """The engine itself: on a CPU its process, on an accelerator its workspaces."""
    driver_mib: int = 0
    """What the driver of an accelerator takes for a process before that allocates anything."""
    safety_mib: int = 0
    per_device_mib: int = 0
    """All parts together."""
    total_mib: int = 0
    """On all devices together."""
    context_length: int = 0
    """The longest sequence that was counted on."""
    concurrency: int = 0
    """How many sequences at once."""
    kv_tokens: int = 0
    """Tokens that the cache of keys and values has room for."""
    batch_tokens: int = 0
    """Tokens in one step of the model."""
    observed_mib: int | None = None
    """The most that such a replica was seen to use on one device, once it had served."""
    needed_mib: int = 0
    """What a launch reserves on each device: from the observed peak where there is one."""
    notes: tuple[str, ...] = ()
    """What was assumed."""

    @property
    def error_percent(self) -> float | None:
        """How far the estimate is above (or, negative, below) the observed peak; None: nothing was observed."""
        if not self.observed_mib:
            return None
        return round(100 * (self.per_device_mib - self.observed_mib) / self.observed_mib, 1)


class EnvironmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which Python the replicas run on."""

    mode: Literal["auto", "none", "own"] = "auto"
    """"auto": the worker's if it has the engine, else one of the engine's environments; "none": the worker's;
    "own": an environment."""
    python: str = ""
    """An interpreter on the workers that is taken as it is; goes before everything else."""
    packages: tuple[str, ...] = ()
    """What the environment holds beyond the engine's requirements; with them it is never the worker's Python."""
    build: bool = False
    """An environment that is not there yet is built."""

    @property
    def is_own(self) -> bool:
        """Whether it is an environment even where the worker's Python has the engine."""
        return self.mode == "own" or bool(self.packages)


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter: small weights on top of those of a model. Clients ask for it as for a model of this name."""

    name: str
    path: str
    """A folder or a GGUF file, on the workers too."""
    rank: int = 0
    """The highest of its modules; 0: it could not be looked into."""
    base: str = ""
    """What it was made for, as its files say."""


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
    adapters: tuple[Adapter, ...] = ()
    """On every replica; they come and go while it runs."""
    sleep_level: int = 0
    """How deep its replicas sleep, in the engine's own levels; 0: they are awake."""
    paused: bool = False
    """The downloads that its replicas wait for rest."""
    fallback: str = ""
    """The model_uid that gateways ask where nothing serves this one, or its queues are full; empty: none."""
    environment: EnvironmentRequest = EnvironmentRequest()
    estimates: tuple[Estimate, ...] = ()
    """What a replica needs, where the request leaves that open: on CPUs and on accelerators."""
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
