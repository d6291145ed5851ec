"""Whether an environment is as it was installed: each package lists its files. Importing finds only a part."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from xinfer.packages import distribution, normalized

NAMED = 3
"""So many of what is missing are named; of a lost folder there are thousands."""
INFO = ".dist-info"
COLUMNS = 3
"""Of such a list: a file, its hash, and its size in bytes; the last two may be empty."""


def damage(venv: Path, packages: Iterable[str]) -> str:
    """What of the ``packages`` that were installed is missing or cut short, in words; empty: nothing."""
    found = {
        "packages are missing": sorted(set(map(distribution, packages)) - _names(venv)),
        "files of its packages are missing": [],
        "files of its packages are cut short": [],
    }
    for file, size in _listed(venv):
        try:
            if file.stat().st_size < size:
                found["files of its packages are cut short"].append(str(file))
        except OSError:
            found["files of its packages are missing"].append(str(file))
    return "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _names(venv: Path) -> set[str]:
    return {normalized(info.name.removesuffix(INFO).rpartition("-")[0]) for info in _infos(venv)}


def _infos(venv: Path) -> list[Path]:
    return sorted(venv.glob(f"lib/python*/site-packages/*{INFO}"))


def _listed(venv: Path) -> Iterator[tuple[Path, int]]:
    """Every file of its packages, with its size in bytes; 0 where the package does not say."""
    for info in _infos(venv):
        listing = info / "RECORD"
        if not listing.exists():
            yield listing, 0
            continue
        with listing.open(newline="", encoding="utf-8", errors="replace") as lines:
            for name, *_, size in (row for row in csv.reader(lines) if len(row) == COLUMNS):
                if not name.endswith(".pyc"):
                    yield info.parent / name, int(size) if size.isdecimal() else 0
