"""Options that a command does not know go to the engine: ``--max-len 4096`` becomes ``{"max_len": 4096}``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from typer.core import TyperCommand

from xinfer.cli.adapter_options import PAIRS, repeat_lists

META_KEY = "xinfer.engine_options"
ENV_OPTIONS = ("-ev", "--env")


def split_engine_options(args: Sequence[str], known: Mapping[str, int]) -> tuple[list[str], dict[str, Any]]:
    """Divide a command line into what the command knows and what the engine gets.

    ``known`` has each option of the command and how many values follow it. An unknown ``--key`` takes the next word as
    its value unless that is an option itself; without a value it is true. After ``--`` nothing is for the engine.
    """
    ours: list[str] = []
    engine: dict[str, Any] = {}
    position = 0
    while position < len(args):
        word = args[position]
        position += 1
        if word == "--":
            ours += [word, *args[position:]]
            break
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in known:
            count = 0 if equals else known.get(name, 0)
            ours += [word, *args[position : position + count]]
            position += count
            continue
        key = name.removeprefix("--").replace("-", "_")
        if equals:
            engine[key] = scalar(value)
        elif position < len(args) and not _is_option(args[position]):
            engine[key] = scalar(args[position])
            position += 1
        else:
            engine[key] = True
    return ours, engine


def scalar(text: str) -> Any:
    """A value from a command line: what JSON reads it as (also Python's True, False and None), else the text."""
    try:
        return json.loads(_PYTHON_WORDS.get(text, text), parse_constant=_no_constant)
    except ValueError:
        return text


_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")  # NaN and Infinity stay words


def _is_option(word: str) -> bool:
    """A dash starts an option, but not in ``-1`` or ``-0.5``, and a lone ``-`` is a value."""
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and word[1] != "."


def join_pairs(args: Sequence[str], options: Sequence[str]) -> list[str]:
    """``-ev KEY VALUE`` as ``-ev KEY=VALUE``: an option that is repeated can have only one word here."""
    joined: list[str] = []
    words = iter(args)
    for word in words:
        joined.append(word)
        if word in options and (key := next(words, None)) is not None:
            value = None if "=" in key else next(words, None)
            joined.append(key if value is None else f"{key}={value}")
    return joined


class EngineOptionsCommand(TyperCommand):
    """A command that keeps unknown options for the engine, in ``ctx.meta[META_KEY]``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the engine's options out before the parser, which would refuse them, sees the rest."""
        options: list[Any] = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        known = {
            name: 0 if option.is_flag else option.nargs
            for option in options
            for name in (*option.opts, *option.secondary_opts)
        }
        ours, ctx.meta[META_KEY] = split_engine_options(join_pairs(repeat_lists(args), (*ENV_OPTIONS, *PAIRS)), known)
        return super().parse_args(ctx, ours)
