"""``xinfer register`` and its kin: models of one's own beside the built-in catalog."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.text import Text

from xinfer.cli.catalog import show_model
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, out
from xinfer.errors import InvalidRequest, UnknownModel

File = Annotated[
    Path,
    typer.Option("-f", "--file", exists=True, dir_okay=False, help="The model: TOML or JSON, see below."),
]
ModelType = Annotated[
    str | None,
    typer.Option("-t", "--model-type", help="LLM, embedding, rerank, ... Default: what the file says."),
]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="A registered model, by its name.")]
MaybeName = Annotated[str | None, typer.Argument(metavar="MODEL", help="Show all of this one.")]


def register(
    file: File,
    *,
    model_type: ModelType = None,
    update: Annotated[bool, typer.Option("--update", help="Replace the one of that name: its next version.")] = False,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Register a model, so that it is launched by its name. It survives restarts, and all workers know it.

    The file is an entry of our catalog in TOML or JSON, or a custom model of Xinference in JSON. The smallest:

    [dim]name = "my-model"[/]

    [dim]kind = "LLM"[/]

    [dim]variants = [ {format = "safetensors", source = "/data/my-model"} ][/]

    A name of the built-in catalog is hidden by one that is registered. Paths are paths on the workers, and must lie
    under a folder that models may be read from (XINFER_MODEL_ROOTS).
    """
    from xinfer.catalog.registered import read_registration  # noqa: PLC0415 - reads the catalog; --help is quick

    document = read_document(file)
    kind = model_type or read_registration(document).model.kind.value
    with connect(endpoint, api_key) as client:
        done = client.register_model(kind, document, update=update)
    hides = ", in place of the built-in one" if done["overrides_builtin"] else ""
    out.print(f"{escape(done['model_name'])} is registered (version {done['version']}{hides}).")
    for note in done["notes"]:
        out.print(Text(f"- {note}"))
    out.print(Text(f"Launch it: xinfer launch {done['model_name']}", style="dim"))


def registrations(
    name: MaybeName = None, *, endpoint: Endpoint = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """List the registered models, or show one with all of its weights."""
    with connect(endpoint, api_key) as client:
        found = client.registrations()
    if name is not None:
        found = [_named(found, name)]
    if as_json:
        out.print_json(data=found[0] if name is not None else found)
    elif name is not None:
        show_model(found[0])
    elif not found:
        out.print("No model is registered: xinfer register -f FILE.")
    else:
        out.print(_table(found))


def unregister(name: Name, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Forget a registered model. What was launched from it goes on."""
    with connect(endpoint, api_key) as client:
        model = _named(client.registrations(), name)
        client.unregister_model(model["model_type"], model["model_name"])
    again = "; the built-in model of that name can be launched again" if model["overrides_builtin"] else ""
    out.print(f"{escape(model['model_name'])} is registered no more{again}.")


def read_document(file: Path) -> dict[str, Any]:
    """What a file registers: JSON if it is called so, else TOML.

    Raises:
        InvalidRequest: it cannot be read; says where.
    """
    try:
        content = file.read_bytes()
        if file.suffix.lower() == ".json":
            return msgspec.json.decode(content, type=dict[str, Any])
        return tomllib.loads(content.decode())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from None


def _named(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for model in found:
        if name in (model["model_name"], *model["aliases"]):
            return model
    known = ", ".join(model["model_name"] for model in found) or "none"
    raise UnknownModel(f"no model {name!r} is registered; there are: {known}")


def _table(found: list[dict[str, Any]]) -> Grid:
    table = Grid("model", "type", "version", "formats", "where", "built-in")
    for model in found:
        sources = dict.fromkeys(source for spec in model["model_specs"] for source in spec["sources"])
        table.add_row(
            escape(model["model_name"]),
            model["model_type"],
            str(model["version"]),
            ", ".join(model["formats"]),
            escape("\n".join(sources)),
            "is hidden" if model["overrides_builtin"] else "",
        )
    return table


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("register")(register)
    app.command("registrations")(registrations)
    app.command("unregister")(unregister)
