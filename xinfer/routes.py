"""RouteTable: the versioned snapshot that gateways route from. The supervisor publishes it, gateways only read."""

from enum import StrEnum

import msgspec

from xinfer.ops import Op


class Availability(StrEnum):
    """How a model stands, seen from a client."""

    LOADING = "loading"
    """Launched, never served yet."""
    READY = "ready"
    RECOVERING = "recovering"
    """Served before; its replicas are being brought back."""
    ASLEEP = "asleep"
    """Its replicas gave their memory back until somebody wakes it."""
    FAILED = "failed"


class Endpoint(msgspec.Struct, frozen=True):
    """One READY replica. ``instance`` names the process: the same replica on a new process has a new one."""

    replica_id: str
    instance: str
    address: str
    """``tcp://host:port``, reachable from every gateway."""
    local_path: str = ""
    """A unix socket of the same replica, used where it exists and ``host_id`` matches."""
    host_id: str = ""


class ModelRoute(msgspec.Struct, frozen=True):
    """What a gateway needs to answer for one model_uid."""

    model_uid: str
    ops: tuple[Op, ...]
    availability: Availability
    endpoints: tuple[Endpoint, ...]
    created_at: int = 0
    """Epoch seconds."""
    message: str = ""
    """Why it is not ready, for people."""
    fallback: str = ""
    """The model that is asked where nothing serves this one, or its queues are full; empty: none."""
    parent: str = ""
    """Of an adapter: the model_uid that it belongs to."""
    card: dict[str, object] = {}
    """What ``GET /v1/models/{uid}`` shows beside id and object."""


class RouteTable(msgspec.Struct, frozen=True):
    """A whole snapshot. ``epoch`` is the supervisor's start number; within one epoch ``version`` only grows."""

    epoch: int = 0
    version: int = 0
    models: dict[str, ModelRoute] = {}

    def newer_than(self, other: "RouteTable") -> bool:
        """Whether this snapshot replaces ``other``."""
        return (self.epoch, self.version) > (other.epoch, other.version)
