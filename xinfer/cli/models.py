"""``xinfer list`` and ``xinfer terminate``."""

from typing import Annotated

import typer

from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, complain, out


def list_models(*, endpoint: Endpoint = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the models that clients can ask for.

    xinfer list

    xinfer list --json   [dim]# the answer of GET /v1/models, for scripts[/]
    """
    with connect(endpoint, api_key) as client:
        if as_json:
            out.print_json(data=client.http.call("GET", "/v1/models"))
            return
        running = client.models()
    if not running:
        out.print("No model is deployed. Launch one: xinfer launch demo-chat")
        return
    table = Grid("model uid", "type", "engine", "state", "ready", "context", "abilities")
    for model in sorted(running, key=lambda model: model.id):
        table.add_row(
            model.id,
            f"adapter of {model.parent}" if model.parent else model.model_type,
            model.model_engine,
            model.status,
            f"{model.ready_replicas}/{model.replica}",
            str(model.context_length or ""),
            ", ".join(model.model_ability),
        )
    out.print(table)


def terminate(
    models: Annotated[list[str] | None, typer.Argument(help="Uids of the models.", metavar="MODEL")] = None,
    *,
    model_uid: Annotated[str | None, typer.Option("-u", "--model-uid", help="The same, as an option.")] = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Stop models. What they have begun to answer is finished first.

    xinfer terminate demo-chat
    """
    uids = [*(models or ()), *([model_uid] if model_uid else ())]
    if not uids:
        complain("which model? Give its uid: xinfer terminate UID", "xinfer list shows them.")
        raise typer.Exit(2)
    with connect(endpoint, api_key) as client:
        for uid in uids:
            client.terminate(uid)
            out.print(f"{uid} is terminated.")


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("list")(list_models)
    app.command("terminate")(terminate)
