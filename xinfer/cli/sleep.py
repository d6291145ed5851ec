"""``xinfer sleep`` and ``xinfer wake``."""

from typing import Annotated

import typer

from xinfer.cli.options import ApiKey, Endpoint, connect
from xinfer.cli.screen import out

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Uid of the model.")]
Level = Annotated[
    int, typer.Option("--level", min=1, help="How deep. vLLM: 1 keeps the weights in main memory, 2 drops them.")
]


def sleep(model: Model, *, level: Level = 1, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Have a model give the memory of its devices back, without ending its processes. Its slices stay booked.

    A request for it wakes it, unless the server is set not to (XINFER_WAKE_WAIT_S=0).

    xinfer sleep my-chat
    """
    with connect(endpoint, api_key) as client:
        client.sleep(model, level)
    out.print(f"{model} is asleep. Wake it: xinfer wake {model}", markup=False)


def wake(model: Model, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Have a model serve again that sleeps.

    xinfer wake my-chat
    """
    with connect(endpoint, api_key) as client:
        client.wake(model)
    out.print(f"{model} is awake.", markup=False)


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command("sleep")(sleep)
    app.command("wake")(wake)
