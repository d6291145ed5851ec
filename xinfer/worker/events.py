"""What the worker's core is told, and what it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xinfer.devices import Lease
from xinfer.protocol import Assignment, Assignments, ReplicaView, StandingOrder


@dataclass(frozen=True)
class Assigned:
    """The supervisor said what to run."""

    assignments: Assignments


@dataclass(frozen=True)
class Joined:
    """The supervisor answered our hello; without assignments it has yet to decide.

    From now on its epoch counts, even where it is lower than the one before: its store is another one.
    """

    assignments: Assignments | None = None


@dataclass(frozen=True)
class Adopted:
    """A process of an earlier worker still runs; ``view`` is what it said of itself, None if it did not answer yet."""

    instance: str
    assignment: Assignment
    pid: int
    address: str = ""
    view: ReplicaView | None = None


@dataclass(frozen=True)
class Started:
    """The process that ``Spawn`` asked for runs. ``rendezvous``: where the members of its gang meet."""

    instance: str
    pid: int
    rendezvous: str = ""


@dataclass(frozen=True)
class Prepared:
    """What ``Spawn`` had to wait for (an environment that was built) is there: it can be asked for again.

    Of a follower whose leader nobody knows yet, that is all that a ``Spawn`` does.
    """

    instance: str


@dataclass(frozen=True)
class Seen:
    """A replica answered, on its pool at ``address``."""

    address: str
    view: ReplicaView


@dataclass(frozen=True)
class Hung:
    """A process lives but has not answered for ``silent_s`` seconds."""

    instance: str
    silent_s: float


@dataclass(frozen=True)
class Ended:
    """A process is gone, or could not be started; ``reason`` is for people and ends with the last lines of its log.

    ``load_error``: its engine said why it cannot load, so another attempt would end the same way. ``refused``: the
    parameter of the launch that is wrong, if that is why.
    """

    instance: str
    reason: str
    load_error: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Leave:
    """The worker shuts down: end every replica within ``drain_s`` seconds, take nothing new."""

    drain_s: float


@dataclass(frozen=True)
class Looked:
    """The devices were looked at. What is said of replicas is said by their replica_id, for people."""

    held_hard: frozenset[str] = frozenset()
    """Devices on which no replica can take memory that is not its own."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with a replica that may go on."""
    offences: Mapping[str, str] = field(default_factory=dict)
    """Why a replica has to end."""


@dataclass(frozen=True)
class Tick:
    """Time passed; see ``WorkerCore.next_tick``."""


Event = Assigned | Joined | Adopted | Started | Prepared | Seen | Hung | Ended | Leave | Looked | Tick


@dataclass(frozen=True)
class Spawn:
    """Start a process for an assignment on what was booked for it."""

    instance: str
    assignment: Assignment
    lease: Lease


@dataclass(frozen=True)
class End:
    """Let a process finish what is in flight, at most ``drain_s`` seconds, then make sure that it is gone."""

    instance: str
    drain_s: float


@dataclass(frozen=True)
class Kill:
    """End a process that does not listen any more, or must not go on."""

    instance: str
    why: str = "it does not answer"


@dataclass(frozen=True)
class Instruct:
    """Give a process that runs another standing order."""

    instance: str
    order: StandingOrder


@dataclass(frozen=True)
class Report:
    """Something that the supervisor should know has changed."""


Command = Spawn | End | Kill | Instruct | Report
