"""``xinfer models pull | cached | remove``: the weights on this machine. Needs no server."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from xinfer.catalog import builtin
from xinfer.catalog.selection import select
from xinfer.catalog.sources import REPOSITORY, Hub, hub_source
from xinfer.cli.screen import err, out
from xinfer.errors import InvalidRequest, NotFound
from xinfer.settings import Settings
from xinfer.spec import Format

# The worker's modules are imported where they are used, so that --help is quick.

MIB = 1024 * 1024


def pull(
    name: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name of the catalog, or an id: OWNER/NAME, hf:..., ms:...#PATTERN."),
    ],
    *,
    size: Annotated[str | None, typer.Option(help="Billions of parameters, as in the name: 0.6, 30b-a3b.")] = None,
    weights_format: Annotated[
        str | None, typer.Option("--format", help="pytorch, ggufv2, gptq, awq, fp8, mlx.")
    ] = None,
    quantization: Annotated[str | None, typer.Option(help="As xinfer models catalog MODEL lists them.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare what is here with its hashes, too.")] = False,
) -> None:
    """Download weights, so that launches on this machine need not. What is here already is not downloaded again.

    [dim]Examples:[/]

    xinfer models pull qwen3 --size 0.6 --format ggufv2 --quantization Q8_0

    xinfer models pull BAAI/bge-m3

    The hub is chosen by XINFER_MODEL_SRC; mirrors by XINFER_HF_ENDPOINT and XINFER_MS_ENDPOINT; tokens are HF_TOKEN and
    MODELSCOPE_API_TOKEN. After ctrl-C the same command goes on where it was.
    """
    from xinfer.worker.weights.fetch import fetch  # noqa: PLC0415

    settings, store = _here()
    wanted = _wanted(name, size, weights_format, quantization)
    try:
        with _bars() as show:
            record = asyncio.run(fetch(store, settings, wanted, show, verify=verify))
    except KeyboardInterrupt:
        err.print("\nInterrupted. What was downloaded is kept; the same command goes on from there.")
        raise typer.Exit(130) from None
    out.print(f"{escape(record.source)}: {len(record.files)} files, {record.size / MIB:.0f} MiB")
    out.print(escape(str(record.path)), soft_wrap=True)


def cached(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False) -> None:
    """Show the weights on this machine that were downloaded: where from, how large, who uses them."""
    _, store = _here()
    rows = [
        {
            "name": record.name,
            "source": record.source,
            "format": record.format.value,
            "size": record.size,
            "complete": record.is_whole,
            "used_by": store.users(record),
            "downloaded_at": record.downloaded_at,
            "path": str(record.path),
        }
        for record in store.records()
    ]
    if as_json:
        out.print_json(data=rows)
        return
    table = Table("source", "format", "MiB", "downloaded", "used by")
    for row in rows:
        day = time.strftime("%Y-%m-%d", time.localtime(row["downloaded_at"]))
        users = ", ".join(row["used_by"]) if row["complete"] else "damaged: the next launch repairs it"
        table.add_row(escape(row["source"]), row["format"], f"{row['size'] / MIB:.0f}", day, escape(users))
    out.print(table)


def remove(
    name: Annotated[str, typer.Argument(metavar="SOURCE", help="As xinfer models cached shows it, or OWNER/NAME.")],
) -> None:
    """Remove weights from this machine, unless replicas use them."""
    _, store = _here()
    chosen = [one for one in store.records() if name in (one.name, one.source) or _is_of(one.source, name)]
    if not chosen:
        raise NotFound(f"there are no weights of {name!r} here; xinfer models cached shows what there is")
    for one in chosen:
        freed = store.remove(one.name)
        out.print(f"Removed {escape(one.source)}: {freed / MIB:.0f} MiB free.")


def _here() -> tuple[Settings, Any]:
    from xinfer.worker.weights.store import WeightStore  # noqa: PLC0415

    try:
        settings = Settings.from_env()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return settings, WeightStore(settings)


def _wanted(name: str, size: str | None, weights_format: str | None, quantization: str | None) -> Any:
    """The sets of weights that are meant, as ``fetch`` takes them.

    Raises:
        InvalidRequest: there are none; says what would be right.
    """
    from xinfer.worker.weights.store import WeightSet, wanted_sets  # noqa: PLC0415

    specs = builtin().find(name)
    if specs:
        spec = select(specs, size=size, weights_format=weights_format, quantization=quantization)[0]
        if found := wanted_sets(spec):
            return found
        raise InvalidRequest(f"{name!r} is part of xinfer: there is nothing to download")
    source = hub_source(name) or (hub_source(f"hf:{name}") if REPOSITORY.fullmatch(name.partition("#")[0]) else None)
    if source is None:
        raise InvalidRequest(f"no model {name!r} in the catalog (xinfer models catalog), and it is no id: OWNER/NAME")
    kind = Format.GGUF if weights_format in ("gguf", "ggufv2") or ".gguf" in source.files else Format.SAFETENSORS
    hubs = (source.hub,) if hub_source(name) else tuple(Hub)
    return tuple(WeightSet(type(source)(hub, source.repository, source.revision, source.files), kind) for hub in hubs)


def _is_of(source: str, repository: str) -> bool:
    found = hub_source(source)
    return found is not None and found.repository == repository


@contextlib.contextmanager
def _bars() -> Iterator[Any]:
    """A bar for each file; the block gets the function to show them with."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), DownloadColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TransferSpeedColumn(), console=err) as bars:

        def show(now: Any) -> None:
            for file in now.files:
                if file.name not in tasks:
                    tasks[file.name] = bars.add_task(file.name, total=file.total)
                bars.update(tasks[file.name], completed=file.done)

        yield show


def add_to(commands: typer.Typer) -> None:
    """Register the commands of this module beside those of the catalog."""
    for command in (pull, cached, remove):
        commands.command()(command)
