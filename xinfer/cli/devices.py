"""``xinfer devices``: every accelerator and CPU as its slices."""

import contextlib
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from xinfer.cli.device_cards import cards, condition, held, known, label
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, out
from xinfer.cli.status import STATE_STYLES
from xinfer.client import Client, DeviceStatus, SliceStatus

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Draw every device, and again when it changes.")]


def devices(
    *, watch: Watch = False, endpoint: Endpoint = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show each device of each worker: what is reserved on it and for whom, what is used, what holds it to that.

    Memory in MiB. Free is what can still be reserved; used is what the device itself reports, for everybody on it.

    xinfer devices

    xinfer devices --watch

    xinfer devices -e http://10.0.0.1:9997 --json
    """
    if watch and as_json:
        raise typer.BadParameter("--watch draws; for scripts ask for --json again and again", param_hint="--json")
    with connect(endpoint, api_key) as client:
        if watch:
            watch_devices(client)
            return
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


def watch_devices(client: Client) -> None:
    """Draw the devices until ctrl-C, anew whenever something changes; where there is no terminal, below one another."""
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=out, auto_refresh=False)) if out.is_terminal else None
        for found, trouble in client.follow_devices():
            picture = Group(cards(found), Text(trouble, style="red")) if trouble else cards(found)
            if live is not None:
                live.update(picture, refresh=True)
            else:
                out.print(picture)


def devices_table(found: Iterable[DeviceStatus]) -> Grid:
    """A row for each device, and under it one for each of its slices."""
    table = Grid("worker", "device", "state", title="Devices (memory in MiB)")
    for column in ("reserved", "limit", "free", "used", "cores %"):
        table.add_column(column, justify="right")
    table.add_column("held")
    shown = ""
    for device in found:
        table.add_section()
        table.add_row(
            escape(device.worker) if device.worker_id != shown else "",
            escape(label(device)),
            condition(device),
            str(device.reserved_mib),
            str(device.capacity_mib),
            str(device.free_mib),
            known(device.used_mib),
            f"{device.reserved_cores_percent}/{device.cap_cores}",
            held(device),
        )
        shown = device.worker_id
        for piece in device.slices:
            table.add_row("", *_slice_cells(device, piece))
    return table


def _slice_cells(device: DeviceStatus, piece: SliceStatus) -> tuple[str, ...]:
    style = STATE_STYLES.get(piece.state, "yellow")
    over = piece.over_limit_mib or (piece.used_mib or 0) > piece.memory_mib
    return (
        escape(f"  {piece.replica_id}"),
        f"[{style}]{piece.state}[/]",
        str(piece.memory_mib),
        str(piece.memory_mib) if device.enforced and device.enforced.memory != "none" else "-",
        "",
        f"[red]{piece.used_mib}[/]" if over else known(piece.used_mib),
        "exclusive" if piece.exclusive else str(piece.cores_percent or "-"),
        "",
    )


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("devices")(devices)
