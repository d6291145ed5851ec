"""Devices drawn as their slices: a bar for the memory of each, and a line for everybody who has a part of it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from xinfer.cli.status import STATE_STYLES
from xinfer.client import DeviceStatus, SliceStatus

COLORS = ("cyan", "magenta", "yellow", "blue", "green", "bright_cyan", "bright_magenta", "bright_blue")
"""Of the slices of a device, again and again."""
OTHERS = "red"
USED, RESERVED, FOREIGN, FREE = "█", "▒", "▚", "·"
LEGEND = f"{USED} used  {RESERVED} reserved, not used  {FOREIGN} used by others  {FREE} free"


class Part(NamedTuple):
    """A piece of a bar, in MiB."""

    mib: int
    sign: str
    color: str


class Bar:
    """Parts of a whole, as wide as there is room. Whatever there is has a cell, as long as there are enough of them."""

    def __init__(self, parts: Sequence[Part], whole_mib: int) -> None:
        self._parts = [part for part in parts if part.mib > 0]
        self._whole_mib = max(whole_mib, sum(part.mib for part in self._parts), 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The cells."""
        for part, cells in zip(self._parts, self.cells(options.max_width), strict=True):
            yield Segment(part.sign * cells, Style(color=part.color))
        left = options.max_width - sum(self.cells(options.max_width))
        yield Segment(FREE * left, Style(dim=True))

    def cells(self, width: int) -> list[int]:
        """How many cells each part gets of so many."""
        given, seen_mib, taken = [], 0, 0
        for number, part in enumerate(self._parts):
            seen_mib += part.mib
            others = len(self._parts) - number - 1
            ends = max(taken + 1, round(width * seen_mib / self._whole_mib))
            ends = max(taken, min(ends, width - others))
            given.append(ends - taken)
            taken = ends
        return given


def cards(devices: Iterable[DeviceStatus]) -> RenderableType:
    """All devices, those of one worker under its name."""
    shown: list[RenderableType] = []
    worker = None
    for device in devices:
        if device.worker_id != worker:
            worker = device.worker_id
            shown.append(Text(device.worker or device.worker_id, style="bold"))
        shown += [_head(device), _bar(device), _lines(device), Text("")]
    return Group(*shown, Text(LEGEND, style="dim"))


def parts(device: DeviceStatus) -> list[Part]:
    """What the memory of a device consists of: each slice with what is used of it, and what others use."""
    found = []
    for piece, color in _colored(device.slices):
        used = piece.used_mib or 0
        found += [Part(used, USED, color), Part(piece.memory_mib - used, RESERVED, color)]
    return [*found, Part(device.others_mib or 0, FOREIGN, OTHERS)]


def label(device: DeviceStatus) -> str:
    """A device as people name it: the index and name of an accelerator, the name of a CPU."""
    name = device.name or device.device_id
    return f"CPU {name}" if device.kind == "cpu" else f"{device.kind}:{device.index} {name}"


def held(device: DeviceStatus) -> str:
    """What holds replicas to their slices: ``memory soft, cores none (torch)``."""
    said = []
    if device.enforced is not None:
        by = f" ({', '.join(device.enforced.by)})" if device.enforced.by else ""
        said.append(f"memory {device.enforced.memory}, cores {device.enforced.cores}{by}")
    if device.enforced_by:
        said.append(f"all together by {device.enforced_by}")
    return "; ".join(said)


def condition(device: DeviceStatus) -> Text:
    """Whether it works, and whether it takes anything new."""
    if not device.alive:
        return Text("worker lost", style="red")
    state = Text("healthy", style="green") if device.healthy else Text("unhealthy", style="red")
    if device.draining:
        state.append(", draining", style="yellow")
    elif device.cordoned:
        state.append(", cordoned", style="yellow")
    return state


def known(mib: int | None) -> str:
    """MiB, or that nobody can tell."""
    return "?" if mib is None else str(mib)


def _head(device: DeviceStatus) -> Table:
    """What it is and how it is; the name of a processor may be cut."""
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    head.add_column(no_wrap=True, justify="right")
    head.add_row(f"  {label(device)}", condition(device))
    for text, style in ((device.health_reason, "red"), (held(device), "dim")):
        if text:
            head.add_row(Text(f"  {text}", style=style), "")
    return head


def _bar(device: DeviceStatus) -> Table:
    bar = Table.grid(padding=0, expand=True)
    bar.add_column(width=2)
    bar.add_column(ratio=1)
    bar.add_row("", Bar(parts(device), device.capacity_mib))
    return bar


def _lines(device: DeviceStatus) -> Table:
    """Who has what of a device: its slices, others, and what is left."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True, overflow="ellipsis")
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True, justify="right")
    lines.add_column(no_wrap=True, justify="right")
    lines.add_column(no_wrap=True, overflow="ellipsis")
    for piece, color in _colored(device.slices):
        lines.add_row(*_slice_line(piece, color))
    if device.others_mib:
        lines.add_row(Text(f"  {FOREIGN} others", style=OTHERS), "", f"{device.others_mib} MiB", "", "")
    lines.add_row(
        Text(f"  {FREE} free", style="dim"),
        "",
        f"{device.free_mib} of {device.capacity_mib} MiB",
        f"{device.cap_cores - device.reserved_cores_percent} % cores",
        "" if device.device_free_mib is None else f"{device.device_free_mib} reported",
    )
    return lines


def _slice_line(piece: SliceStatus, color: str) -> tuple[RenderableType, ...]:
    over_mib = max(0, (piece.used_mib or 0) - piece.memory_mib)
    style = "red" if piece.over_limit_mib else "yellow"  # beyond all tolerance, or a moment ago
    return (
        Text(f"  {USED} ", style=color).append(piece.replica_id, style="default"),
        Text(piece.state, style=STATE_STYLES.get(piece.state, "yellow")),
        f"{known(piece.used_mib)} of {piece.memory_mib} MiB",
        "alone" if piece.exclusive else f"{piece.cores_percent} % cores" if piece.cores_percent else "",
        Text(f"{over_mib} MiB over", style=style) if over_mib else "",
    )


def _colored(slices: Sequence[SliceStatus]) -> list[tuple[SliceStatus, str]]:
    return [(piece, COLORS[number % len(COLORS)]) for number, piece in enumerate(slices)]
