"""Importing the library without what it imports only because it happens to be installed."""

import contextlib
import sys
from collections.abc import Iterator

UNUSED_PACKAGES = ("sklearn", "scipy")
"""For training and assisted generation, which nobody does here; together they take more than a second."""


@contextlib.contextmanager
def without_packages(names: tuple[str, ...]) -> Iterator[None]:
    """Let the import system say that packages are not installed.

    Packages that are loaded stay visible, and so do all of them if the library has been loaded before: it looked for
    them then, and counts on what it found.
    """
    hidden = [] if "transformers" in sys.modules else [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None there means: cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
