"""The ``xinfer`` command: one module per family of commands."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from xinfer import __version__
from xinfer.cli import (
    adapter,
    catalog,
    chat,
    cordon,
    devices,
    doctor,
    engine,
    estimate,
    launch,
    models,
    register,
    sleep,
    status,
)
from xinfer.cli.screen import complain
from xinfer.client import Unreachable
from xinfer.errors import XinferError


class Commands(TyperGroup):
    """Turns the errors of every command into one readable line and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except Unreachable as error:
            complain(
                error.message, "Start a server with xinfer-local, or say where one is with -e URL or XINFER_ENDPOINT."
            )
        except XinferError as error:
            complain(error.message)
        raise typer.Exit(1)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Servers are started with [bold]xinfer-local[/] (all on this machine), [bold]xinfer-supervisor[/] and "
    "[bold]xinfer-worker[/].",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xinfer {__version__}")
        raise typer.Exit


@app.callback()
def xinfer(
    *,
    version: Annotated[
        bool, typer.Option("-v", "--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Launch models on an xinfer server, look after them, and talk to them.

    [dim]The first minute:[/]

    xinfer-local --model demo-chat   [dim]# in one terminal: a server on http://127.0.0.1:9997[/]

    xinfer status                    [dim]# in another: what runs where[/]

    xinfer chat                      [dim]# talk to it[/]
    """


launch.add_to(app)
estimate.add_to(app)
models.add_to(app)
catalog.add_to(app)
register.add_to(app)
adapter.add_to(app)
sleep.add_to(app)
status.add_to(app)
devices.add_to(app)
doctor.add_to(app)
cordon.add_to(app)
engine.add_to(app)
chat.add_to(app)


def main() -> None:
    """Entry point of the ``xinfer`` script."""
    app()
