"""``xinfer cordon``, ``uncordon`` and ``drain``: take a worker or a device out of service, and back."""

import time
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from xinfer.cli.options import ApiKey, Endpoint, connect
from xinfer.cli.screen import complain, err, out
from xinfer.client import Client, CordonStatus, ReplicaProgress

Target = Annotated[
    str,
    typer.Argument(
        metavar="WORKER[/DEVICE]",
        help="A worker by its name, id, address or host; one of its devices by id, number or UUID.",
        show_default=False,
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; the replicas are moved all the same.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0.0, help="Give up waiting after so many seconds, with exit status 1.")
]


def cordon(target: Target, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Let a worker or a device take nothing new; what runs there stays. It holds over every restart.

    A drain that is under way ends: what has not been moved yet stays.

    xinfer cordon node-7

    xinfer cordon node-7/0
    """
    with connect(endpoint, api_key) as client:
        said = client.cordon(*parts(target))
    out.print(f"{label(said)} takes nothing new. {_running(said)}", markup=False)


def uncordon(target: Target, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Let a worker or a device take replicas again. What was moved away does not come back by itself.

    xinfer uncordon node-7
    """
    with connect(endpoint, api_key) as client:
        said = client.uncordon(*parts(target))
    if said.cordoned:
        out.print(f"{label(said)} is still cordoned with its worker {said.worker}.", markup=False)
    else:
        out.print(f"{label(said)} takes replicas again.", markup=False)


def drain(
    target: Target,
    *,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Cordon a worker or a device and move its replicas away, one after the other.

    A replica goes once another one serves in its stead; one that fits nowhere else stays, and is shown with the reason.

    xinfer drain node-7

    xinfer drain node-7/GPU-8f6b --timeout 600
    """
    with connect(endpoint, api_key) as client:
        said = client.drain(*parts(target))
        if no_wait:
            out.print(f"{label(said)} is being drained. {_running(said)}", markup=False)
            return
        try:
            left = _follow(client, said, timeout)
        except KeyboardInterrupt:
            out.print(f"The drain of {label(said)} goes on. Stop it: xinfer uncordon {target}", markup=False)
            raise typer.Exit(130) from None
    if left:
        complain(f"{label(said)} still runs {', '.join(one.replica_id for one in left)}.", _reasons(left))
        raise typer.Exit(1)
    out.print(f"{label(said)} is empty.", markup=False)


def parts(target: str) -> tuple[str, str | None]:
    """The worker and the device of ``WORKER[/DEVICE]``. Names of workers have no slash, those of devices may have."""
    worker, _, device = target.partition("/")
    return worker, device or None


def label(said: CordonStatus) -> str:
    """What a word was about: ``worker node-7`` or ``device GPU-8f6b of worker node-7``."""
    worker = f"worker {said.worker or said.worker_id}"
    return f"device {said.device} of {worker}" if said.device else worker


def _follow(client: Client, said: CordonStatus, timeout_s: float | None) -> tuple[ReplicaProgress, ...]:
    """Show the drain until nothing is left, or the time is over; what is left then."""
    ends = None if timeout_s is None else time.monotonic() + timeout_s
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        # As much of it as there is room for, so that the bar stays what it is.
        TextColumn("{task.fields[detail]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=err,
        expand=True,
    )
    left: tuple[ReplicaProgress, ...] = ()
    with progress:
        bar = progress.add_task("draining", total=len(said.replicas), detail="")
        for left in client.follow_drain(said):
            total = max(len(said.replicas), len(left))
            progress.update(bar, total=total, completed=total - len(left), detail=_detail(left))
            if ends is not None and time.monotonic() >= ends:
                break
    return left


def _detail(left: tuple[ReplicaProgress, ...]) -> str:
    """The replica that is being moved, or whatever is left."""
    one = next((replica for replica in left if replica.state == "DRAINING"), left[0] if left else None)
    return f"{one.replica_id} {one.state}: {one.reason}".rstrip(": ") if one else ""


def _reasons(left: tuple[ReplicaProgress, ...]) -> str:
    return "\n".join(f"{one.replica_id}: {one.reason or one.state}" for one in left)


def _running(said: CordonStatus) -> str:
    count = len(said.replicas)
    return f"{count} replica{' runs' if count == 1 else 's run'} there." if count else "Nothing runs there."


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("cordon")(cordon)
    app.command("uncordon")(uncordon)
    app.command("drain")(drain)
