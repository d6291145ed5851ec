"""The endpoint as a process, for tests."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")


class Endpoint:
    """A running one. ``url`` has no path."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def seen(self) -> dict[str, Any]:
        """What it has seen since ``forget``."""
        return self._get("/seen")

    def forget(self) -> None:
        self._get("/forget")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path) as answer:
            return json.load(answer)


@contextlib.contextmanager
def endpoint(*arguments: str) -> Iterator[Endpoint]:
    """Run one for a ``with`` block; ``arguments`` are those of its program."""
    with subprocess.Popen([sys.executable, str(SERVER), *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Endpoint(int(process.stdout.readline()))
        finally:
            process.terminate()
