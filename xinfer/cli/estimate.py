"""``xinfer estimate``: how much memory a model needs, by parts, and on which devices it fits."""

import operator
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from xinfer.cli.device_options import device_words, with_options_of
from xinfer.cli.dry_run import plan_table
from xinfer.cli.engine_options import META_KEY, EngineOptionsCommand
from xinfer.cli.launch import (
    ModelEngine,
    ModelFormat,
    ModelPath,
    ModelType,
    Quantization,
    Size,
    WorkerIp,
    launch_body,
)
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, out
from xinfer.client import EstimateParts, LaunchPlan, ModelEstimate

Model = Annotated[str, typer.Argument(help="A model of the catalog, or the path of a folder or GGUF file.")]

KINDS = {"cpu": "on a CPU", "accelerator": "on an accelerator"}
"""Columns of the table."""
PARTS = {
    "weights_mib": "weights",
    "kv_cache_mib": "KV cache",
    "activations_mib": "activations",
    "engine_mib": "engine",
    "driver_mib": "driver of the device",
    "safety_mib": "safety",
}
"""Rows of the table, by field of an estimate."""


@with_options_of(device_words, into="devices")
def estimate(
    ctx: typer.Context,
    model: Model,
    *,
    model_type: ModelType = None,
    model_engine: ModelEngine = None,
    size: Size = None,
    model_format: ModelFormat = None,
    quantization: Quantization = None,
    model_path: ModelPath = None,
    worker_ip: WorkerIp = None,
    devices: dict[str, Any],
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show how much memory a launch would need, from what, and on which devices it fits. Nothing is launched.

    The options are those of a launch; any other --option goes to the engine, and changes the estimate as it would
    change the model. Once such a replica has run, what it was seen to use goes before the estimate.

    [dim]Examples:[/]

    xinfer estimate demo-chat

    xinfer estimate ./my-model --max-model-len 8192 --max-num-seqs 16 --dtype bfloat16
    """
    body = launch_body(
        model,
        model_path=model_path,
        model_type=model_type,
        model_engine=model_engine,
        model_size_in_billions=int(size) if size and size.isdigit() else size,
        model_format=model_format,
        quantization=quantization,
        worker_ip=worker_ip,
        **devices,
    )
    body = {**ctx.meta[META_KEY], **body}
    with connect(endpoint, api_key) as client:
        if as_json:
            out.print_json(data=client.http.call("POST", "/v1/estimates", body=body))
            return
        show(client.estimate(**body))


def show(found: ModelEstimate) -> None:
    """Print an estimate and where it fits."""
    out.print(estimate_table(found))
    for note in dict.fromkeys(note for parts in found.estimates.values() for note in parts.notes):
        out.print(Text(f"- {note}"))
    out.print(Text(found.message, style="green" if found.fits else "red"))
    if found.explanation.devices:
        taken = LaunchPlan(model_uid="", placements=found.placements, explanation=found.explanation)
        out.print(plan_table(taken))


def estimate_table(found: ModelEstimate) -> Grid:
    """A row for each part that anything needs, and what it adds up to; the kind of device that it would get first."""
    columns = sorted(found.estimates.values(), key=lambda parts: parts.device_kind != found.device_kind)
    size = f", {found.size_in_billions:g} billion parameters" if found.size_in_billions else ""
    quantized = f", {found.quantization}" if found.quantization not in ("", "none") else ""
    what = f"{found.model_name} ({found.model_engine}, {found.model_format}{quantized}{size})"
    table = Grid("MiB of one replica", title=escape(what))
    for parts in columns:
        table.add_column(KINDS.get(parts.device_kind, parts.device_kind), justify="right")

    def add(name: str, cell: Callable[[EstimateParts], object]) -> None:
        table.add_row(name, *(str(cell(parts)) for parts in columns))

    for field, name in PARTS.items():
        value = operator.attrgetter(field)
        if any(map(value, columns)):
            add(name, value)
    table.add_section()
    add("estimate for each device", lambda parts: parts.per_device_mib)
    if any(parts.devices > 1 for parts in columns):
        add("estimate for all devices", lambda parts: parts.total_mib)
    if any(parts.observed_mib is not None for parts in columns):
        add("observed peak", _observed)
    add("[bold]what a launch reserves[/]", lambda parts: f"[bold]{parts.needed_mib}[/]")
    if any(parts.kv_tokens for parts in columns):
        table.add_section()
        add("longest sequence (tokens)", lambda parts: parts.context_length)
        add("sequences at once", lambda parts: parts.concurrency)
        add("tokens in the KV cache", lambda parts: parts.kv_tokens)
    return table


def _observed(parts: EstimateParts) -> str:
    if parts.observed_mib is None:
        return "-"
    error = parts.error_percent
    return str(parts.observed_mib) if error is None else f"{parts.observed_mib} (estimate {error:+g} %)"


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("estimate", cls=EngineOptionsCommand)(estimate)
