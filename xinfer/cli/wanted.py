"""The models that ``xinfer-local --model`` asks for."""

import asyncio
import threading
from collections.abc import Sequence

from rich.text import Text

from xinfer.cli.launch import launch_body
from xinfer.cli.screen import complain, err
from xinfer.client import Client
from xinfer.errors import Conflict, NoCapacity, XinferError


async def launch_wanted(url: str, names: Sequence[str]) -> None:
    """Launch each one that is not there yet, and say when it is ready, or why it is not. Silent once cancelled."""
    ended = threading.Event()
    try:
        await asyncio.gather(*[asyncio.to_thread(_launch, url, name, ended) for name in names])
    finally:
        ended.set()  # a thread cannot be cancelled, but it can be told


def _launch(url: str, name: str, ended: threading.Event) -> None:
    try:
        with Client(url) as client:
            reason = _follow(client, name, ended)
    except XinferError as error:
        reason = error.message
    if ended.is_set():
        return
    if reason:
        complain(f"{name} could not be launched: {reason}")
    else:
        err.print(Text(f"  {name} is ready", style="green"))


def _follow(client: Client, name: str, ended: threading.Event) -> str:
    """Launch a model and wait for it; why it failed, or nothing."""
    body = launch_body(name, model_path=None)
    try:
        uid = client.launch(**body)
    except NoCapacity:
        raise
    except Conflict:
        uid = body["model_name"]  # deployed before; it comes back by itself
    for now in client.follow(uid):
        if now.done or ended.is_set():
            return now.reason or ""
    return ""
