"""``xinfer adapter``: LoRA adapters on models that run."""

from typing import Annotated

import typer
from rich.markup import escape

from xinfer.cli.adapter_options import named_path
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, out

ModelUid = Annotated[str, typer.Argument(metavar="MODEL", help="Uid of the model that it belongs to.")]
NameAndPath = Annotated[
    str,
    typer.Argument(
        metavar="NAME=PATH", help="The name that clients will use, and the adapter's folder on the workers."
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")]

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@commands.command()
def add(model: ModelUid, adapter: NameAndPath, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Serve one more adapter on every replica of a model, without restarting any. It is a model of its own then.

    xinfer adapter add my-chat sql=/data/sql-lora
    """
    name, path = named_path(adapter, "NAME=PATH")
    with connect(endpoint, api_key) as client:
        client.add_adapter(model, name, path)
    out.print(f"{name} is ready, on every replica of {model}.", markup=False)


@commands.command()
def remove(model: ModelUid, name: Name, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Serve an adapter no more. What it has begun to answer is finished.

    xinfer adapter remove my-chat sql
    """
    with connect(endpoint, api_key) as client:
        client.remove_adapter(model, name)
    out.print(f"{name} is removed from {model}.", markup=False)


@commands.command("list")
def show(model: ModelUid, *, endpoint: Endpoint = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the adapters of a model, and where each is served.

    xinfer adapter list my-chat
    """
    with connect(endpoint, api_key) as client:
        if as_json:
            out.print_json(data=client.http.call("GET", client.adapters_path(model)))
            return
        adapters = client.adapters(model)
    if not adapters:
        out.print(f"{model} has no adapters. Add one: xinfer adapter add {model} NAME=PATH", markup=False)
        return
    table = Grid("adapter", "rank", "made for", "served by", "path")
    for adapter in adapters:
        failures = [f"{replica}: {reason}" for replica, reason in adapter.failures.items()]
        served = "\n".join([*adapter.replicas, *failures])
        table.add_row(*map(escape, (adapter.name, str(adapter.rank), adapter.base_model, served, adapter.path)))
    out.print(table)


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.add_typer(commands, name="adapter", help="Add LoRA adapters to models that run, and remove them.")
