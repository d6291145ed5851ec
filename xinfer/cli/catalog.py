"""``xinfer models catalog``: which models can be launched by name."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from xinfer.cli import weights
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, err, out

Name = Annotated[str | None, typer.Argument(help="A model, by its name or alias: show all of its weights.")]
ModelType = Annotated[
    str | None, typer.Option("-t", "--model-type", help="Only models of this type: LLM, embedding, rerank, audio, ...")
]

GIB = 1024

commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@commands.callback()
def models() -> None:
    """Look at the models that can be launched by name."""


@commands.command("catalog")
def show_catalog(
    name: Name = None,
    *,
    model_type: ModelType = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the models that can be launched by name, or the sizes, formats and quantizations of one.

    The size in bold is taken where a launch names none: the largest that one card of 24 GiB serves well.

    xinfer models catalog

    xinfer models catalog qwen3

    xinfer models catalog --model-type embedding
    """
    with connect(endpoint, api_key) as client:
        if name is None:
            params = {"model_type": model_type} if model_type else None
            answer = client.http.call("GET", "/v1/catalog", params=params)
        else:
            answer = client.http.call("GET", f"/v1/catalog/{name}")
    if as_json:
        out.print_json(data=answer)
    elif name is None:
        out.print(_models_table(answer["data"]))
        for warning in answer.get("warnings", ()):
            err.print(f"Warning: {warning}", style="yellow")
        out.print("The weights of one: xinfer models catalog NAME. Dim: no engine serves this type.", style="dim")
    else:
        show_model(answer)


def _models_table(models: list[dict[str, Any]]) -> Grid:
    table = Grid("model", "type", "sizes", "formats", "what it is")
    for model in sorted(models, key=lambda model: (model["model_family"], model["model_name"])):
        table.add_row(
            escape(model["model_name"]) + ("" if model["is_builtin"] else " [dim](registered)[/]"),
            model["model_type"],
            _sizes(model),
            ", ".join(model["formats"]),
            escape(model["model_description"]),
            style=None if model["is_served"] else "dim",
        )
    return table


def show_model(model: dict[str, Any]) -> None:
    """Print what is known of a model, and all of its weights."""
    facts = {
        "type": model["model_type"] + ("" if model["is_served"] else " (no engine serves this type)"),
        "aliases": ", ".join(model["aliases"]),
        "abilities": ", ".join(model["model_ability"]),
        "context": model["context_length"] and f"{model['context_length']} tokens",
        "sizes": _sizes(model),
    }
    out.print(f"[bold]{escape(model['model_name'])}[/]  {escape(model['model_description'])}")
    for name, fact in facts.items():
        if fact:
            out.print(f"{name}: {fact}")
    table = Grid("size", "format", "quantization", "GiB", "where")
    for spec in model["model_specs"]:
        size = f"{spec['weights_mib'] / GIB:.1f}" if spec["weights_mib"] else ""
        sources = escape("\n".join(spec["sources"]))
        table.add_row(spec["size"], spec["model_format"], spec["quantization"], size, sources)
    out.print(table)


def _sizes(model: dict[str, Any]) -> str:
    """The sizes, the one that is taken by default in bold."""
    return ", ".join(f"[bold]{size}[/]" if size == model["default_size"] else size for size in model["sizes"])


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    weights.add_to(commands)
    app.add_typer(commands, name="models", help="The models that can be launched by name, and their weights here.")
