"""Options of ``xinfer launch`` about the Python that the engine runs in."""

from typing import Annotated, Any

import typer

PANEL = "Which Python runs it"

Environment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        help="auto: the worker's Python, or an environment of the engine where that has it not; none: the worker's; "
        "own: an environment; or the folder of a virtual environment on the workers.",
        rich_help_panel=PANEL,
    ),
]
Switch = Annotated[
    bool | None,
    typer.Option(
        "--enable-virtual-env/--disable-virtual-env",
        help="The same as --environment own, or none.",
        rich_help_panel=PANEL,
    ),
]
Packages = Annotated[
    list[str] | None,
    typer.Option(
        "-vp",
        "--virtual-env-package",
        help="A package that its environment holds beyond what the engine needs, 'transformers==5.19.0'; may be "
        "repeated. The environment is built first.",
        rich_help_panel=PANEL,
    ),
]
Python = Annotated[
    str | None, typer.Option("--python", help="An interpreter on the workers, taken as it is.", rich_help_panel=PANEL)
]


def environment_words(
    *,
    environment: Environment = None,
    enable_virtual_env: Switch = None,
    virtual_env_package: Packages = None,
    python: Python = None,
) -> dict[str, Any]:
    """The options that were given, as words of the launch body."""
    given = {
        "environment": environment,
        "enable_virtual_env": enable_virtual_env,
        "virtual_env_packages": virtual_env_package or None,
        "python": python,
    }
    return {word: value for word, value in given.items() if value is not None}
