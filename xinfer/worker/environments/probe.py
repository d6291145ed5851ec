"""``python -m xinfer.worker.environments.probe ENGINE RESULT [MODULE...]``: does the engine work in this Python?

Imports the modules, asks the engine's ``available()``, and writes what it said to the file RESULT.
"""

import importlib
import sys
from pathlib import Path

from xinfer import plugins
from xinfer.engines.base import Available
from xinfer.processes import write_record


def main(engine: str, result: Path, modules: list[str]) -> None:
    """Exit status 0: it works. Everything else is an error that the caller reads in the output."""
    for module in modules:
        importlib.import_module(module)
    known = plugins.engines().get(engine)
    if known is None:
        broken = plugins.broken_engines().get(engine)
        sys.exit(
            broken or f"the engine {engine!r} is not known in this environment; does its own package belong to it?"
        )
    found: Available = known.available()
    if not found.ok:
        sys.exit(f"{engine} is not available in it: {found.reason}")
    write_record(result, found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
