"""How far a download is, in bytes and in words. Pure."""

from collections.abc import Callable, Iterable

import msgspec

from xinfer.catalog.repository import RemoteFile
from xinfer.protocol import FileProgress

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Progress(msgspec.Struct, frozen=True):
    """All files of a download at one moment; ``note`` is added to its words."""

    files: tuple[FileProgress, ...] = ()
    note: str = ""

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return sum(file.done for file in self.files)

    @property
    def total(self) -> int:
        """Bytes that are needed."""
        return sum(file.total for file in self.files)

    @property
    def fraction(self) -> float:
        """What part is here, 0..1."""
        return self.done / self.total if self.total else 0.0

    @property
    def stage(self) -> str:
        """In words: "downloading model.safetensors, 1.2 of 3.4 GiB"."""
        unfinished = [file for file in self.files if file.done < file.total]
        begun = [file for file in unfinished if file.done] or unfinished
        name = max(begun, key=lambda file: file.total).name if begun else ""
        what = f"downloading {name}, {amount(self.done, self.total)}" if name else "checking what was downloaded"
        if not self.files:
            what = "asking the hub for the list of files"
        return f"{what} ({self.note})" if self.note else what

    @property
    def paused(self) -> str:
        """In words, while it rests: "paused at 1.2 of 3.4 GiB"."""
        return f"paused at {amount(self.done, self.total)}" if self.total else "paused"


Show = Callable[[Progress], None]


def unseen(_: Progress) -> None:
    """A ``Show`` for what nobody watches."""


class Meter:
    """Counts the bytes of each file, and tells ``show``."""

    def __init__(self, files: Iterable[RemoteFile], show: Show) -> None:
        self._done = {file.path: 0 for file in files}
        self._total = {file.path: file.size for file in files}
        self._show = show
        self._note = ""

    def set(self, path: str, done: int, note: str = "") -> None:
        """So much of a file is here."""
        self._done[path] = done
        self._note = note
        self._show(self.now)

    @property
    def now(self) -> Progress:
        """As it is."""
        files = (FileProgress(name=path, done=done, total=self._total[path]) for path, done in self._done.items())
        return Progress(tuple(files), self._note)


def amount(done: int, total: int) -> str:
    """Two sizes in the unit of the larger one: "1.2 of 3.4 GiB"."""
    power = min(len(UNITS) - 1, max(0, (max(total, 1).bit_length() - 1) // 10))
    scale = 1024**power
    if not power:
        return f"{done} of {total} {UNITS[0]}"
    return f"{done / scale:.1f} of {total / scale:.1f} {UNITS[power]}"
