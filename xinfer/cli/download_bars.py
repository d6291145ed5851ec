"""Downloads on the screen: a bar for each file, and one for all of them."""

from collections.abc import Iterable
from typing import Protocol, Self

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from xinfer.cli.screen import err

MOST_BARS = 12
"""Files that are small or done make room for others."""


class FileBytes(Protocol):
    """A file, in bytes."""

    @property
    def name(self) -> str:
        """Its path in the repository."""

    @property
    def done(self) -> int:
        """Bytes that are here."""

    @property
    def total(self) -> int:
        """Bytes that are needed."""


class DownloadBars:
    """Shown while the block runs."""

    def __init__(self, title: str) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[stage]}", markup=False, style="dim"),
            console=err,
        )
        self._whole = self._bars.add_task(title, total=None, stage="")
        self._files: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, files: Iterable[FileBytes], stage: str = "", worker: str = "") -> None:
        """Show how far the files (of a worker, where there are several) are; the largest first."""
        for file in sorted(files, key=lambda file: -file.total):
            name = f"{worker}: {file.name}" if worker else file.name
            if name not in self._files and len(self._files) < MOST_BARS:
                self._files[name] = self._bars.add_task(f"  {name}", total=file.total, stage="")
            if name in self._files:
                self._bars.update(self._files[name], completed=file.done, total=file.total)
        if stage:
            self._bars.update(self._whole, stage=stage)

    def total(self, done: int, total: int) -> None:
        """Show how far all of it is."""
        self._bars.update(self._whole, completed=done, total=total or None)
