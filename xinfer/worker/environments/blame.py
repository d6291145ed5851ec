"""Whether the environment that a replica ran in may be what it died of, and what to do about that."""

import re
from pathlib import Path

from xinfer.worker.environments.store import VENV, record_in
from xinfer.worker.environments.whole import damage

SIGNS = re.compile(
    r"\b(ModuleNotFound|Import|PackageNotFound|Syntax|Indentation)Error\b|\bNo module named\b|\bundefined symbol\b"
    r"|\bcannot open shared object file\b|\bfile too short\b|\binvalid ELF header\b|\bSIG(BUS|ILL|SEGV)\b"
)
"""What processes say whose packages are damaged, or do not go together."""


def blame(python: Path, said: str) -> str:
    """A sentence for those who read why a replica ended; empty: nothing speaks against its environment.

    Reads the lists of files of all its packages, which may take a second.

    Args:
        python: its interpreter.
        said: its reason, and the end of its log.
    """
    folder = python.parents[2] if python.parent.parent.name == VENV else None
    record = record_in(folder) if folder is not None else None
    if folder is None or record is None:
        return ""  # it is none of ours
    look = f"xinfer engine check {record.name}"
    if found := damage(folder / VENV, record.packages):
        return f"The environment {record.name} on its worker is damaged ({look} shows what to do): {found}"
    if SIGNS.search(said):
        return (
            f"Whether its environment works, {look} says on its worker; "
            "a package that it was built without is added at the launch: --virtual-env-package"
        )
    return ""
