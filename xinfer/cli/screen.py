"""Where commands print: answers to stdout, everything about them to stderr."""

from rich.console import Console
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def complain(message: str, hint: str = "") -> None:
    """An error as people should see it: what is wrong, then what to do. The text is never read as markup."""
    err.print(Text("Error: ", style="bold red").append(Text(message, style="not bold default")), soft_wrap=True)
    if hint:
        err.print(Text(hint, style="dim"), soft_wrap=True)
