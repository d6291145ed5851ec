"""Options that many commands share, and the connection that they lead to."""

from typing import Annotated

import typer

from xinfer.client import Client
from xinfer.errors import InvalidRequest
from xinfer.settings import Settings

Endpoint = Annotated[
    str | None,
    typer.Option("-e", "--endpoint", help="URL of the server. Default: $XINFER_ENDPOINT, else http://127.0.0.1:9997."),
]
ApiKey = Annotated[
    str | None,
    typer.Option("-ak", "--api-key", help="Key to send, where the server asks for one. Default: $XINFER_API_KEY."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON, for scripts.")]


def connect(endpoint: str | None, api_key: str | None) -> Client:
    """The client of a command: what the options say, else the settings.

    Raises:
        InvalidRequest: the endpoint is not a URL, or a setting in the environment has a wrong value.
    """
    try:
        settings = Settings.from_env()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return Client(endpoint or settings.endpoint, api_key or settings.api_key or None)
