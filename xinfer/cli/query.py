"""``xinfer engine query``: what can run a model on the workers of a server, and what stands against the rest."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from xinfer.cli.launch import ModelEngine, ModelFormat, ModelPath, ModelType, Quantization, WorkerIp, launch_body
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, out

Model = Annotated[str, typer.Argument(help="A model of the catalog, an id (OWNER/NAME), or a folder or GGUF file.")]
Size = Annotated[
    str | None, typer.Option("-s", "--size", help="Which size (7, 0_5, 0.6b, 30b-a3b), or all. Default: the usual one.")
]

EVERY = "all"
GIB = 1024
IN_THE_WAY = {
    "library": "not installed",
    "device": "no kernel",
    "environment": "environment",
    "weights": "no files",
    "adapters": "no adapters",
    "workers": "one worker",
    "model": "not for it",
    "format": "other format",
}
"""Short words for what stands against a combination."""


def query(
    model: Model,
    *,
    model_type: ModelType = None,
    model_engine: ModelEngine = None,
    size: Size = None,
    model_format: ModelFormat = None,
    quantization: Quantization = None,
    model_path: ModelPath = None,
    worker_ip: WorkerIp = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show which engines can run a model on the workers, the best first, with the memory that each needs.

    Then, for everything else, why not and what helps. The first row is what a launch takes that names nothing.

    [dim]Examples:[/]

    xinfer engine query qwen3

    xinfer engine query qwen3 --size 0.6b --format gguf

    xinfer engine query ./my-model
    """
    words = launch_body(
        model,
        model_path=model_path,
        size=None if size == EVERY else size,
        format=model_format,
        quantization=quantization,
        model_engine=model_engine,
        worker_ip=worker_ip,
    )
    name = words.pop("model_name")
    path = f"{model_type}/{name}" if model_type else name
    with connect(endpoint, api_key) as client:
        found = client.http.call("GET", f"/v1/engines/{path}", params={**words, "detailed": "true"})
    if as_json:
        out.print_json(data=found)
        return
    sizes = found["sizes"] if size else [found["default_size"]]
    show(found, [row for row in found["combinations"] if row["size"] in sizes])


def show(found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print some of the combinations, and which other sizes there are."""
    able = [row for row in rows if row["hindrance"] in ("", "memory")]
    if able:
        out.print(_able_table(found["model_name"], able))
    for warning in dict.fromkeys(row["warning"] for row in able if row["warning"]):
        out.print(Text(f"Warning: {warning}", style="yellow"))
    if len(able) < len(rows):
        out.print(_unable_table([row for row in rows if row not in able]))
    shown = {row["size"] for row in rows}
    others = [size for size in found["sizes"] if size not in shown]
    if others:
        out.print(f"Other sizes: {', '.join(others)} (--size SIZE, or --size all)", style="dim")
    if not any(row["runs"] for row in rows):
        out.print(Text("Nothing of this runs here now.", style="red"))


def _able_table(name: str, rows: list[dict[str, Any]]) -> Grid:
    table = Grid("engine", "size", "format", "quantization", title=f"{escape(name)}: the best first")
    table.add_column("weights", justify="right")
    table.add_column("needs MiB", justify="right")
    table.add_column("where")
    for row in rows:
        weights = f"{row['weights_mib'] / GIB:.1f} GiB" if row["weights_mib"] else ""
        where = escape(row["fits_on"]) if row["runs"] else f"[red]{escape(row['reason'])}[/]"
        steps = [] if row["weights_here"] else ["after a download"]
        steps += [f"after {row['command']}"] if row["installs_engine"] else []
        table.add_row(
            row["model_engine"],
            row["size"],
            row["model_format"],
            row["quantization"],
            weights,
            str(row["needed_mib"]),
            f"{where} [dim]({escape(', '.join(steps))})[/]" if row["runs"] and steps else where,
            style=None if row["runs"] else "dim",
        )
    return table


def _unable_table(rows: list[dict[str, Any]]) -> Grid:
    """One row for each engine and reason: the same holds of many quantizations. Of formats, one says enough."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        same = row["hindrance"] if row["hindrance"] == "format" else row["reason"]
        grouped.setdefault((row["model_engine"], same), []).append(row)
    table = Grid("engine", "formats", "", "why not", title="What does not run")
    for (engine, _), same in grouped.items():
        reason = same[0]["reason"]
        formats = dict.fromkeys(row["model_format"] for row in same)
        word = IN_THE_WAY.get(same[0]["hindrance"], same[0]["hindrance"])
        command = same[0]["command"]
        helps = f"\n[bold]{escape(command)}[/]" if command and command not in reason else ""
        table.add_row(engine, ", ".join(formats), word, escape(reason) + helps)
    return table


def add_to(engines: typer.Typer) -> None:
    """Register the command of this module among those of engines."""
    engines.command("query")(query)
