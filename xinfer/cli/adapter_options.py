"""Options of ``xinfer launch`` about LoRA adapters."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

PAIRS = ("-lm", "--lora-module")
"""Followed by a name and a path, or by both in one word."""
LISTS = ("--lora-modules",)
"""Followed by as many words NAME=PATH as there are, as vLLM's own option is."""

Modules = Annotated[
    list[str] | None,
    typer.Option(
        *PAIRS,
        *LISTS,
        metavar="NAME=PATH",
        help="A LoRA adapter: a folder on the workers, and the name that clients use for it. May be repeated.",
        rich_help_panel="Which model",
    ),
]


def adapter_words(*, lora_module: Modules = None) -> dict[str, Any]:
    """The options that were given, as words of the launch body."""
    named = [named_path(word, "--lora-modules") for word in lora_module or ()]
    return {"lora_modules": [{"name": name, "path": path} for name, path in named]} if named else {}


def named_path(word: str, param_hint: str) -> tuple[str, str]:
    """The name and the absolute path in ``NAME=PATH``."""
    name, _, path = word.partition("=")
    if not name or not path:
        raise typer.BadParameter(f"{word!r} should be NAME=PATH", param_hint=param_hint)
    return name, str(Path(path).expanduser().absolute())


def repeat_lists(args: Sequence[str], options: Sequence[str] = LISTS) -> list[str]:
    """``--lora-modules a=x b=y`` as ``--lora-modules a=x --lora-modules b=y``: an option takes one word here."""
    return list(_repeated(args, options))


def _repeated(args: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    listing = ""
    for position, word in enumerate(args):
        if word.startswith("-"):
            listing = word if word in options else ""
        elif listing and args[position - 1] != listing:
            if "=" in word:
                yield listing
            else:
                listing = ""
        yield word
