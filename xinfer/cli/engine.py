"""``xinfer engine``: the Python environments of engines on this machine, which need no server, and ``query``."""

import asyncio
import contextlib
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from xinfer.cli import query
from xinfer.cli.screen import Grid, complain, err, out
from xinfer.errors import Conflict, EnvironmentFailed, InvalidRequest, NotFound, describe
from xinfer.settings import Settings

# The worker's modules are imported where they are used: they bring the drivers of accelerators in, and --help is quick.

NameOfEngine = Annotated[str, typer.Argument(metavar="ENGINE", help="The engine, as xinfer engine list names it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

LINE_EVERY_S = 15.0
"""How often a build says how far it is, where there is no bar."""

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@commands.command("list")
def show(*, as_json: Json = False) -> None:
    """Show which engines this machine has, and their environments: size, age, and whether anything runs in them."""
    from xinfer.worker.offers import engine_offers  # noqa: PLC0415

    here = _environments()
    offers = engine_offers(here)
    rows = [_environment_row(here, name) for name in here.store.names()]
    if as_json:
        out.print_json(data={"engines": msgspec.to_builtins(offers), "environments": rows})
        return
    table = Grid("engine", "version", "where", title="Engines")
    for name, offer in sorted(offers.items()):
        where = f"environment {offer.environment}" if offer.environment else "this Python" if offer.ok else offer.reason
        table.add_row(name, offer.version, escape(where), style=None if offer.ok else "dim")
    out.print(table)
    if rows:
        out.print(_environments_table(rows))


@commands.command()
def install(
    engine: NameOfEngine,
    *,
    package: Annotated[
        list[str] | None,
        typer.Option("--package", help="Another package, or another version of one: 'torch==2.13.0'. May be repeated."),
    ] = None,
    find_links: Annotated[
        list[Path] | None,
        typer.Option("--find-links", exists=True, file_okay=False, help="A folder with wheels. May be repeated."),
    ] = None,
    index: Annotated[bool, typer.Option("--index/--no-index", help="With --no-index: only those folders.")] = True,
    accelerator: Annotated[
        str | None, typer.Option(help="cuda or cpu: what to build for. Default: what this machine has.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Build it anew, with the newest versions that fit.")] = False,
) -> None:
    """Build an environment for an engine. Workers of this machine use it from then on, without a restart.

    [dim]Examples:[/]

    xinfer engine install vllm

    xinfer engine install vllm --find-links ./wheels --no-index   [dim]# without a network[/]

    Packages come from where pip gets them (pip's configuration), or from where UV_INDEX, UV_FIND_LINKS, ... say.
    Ctrl-C leaves nothing half-built, and what was downloaded is kept for the next time. One that is there is checked,
    and built again if it does not work any more.
    """
    from xinfer.worker.environments.sources import sources  # noqa: PLC0415

    if accelerator not in (None, "cpu", "cuda"):
        raise InvalidRequest(f"--accelerator is cuda or cpu, not {accelerator!r}")
    here = _environments(accelerator)
    plan = here.plan(engine, package or ())
    again = again or _is_broken(here, plan.name)
    started = time.monotonic()
    folders = [folder.absolute() for folder in find_links or ()]
    try:
        with _ends_as_by_ctrl_c(), _BuildBar(engine) if err.is_terminal else _build_lines(engine) as show_progress:
            record = asyncio.run(here.build(plan, sources(folders, index=index), show_progress, again=again))
    except KeyboardInterrupt:
        err.print("\nInterrupted. Nothing half-built is used; the same command goes on with what was downloaded.")
        raise typer.Exit(130) from None
    out.print(
        f"{engine} {record.version} is ready in {escape(record.name)}: {len(record.packages)} packages, "
        f"{record.size_mib} MiB, {time.monotonic() - started:.0f} s"
    )


@commands.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="ENGINE|ENVIRONMENT", help="An engine: all its environments.")],
) -> None:
    """Remove environments, unless replicas run in them."""
    here = _environments()
    kept: list[str] = []
    for one in _chosen(here.store, name):
        try:
            here.remove(one)
        except (Conflict, OSError) as error:
            kept.append(describe(error))
        else:
            out.print(f"Removed {escape(one)}.")
    if kept:
        raise Conflict("\n".join(kept))


