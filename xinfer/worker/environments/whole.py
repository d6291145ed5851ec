"""Whether all files of an environment are there: each package brings a list of its own. Importing finds only a part."""

import csv
from collections.abc import Iterator
from pathlib import Path

NAMED = 3
"""So many missing files are named; of a lost folder there are thousands."""


def missing_files(venv: Path) -> str:
    """What is missing, in words; empty: nothing."""
    missing = [str(file) for file in _listed(venv) if not file.exists()]
    if not missing:
        return ""
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"files of its packages are missing: {', '.join(missing[:NAMED])}{more}"


def _listed(venv: Path) -> Iterator[Path]:
    for site in venv.glob("lib/python*/site-packages"):
        for record in sorted(site.glob("*.dist-info/RECORD")):
            with record.open(newline="", encoding="utf-8", errors="replace") as lines:
                yield from (site / row[0] for row in csv.reader(lines) if row and not row[0].endswith(".pyc"))
