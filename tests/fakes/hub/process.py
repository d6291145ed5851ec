"""The hub as a process, for tests."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")


class FakeHub:
    """A running one; ``folder`` has its repositories."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    def add(self, repository: str, files: dict[str, bytes]) -> None:
        for path, content in files.items():
            target = self.folder / repository / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def behave(self, **faults: Any) -> None:
        """Misbehave so from now on, and forget what was seen."""
        body = json.dumps(faults).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/faults", body)).close()

    @property
    def sent(self) -> dict[str, int]:
        """Bytes of each file since ``behave``."""
        return self._seen()["sent"]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return self._seen()["requests"]

    def _seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/seen") as answer:
            return json.load(answer)


@contextlib.contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    """Run one for a ``with`` block, with the repositories in ``folder``."""
    argv = [sys.executable, str(SERVER), str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield FakeHub(folder, int(process.stdout.readline()))
        finally:
            process.terminate()
