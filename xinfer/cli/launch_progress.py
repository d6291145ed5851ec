"""The progress of a launch on the screen, and what ctrl-C means while it is shown."""

from typing import Self

import typer
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from xinfer.cli.screen import err
from xinfer.client import Client, LaunchProgress
from xinfer.errors import NotFound


class LeftRunning(Exception):
    """The user stopped watching, one way or the other; the text says what becomes of the launch."""


def follow_launch(client: Client, uid: str) -> LaunchProgress:
    """Show the launch until it is done; returns its last progress.

    Ctrl-C asks whether to cancel; another one (or no terminal to answer from) stops watching.

    Raises:
        LeftRunning: the launch was cancelled, by us or by others, or goes on without us.
        XinferError: the server does not answer.
    """
    while True:
        try:
            return _show(client, uid)
        except NotFound:
            raise LeftRunning(f"{uid} was terminated before it was ready.") from None
        except KeyboardInterrupt:
            if _asked_to_cancel(uid):
                client.cancel(uid)
                raise LeftRunning(
                    f"The launch of {uid} is cancelled. What was downloaded is kept for the next one."
                ) from None


def _show(client: Client, uid: str) -> LaunchProgress:
    with LaunchDisplay(uid) as display:
        for now in client.follow(uid):
            display.update(now)
    return now


def _asked_to_cancel(uid: str) -> bool:
    try:
        return typer.confirm(f"Cancel the launch of {uid}?", err=True)
    except typer.Abort:
        raise LeftRunning(
            f"\nThe launch of {uid} goes on in the background.\n"
            f"See how far it is: xinfer status\nStop it: xinfer terminate {uid}"
        ) from None


class LaunchDisplay:
    """A bar for the whole launch, and a line for each of several replicas, or for each worker of one replica."""

    def __init__(self, uid: str) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=err,
        )
        self._whole = self._bars.add_task(uid, total=1.0, detail="")
        self._replicas: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, now: LaunchProgress) -> None:
        """Show this progress."""
        self._bars.update(self._whole, completed=now.progress, detail=now.stage)
        parts = now.replicas if len(now.replicas) > 1 else tuple(one for lone in now.replicas for one in lone.members)
        for replica in parts:
            if replica.replica_id not in self._replicas:
                self._replicas[replica.replica_id] = self._bars.add_task(
                    f"  {replica.replica_id}", total=1.0, detail=""
                )
            words = (replica.state, replica.stage, f"on {replica.worker}" if replica.worker else "")
            self._bars.update(
                self._replicas[replica.replica_id],
                completed=replica.progress,
                detail=" ".join(word for word in words if word),
            )
