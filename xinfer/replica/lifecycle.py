"""The life of a replica, decided: events in, commands out, no I/O and no clock.

PENDING ─▶ DOWNLOADING/STARTING ─▶ READY ─▶ DRAINING ─▶ STOPPED
                    │                            ▲
                    └──▶ FAILED      lease over ─┘
"""

from dataclasses import dataclass

import msgspec

from xinfer.protocol import ReplicaView, Standing, StandingOrder
from xinfer.routes import Endpoint
from xinfer.spec import ReplicaState

DOWNLOAD_STAGE = "downloading"
"""An engine that reports this stage is DOWNLOADING, with any other one STARTING."""
NOTHING_ORDERED = StandingOrder()
ORPHAN_DRAIN_S = 5.0
"""Nobody wants an orphan's answers for long: gateways have not heard of it since its worker went away."""


@dataclass(frozen=True)
class Progressed:
    """The engine reported how far its load is; ``fraction`` 0..1."""

    stage: str
    fraction: float


@dataclass(frozen=True)
class Loaded:
    """The engine can serve."""


@dataclass(frozen=True)
class Serving:
    """Gateways can connect to ``endpoint``; None: it has joined a gang, whose leader answers."""

    endpoint: Endpoint | None


@dataclass(frozen=True)
class Served:
    """A first request was answered."""


@dataclass(frozen=True)
class Ordered:
    """The worker gave a standing order; it may be the one that is known."""

    order: StandingOrder


@dataclass(frozen=True)
class Stands:
    """The engine is so far with its order."""

    standing: Standing


@dataclass(frozen=True)
class Broke:
    """Loading or starting to serve failed; ``reason`` is what the user reads.

    ``refused``: the parameter of the launch that is wrong, if that is why.
    """

    reason: str
    refused: str = ""


@dataclass(frozen=True)
class Claimed:
    """The worker asked for the view: somebody owns this replica."""


@dataclass(frozen=True)
class DrainAsked:
    """Finish what has begun, at most ``timeout_s`` seconds, then end."""

    timeout_s: float


@dataclass(frozen=True)
class StopAsked:
    """End now."""


@dataclass(frozen=True)
class Drained:
    """Nothing is in flight any more, or the time for it is over."""


@dataclass(frozen=True)
class Tick:
    """Time passed; the lease may be over."""


Event = (
    Progressed
    | Loaded
    | Serving
    | Served
    | Ordered
    | Stands
    | Broke
    | Claimed
    | DrainAsked
    | StopAsked
    | Drained
    | Tick
)


@dataclass(frozen=True)
class Serve:
    """Start the data-plane server."""


@dataclass(frozen=True)
class Drain:
    """Refuse new calls and wait for the ones in flight, at most ``timeout_s`` seconds."""

    timeout_s: float


@dataclass(frozen=True)
class Exit:
    """End the process; a ``failure`` is left behind for the worker, with the parameter that was ``refused``."""

    failure: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Follow:
    """Do what the standing order says."""


Command = Serve | Drain | Exit | Follow


class Lifecycle:
    """``handle(event, now)`` moves the state on. ``now`` and the lease are seconds of the same steady clock."""

    def __init__(self, instance: str, lease_s: float, now: float, order: StandingOrder = NOTHING_ORDERED) -> None:
        self.view = ReplicaView(instance=instance, version=1, state=ReplicaState.PENDING, ordered=order)
        self._lease_s = lease_s
        self._claimed_at = now
        self._loaded = False
        self._late_order = False
        """One came while it was loading."""

    @property
    def lease_deadline(self) -> float:
        """When the replica ends itself unless it is claimed before."""
        return self._claimed_at + self._lease_s

    def handle(self, event: Event, now: float) -> tuple[Command, ...]:
        """Apply one event; what is to be done about it, in order. Nothing happens any more after STOPPED or FAILED."""
        if self.view.state.is_final:
            return ()
        match event:
            case Progressed() | Loaded() | Serving() | Broke():
                return self._loading(event)
            case Claimed() | Served() | Stands() | Ordered():
                return self._note(event, now)
            case Tick():
                return self._check_lease(now)
            case DrainAsked(timeout_s):
                return self._drain(timeout_s, "draining")
            case StopAsked() | Drained():
                self._become(state=ReplicaState.STOPPED, stage="stopped", endpoint=None)
                return (Exit(),)

    def _note(self, event: Claimed | Served | Stands | Ordered, now: float) -> tuple[Command, ...]:
        match event:
            case Ordered(order):
                return self._take_order(order)
            case Claimed():
                self._claimed_at = now
            case Served():
                self._become(served=True)
            case Stands(standing):
                self._become(standing=standing)
                if self.view.state is ReplicaState.READY:
                    self._become(stage=_stage(standing))
        return ()

    def _take_order(self, order: StandingOrder) -> tuple[Command, ...]:
        if order == self.view.ordered:
            return ()
        self._become(ordered=order)
        if self.view.state is ReplicaState.READY:
            return (Follow(),)
        self._late_order = True
        return ()

    def _loading(self, event: Progressed | Loaded | Serving | Broke) -> tuple[Command, ...]:
        if self.view.state in (ReplicaState.READY, ReplicaState.DRAINING):
            return ()
        match event:
            case Progressed(stage, fraction):
                if self._loaded:  # it came from a thread, late
                    return ()
                state = ReplicaState.DOWNLOADING if stage == DOWNLOAD_STAGE else ReplicaState.STARTING
                # Whole percents: an engine that reports every tensor must not wake its watcher for each.
                self._become(state=state, stage=stage, progress=round(min(max(fraction, 0.0), 1.0), 2))
                return ()
            case Loaded():
                self._loaded = True
                self._become(state=ReplicaState.STARTING, stage="opening", progress=1.0)
                return (Serve(),)
            case Serving(endpoint):
                stage = _stage(self.view.standing)
                self._become(state=ReplicaState.READY, stage=stage, progress=1.0, endpoint=endpoint)
                return (Follow(),) if self._late_order else ()
            case Broke(reason, refused):
                self._become(state=ReplicaState.FAILED, stage="failed", reason=reason)
                return (Exit(failure=reason, refused=refused),)

    def _check_lease(self, now: float) -> tuple[Command, ...]:
        if now < self.lease_deadline:
            return ()
        return self._drain(ORPHAN_DRAIN_S, f"no worker claimed this replica for {self._lease_s:g} s")

    def _drain(self, timeout_s: float, stage: str) -> tuple[Command, ...]:
        if self.view.state is ReplicaState.DRAINING:
            return ()
        if self.view.state is not ReplicaState.READY:
            self._become(state=ReplicaState.STOPPED, stage=stage)
            return (Exit(),)
        self._become(state=ReplicaState.DRAINING, stage=stage)
        return (Drain(timeout_s),)

    def _become(self, **changes: object) -> None:
        changed = msgspec.structs.replace(self.view, **changes)
        if changed != self.view:
            self.view = msgspec.structs.replace(changed, version=self.view.version + 1)


def _stage(standing: Standing) -> str:
    return f"asleep (level {standing.sleep_level})" if standing.sleep_level else "ready"
