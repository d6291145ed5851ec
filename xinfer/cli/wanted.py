"""The models that ``xinfer-local --model`` asks for."""

import asyncio
from collections.abc import Sequence

from rich.text import Text

from xinfer.cli.launch import launch_body
from xinfer.cli.screen import complain, err
from xinfer.client import Client
from xinfer.errors import Conflict, XinferError


async def launch_wanted(url: str, names: Sequence[str]) -> None:
    """Launch each one that is not there yet, and say when it is ready, or why it is not."""
    await asyncio.gather(*[asyncio.to_thread(_launch, url, name) for name in names])


def _launch(url: str, name: str) -> None:
    with Client(url) as client:
        try:
            uid = client.launch(**launch_body(name, model_path=None))
        except Conflict:
            uid = name  # deployed before; it comes back by itself
        except XinferError as error:
            complain(f"{name}: {error.message}")
            return
        try:
            *_, last = client.follow(uid)
        except XinferError as error:
            complain(f"{uid}: {error.message}")
            return
    if last.reason:
        complain(f"{uid} could not be launched: {last.reason}")
    else:
        err.print(Text(f"  {uid} is ready", style="green"))
