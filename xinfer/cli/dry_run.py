"""``xinfer launch --dry-run``: every device with the reason for or against it, and what would fit."""

from typing import Any

import typer
from rich.markup import escape
from rich.text import Text

from xinfer.cli.screen import Grid, out, remark
from xinfer.client import Client, DeviceVerdict, LaunchPlan
from xinfer.client.connection import read

OPTION_OF = {
    "count": "--gpu",
    "memory_mib": "--gpumem",
    "memory_percent": "--gpumem-percentage",
    "cores": "--gpucores",
}
"""By field of a slice request."""


def show_plan(client: Client, body: dict[str, Any], *, as_json: bool) -> None:
    """Print what would become of a launch.

    Raises:
        typer.Exit: with 1: it does not fit.
    """
    if as_json:
        answer = client.http.call("POST", "/v1/placements:explain", body=body)
        out.print_json(data=answer)
        fits = read(answer, LaunchPlan).fits
    else:
        plan = client.explain(**body)
        _print(plan)
        fits = plan.fits
    if not fits:
        raise typer.Exit(1)


def plan_table(plan: LaunchPlan) -> Grid:
    """A row for each device, those that would be taken first of all."""
    table = Grid("worker", "device", title="Devices (memory in MiB, cores in percent)")
    for column in ("needed", "free", "missing", "cores needed", "cores free"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    taken: dict[tuple[str, str], int] = {}
    for place in (member for replica in plan.placements for member in replica.members):
        for piece in place.slices:
            taken[place.worker_id, piece.device_id] = taken.get((place.worker_id, piece.device_id), 0) + 1
    for device in sorted(plan.explanation.devices, key=lambda one: (one.worker_id, one.device_id) not in taken):
        table.add_row(
            escape(device.worker),
            escape(_label(device)),
            str(device.needed_mib),
            str(device.free_mib),
            f"[red]{device.missing_mib}[/]" if device.missing_mib else "-",
            str(device.needed_cores or "-"),
            str(device.free_cores),
            _verdict(device, taken.get((device.worker_id, device.device_id), 0)),
        )
    return table


def advice(nearest: dict[str, int]) -> str:
    """The options to change, and to what: ``--gpumem 300 --gpucores 20``."""
    return " ".join(f"{OPTION_OF[field]} {value}" for field, value in nearest.items())


def _print(plan: LaunchPlan) -> None:
    remark(plan.picked, plan.warnings)
    found, fitting = plan.explanation, len(plan.placements)
    of_all = f"{fitting} of {plan.replicas} replica{'s' if plan.replicas > 1 else ''}"
    if plan.fits:
        out.print(Text(f"{plan.model_uid} ({plan.engine}) fits: {of_all}.", style="bold green"))
    else:
        out.print(Text(f"{plan.model_uid} ({plan.engine}) does not fit: {of_all} would.", style="bold red"))
    if plan.memory:
        out.print(Text(f"Memory of a replica is {plan.memory}."))
    if not found.devices:
        out.print(Text(plan.message))
        return
    out.print(plan_table(plan))
    if found.fragmented:
        out.print(f"{found.free_mib} MiB are free in all, but at most {found.largest_free_mib} MiB on one device.")
    if found.unknown_uuids:
        out.print(Text(f"No device has the UUID {' or '.join(found.unknown_uuids)}."))
    if found.nearest:
        out.print(f"It would fit with {advice(found.nearest)}")


def _label(device: DeviceVerdict) -> str:
    return f"{device.device_id} {device.name}" if device.name else device.device_id


def _verdict(device: DeviceVerdict, replicas: int) -> str:
    taken = f"[green]takes {replicas} replica{'s' if replicas > 1 else ''}[/]" if replicas else ""
    if device.reason is None:
        return taken or "has room"
    words = device.message.removeprefix(f"device {device.device_id} ")
    refused = f"[red]{device.reason}[/]: {escape(words)}"
    return f"{taken}, then {refused}" if taken else refused
