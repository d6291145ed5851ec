"""``xinfer doctor``: what this machine offers, what holds there, what is wrong, and whether every engine works."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from xinfer import __version__, plugins
from xinfer.cli.options import ApiKey, Endpoint, connect
from xinfer.cli.screen import err, out
from xinfer.errors import InvalidRequest, XinferError
from xinfer.settings import Settings
from xinfer.worker.diagnosis.findings import GROUPS, Diagnosis, Finding, summed_up

# The rest of the worker's modules is imported where it is used: drivers come with it, and --help is quick.

Engines = Annotated[
    bool,
    typer.Option(
        "--engines/--quick",
        help="Load the demo models in every engine here and ask them what they know; --quick leaves that out.",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="ENGINE", help="Try this engine and no other; may be repeated.")
]
OnCpu = Annotated[bool, typer.Option("--cpu", help="Try the engines on the CPU, also where there are accelerators.")]
Json = Annotated[bool, typer.Option("--json", help="Print the findings as JSON, for scripts.")]

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}
INTERRUPTED = 130
MARGIN, INDENT, ARROW, LEAST_WIDTH = 9, 2, "→ ", 30


def doctor(
    *,
    engines: Engines = True,
    only: Only = None,
    on_cpu: OnCpu = False,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Look at this machine: devices, what holds replicas to their slices, known traps, engines, the server.

    Needs no server. The engines are tried on a server of its own, in a temporary folder, which is gone at the end.
    Exit status 1: there is a problem.

    xinfer doctor

    xinfer doctor --quick --json

    xinfer doctor --only vllm
    """
    try:
        settings = Settings.from_env()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    unknown = sorted(set(only or ()) - set(plugins.engines()))
    if unknown:
        raise InvalidRequest(f"there is no engine {unknown[0]!r}; there are: {', '.join(sorted(plugins.engines()))}")
    findings = [*_machine(settings), *_server(settings, endpoint, api_key)]
    if not as_json:
        _show(findings)
    if engines:
        try:
            tried = _engines(settings, only or (), on_cpu=on_cpu)
        except KeyboardInterrupt:
            err.print("\nInterrupted. Nothing that it started is left.")
            raise typer.Exit(INTERRUPTED) from None
        if not as_json:
            _show(tried)
        findings += tried
    diagnosis = summed_up(__version__, findings)
    if as_json:
        out.print_json(msgspec.json.encode(diagnosis).decode())
    else:
        out.print(_summary(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _machine(settings: Settings) -> list[Finding]:
    from xinfer.worker.diagnosis.diagnose import diagnose  # noqa: PLC0415
    from xinfer.worker.diagnosis.read import read_machine  # noqa: PLC0415

    return list(diagnose(read_machine(settings)))


def _server(settings: Settings, endpoint: str | None, api_key: str | None) -> list[Finding]:
    from xinfer.cli.doctor_server import look_at  # noqa: PLC0415
    from xinfer.worker.diagnosis.server import server_findings  # noqa: PLC0415

    with connect(endpoint, api_key) as client:
        return list(server_findings(look_at(client, settings), __version__))


def _engines(settings: Settings, only: Sequence[str], *, on_cpu: bool) -> list[Finding]:
    from xinfer.cli.doctor_trials import engine_trials  # noqa: PLC0415
    from xinfer.worker.diagnosis.golden import trial_findings  # noqa: PLC0415

    try:
        with _TrialBar() as show:
            trials = list(engine_trials(settings, show, only=only, on_cpu=on_cpu))
    except (XinferError, OSError) as error:
        first, *more = str(error).splitlines()
        advice = "Mend that, or leave the engines out with --quick."
        return [Finding(group="demo", code="start", level="problem", what=first, why=tuple(more), advice=advice)]
    return list(trial_findings(trials))


class _TrialBar(Progress):
    """How far the trials are; the block gets the function to show it with."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
        )
        super().__init__(*columns, console=err, transient=True)
        self._task = self.add_task("engines", total=1.0, stage="")

    def __enter__(self) -> Callable[[str, str, float], None]:  # type: ignore[override]
        super().__enter__()
        return self._show

    def _show(self, title: str, stage: str, fraction: float) -> None:
        self.update(self._task, description=title, completed=fraction, stage=stage)


def _show(findings: Iterable[Finding]) -> None:
    found = list(findings)
    for group, title in GROUPS.items():
        of_group = [finding for finding in found if finding.group == group]
        if of_group:
            out.print(Text(f"\n{title}", style="bold"))
        for finding in of_group:
            out.print(_lines(finding), soft_wrap=True)


def _lines(finding: Finding) -> Text:
    """Wrapped here: tables would fill every line with blanks, and these are copied into reports."""
    style = STYLES[finding.level]
    shown = Text(f"{finding.level:<{MARGIN}}", style=style)
    shown.append(_wrapped(finding.what, MARGIN).lstrip(), style="default not bold")
    for line in finding.why:
        shown.append("\n" + _wrapped(line, MARGIN + INDENT), style="default not bold dim")
    if finding.advice:
        shown.append("\n" + " " * MARGIN + ARROW, style=style)
        shown.append(_wrapped(finding.advice, MARGIN + len(ARROW)).lstrip(), style="default not bold")
    return shown


def _wrapped(text: str, indent: int) -> str:
    margin = " " * indent
    width = max(out.width, indent + LEAST_WIDTH)
    return textwrap.fill(
        text, width, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )


def _summary(diagnosis: Diagnosis) -> Text:
    problems, warnings = diagnosis.counts["problem"], diagnosis.counts["warning"]
    said = [f"{count} {word}{'s' * (count != 1)}" for count, word in ((problems, "problem"), (warnings, "warning"))]
    style = STYLES["problem" if problems else "warning" if warnings else "ok"]
    return Text(f"\nxinfer {diagnosis.version}: {', '.join(said)}", style=style)


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("doctor")(doctor)