@commands.command()
def check(
    name: Annotated[
        str | None, typer.Argument(metavar="[ENGINE|ENVIRONMENT]", help="Only these. Default: all of them.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Import each environment's engine in it, as a replica would, and look for missing files.

    Exit status 1: one of them does not work.
    """
    here = _environments()
    found = [record for one in _chosen(here.store, name) if (record := here.store.built(one)) is not None]
    if name is not None and not found:
        raise NotFound(f"no environment of {name!r} is finished; xinfer engine install builds one")
    try:
        reasons = {record.name: _what_is_broken(here, record) for record in found}
    except OSError as error:
        raise EnvironmentFailed(f"the environments here cannot be checked: {error}") from None
    if as_json:
        out.print_json(data=[{"name": one, "ok": not reason, "reason": reason} for one, reason in reasons.items()])
    elif not found:
        out.print("There are no environments here. xinfer engine install builds one.")
    else:
        for record in found:
            out.print(f"[red]broken[/] {record.name}" if reasons[record.name] else f"[green]works[/]  {record.name}")
        for record in found:
            if reason := reasons[record.name]:
                complain(f"{record.name}: {reason}", f"Build it again: {_command_for(here, record)}")
    if any(reasons.values()):
        raise typer.Exit(1)


def _environments(accelerator: str | None = None) -> Any:
    from xinfer.worker.devices import DeviceWatch  # noqa: PLC0415
    from xinfer.worker.environments.here import Environments, machine  # noqa: PLC0415

    try:
        settings = Settings.from_env()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    devices = () if accelerator else DeviceWatch().look().devices
    found = machine(devices)
    if accelerator:
        found = msgspec.structs.replace(found, accelerator=accelerator)
    return Environments(settings.home, found)


def _what_is_broken(here: Any, record: Any) -> str:
    """Why an environment does not work; empty: it does."""
    try:
        asyncio.run(here.check(record))
    except EnvironmentFailed as error:
        return error.message
    return ""


def _is_broken(here: Any, name: str) -> bool:
    """Whether an environment is there and does not work; says why, for it is built again."""
    record = here.store.find(name)
    try:
        reason = record and _what_is_broken(here, record)
    except OSError:
        return False  # it cannot be looked at, and so cannot be built: the build says so
    if reason:
        err.print(f"{name} is there, but broken, and is built again: {reason}", markup=False, soft_wrap=True)
    return bool(reason)


def _command_for(here: Any, record: Any) -> str:
    """The command that builds this very environment again."""
    words = ["xinfer", "engine", "install", record.engine, "--again"]
    words += [word for package in record.extra for word in ("--package", package)]
    if record.machine.accelerator != here.machine.accelerator:
        words += ["--accelerator", record.machine.accelerator]
    return shlex.join(words)


def _chosen(store: Any, name: str | None) -> list[str]:
    names: list[str] = store.names()
    chosen = [one for one in names if name in (None, one, one.rpartition("-")[0])]
    if name is not None and not chosen:
        raise NotFound(f"there is no environment of {name!r} here; xinfer engine list shows what there is")
    return chosen


def _environment_row(here: Any, name: str) -> dict[str, Any]:
    record = here.store.find(name)
    if record is None:
        unfinished = "unfinished" if here.store.built(name) is None else "broken"
        return {"name": name, "state": "being built" if here.store.is_used(name) else unfinished}
    row: dict[str, Any] = msgspec.to_builtins(record)
    users = here.users(name)
    idle = "ready" if here.is_current(record) or record.machine != here.machine else "outdated"
    return row | {"state": "in use" if users or here.store.is_used(name) else idle, "used_by": users}


def _environments_table(rows: list[dict[str, Any]]) -> Grid:
    table = Grid(title="Environments")
    for column in ("environment", "version", "state", "MiB", "built"):
        table.add_column(column)
    lists = [column for column in ("used_by", "extra") if any(row.get(column) for row in rows)]
    for column in lists:
        table.add_column(column.replace("_", " "))
    for row in rows:
        built = time.strftime("%Y-%m-%d", time.localtime(row["built_at"])) if "built_at" in row else ""
        cells = (row["name"], row.get("version", ""), row["state"], str(row.get("size_mib", "")), built)
        table.add_row(*cells, *(escape(", ".join(row.get(column, ()))) for column in lists))
    return table


@contextlib.contextmanager
def _ends_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, and the end of the terminal, mean the same: else the installer would go on without anybody waiting."""
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


class _BuildBar(Progress):
    """The progress of one build; the block gets the function to show it with."""

    def __init__(self, engine: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        super().__init__(*columns, console=err)
        self._task = self.add_task(engine, total=1.0, detail="")

    def __enter__(self) -> Callable[[str, float], None]:  # type: ignore[override]
        super().__enter__()
        return self._show

    def _show(self, stage: str, fraction: float) -> None:
        self.update(self._task, completed=fraction, detail=stage)


@contextlib.contextmanager
def _build_lines(engine: str) -> Iterator[Callable[[str, float], None]]:
    """The same where nobody would see a bar move, as in the log of a CI job: a line at once, and now and then."""
    now = ("starting", 0.0)
    ended = threading.Event()
    started = time.monotonic()

    def show(stage: str, fraction: float) -> None:
        nonlocal now
        now = (stage, fraction)

    def tell() -> None:
        pause = 0.0
        while not ended.wait(pause):
            stage, fraction = now
            err.print(f"{engine} {fraction:4.0%} {time.monotonic() - started:4.0f} s  {stage}", markup=False)
            pause = LINE_EVERY_S

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield show
    finally:
        ended.set()
        teller.join()


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    query.add_to(commands)
    app.add_typer(commands, name="engine", help="Engines: what can run a model, and their Python environments here.")
