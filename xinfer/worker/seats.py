"""What a member of a gang is started with here: where the members meet, and the variables that its engine wants."""

import msgspec

from xinfer import plugins
from xinfer.devices import Seat
from xinfer.engines.base import SpansWorkers
from xinfer.processes import lasting_port
from xinfer.protocol import Assignment


def taken_seat(seat: Seat | None, host: str) -> Seat | None:
    """The seat as the process gets it: a leader is told where to wait for the others.

    Raises:
        OSError: nothing can be bound on this host.
    """
    if seat is None or not seat.leads:
        return seat
    return msgspec.structs.replace(seat, rendezvous=f"{host}:{lasting_port(host)}")


def gang_environment(assignment: Assignment, host: str) -> dict[str, str]:
    """The variables that the engine wants set for a member; ``host`` is where the others reach it."""
    engine = plugins.engines().get(assignment.deployment.engine)
    if assignment.seat is None or engine is None or not issubclass(engine, SpansWorkers):
        return {}
    return dict(engine.gang_environment(host))
