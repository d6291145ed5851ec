"""``xinfer devices``: every accelerator and CPU as its slices."""

from collections.abc import Iterable

import typer
from rich.markup import escape
from rich.table import Table

from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import out
from xinfer.cli.status import STATE_STYLES
from xinfer.client import DeviceStatus, SliceStatus


def devices(*, endpoint: Endpoint = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show each device of each worker: what is reserved on it and for whom, what is used, what holds it to that.

    Memory in MiB. Free is what can still be reserved; used is what the device itself reports, for everybody on it.

    xinfer devices

    xinfer devices -e http://10.0.0.1:9997 --json
    """
    with connect(endpoint, api_key) as client:
        if as_json:
            out.print_json(data=client.http.call("GET", "/v1/cluster/devices"))
            return
        found = client.devices()
    if not found:
        out.print("No worker has joined, so there is no device.")
        return
    out.print(devices_table(found))
    for device in found:
        if not device.healthy:
            out.print(f"[red]{escape(label(device))} takes nothing new:[/] {escape(device.health_reason)}")


def devices_table(found: Iterable[DeviceStatus]) -> Table:
    """A row for each device, and under it one for each of its slices."""
    table = Table("worker", "device", "state", title="Devices (memory in MiB)")
    for column in ("reserved", "limit", "free", "used", "cores %"):
        table.add_column(column, justify="right")
    table.add_column("held")
    shown = ""
    for device in found:
        table.add_section()
        table.add_row(
            escape(device.worker) if device.worker_id != shown else "",
            escape(label(device)),
            _health(device),
            str(device.reserved_mib),
            str(device.capacity_mib),
            str(device.free_mib),
            _known(device.used_mib),
            f"{device.reserved_cores_percent}/{device.cap_cores}",
            held(device),
        )
        shown = device.worker_id
        for piece in device.slices:
            table.add_row("", *_slice_cells(device, piece))
    return table


def label(device: DeviceStatus) -> str:
    """A device as people name it: the index and name of an accelerator, the name of a CPU."""
    name = device.name or device.device_id
    return f"CPU {name}" if device.kind == "cpu" else f"{device.kind}:{device.index} {name}"


def held(device: DeviceStatus) -> str:
    """What holds replicas to their slices: ``memory soft, cores none (torch)``."""
    parts = []
    if device.enforced is not None:
        by = f" ({', '.join(device.enforced.by)})" if device.enforced.by else ""
        parts.append(f"memory {device.enforced.memory}, cores {device.enforced.cores}{by}")
    if device.enforced_by:
        parts.append(f"all together by {device.enforced_by}")
    return "; ".join(parts)


def _slice_cells(device: DeviceStatus, piece: SliceStatus) -> tuple[str, ...]:
    style = STATE_STYLES.get(piece.state, "yellow")
    over = piece.used_mib is not None and piece.used_mib > piece.memory_mib
    return (
        escape(f"  {piece.replica_id}"),
        f"[{style}]{piece.state}[/]",
        str(piece.memory_mib),
        str(piece.memory_mib) if device.enforced and device.enforced.memory != "none" else "-",
        "",
        f"[red]{piece.used_mib}[/]" if over else _known(piece.used_mib),
        "exclusive" if piece.exclusive else str(piece.cores_percent or "-"),
        "",
    )


def _health(device: DeviceStatus) -> str:
    if not device.alive:
        return "[red]worker lost[/]"
    return "[green]healthy[/]" if device.healthy else "[red]unhealthy[/]"


def _known(mib: int | None) -> str:
    return "?" if mib is None else str(mib)


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("devices")(devices)
