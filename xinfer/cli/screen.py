"""Where commands print: answers to stdout, everything about them to stderr."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

WIDE = 1000
"""Where no terminal limits a line."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
for _console in (out, err):
    _console.soft_wrap = not _console.is_terminal  # whoever reads a log or a pipe breaks lines himself


def complain(message: str, hint: str = "") -> None:
    """An error as people should see it: what is wrong, then what to do. The text is never read as markup."""
    err.print(Text("Error: ", style="bold red").append(Text(message, style="not bold default")), soft_wrap=True)
    if hint:
        err.print(Text(hint, style="dim"), soft_wrap=True)


def remark(picked: str, warnings: Iterable[str]) -> None:
    """What whoever launches a model should know: what was picked for them, and what they may not have meant."""
    if picked:
        out.print(Text(f"Picked {picked}.", style="dim"), soft_wrap=True)
    for warning in warnings:
        err.print(Text(f"Warning: {warning}", style="yellow"), soft_wrap=True)


class Grid(Table):
    """A table that shows all of every name, so that it can be typed or copied, however narrow the terminal is.

    What goes into a file or another program is as wide as it needs to be. The first column says what a row is about:
    it is the last to be folded.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As rich asks for it."""
        room = options.max_width if console.is_terminal else WIDE
        for column in self.columns:
            column.overflow = "fold"
        first = self.columns[0]
        names = (first.header, *first.cells)
        first.no_wrap = max(console.measure(name, options=options).maximum for name in names) <= room // 2
        return super().__rich_console__(console, options.update(width=room, no_wrap=False))
