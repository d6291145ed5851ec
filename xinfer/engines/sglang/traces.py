"""What SGLang leaves behind: sockets among the temporary files, and files in shared memory.

It is killed more often than it ends, by us, by itself and by the kernel, so it cannot clear up. Every server gets a
folder for its temporary files that has the process in its name which started it, and a list of its shared memory in
there. Whoever ends the server removes both; what nobody could remove is removed before the next server starts.
"""

import contextlib
import getpass
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Self

import psutil

from xinfer.processes import runtime_directory
from xinfer.settings import child_environment

PREFIX = "sglang-"
LIST = "shared-memory"
SHARED_MEMORY = re.compile(r"/dev/shm/\S+")  # noqa: S108  where Linux has it, not a file that we make


class Traces:
    """Those of one server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """For its temporary files."""

    @classmethod
    def make(cls) -> Self:
        """A new folder, for a server that this process starts; those of processes that are gone are removed.

        Raises:
            OSError: it cannot be made.
        """
        for folder in runtime_directory().glob(f"{PREFIX}*"):
            owner = folder.name.split("-")[1]
            if owner.isdecimal() and not psutil.pid_exists(int(owner)):
                cls(folder).remove()
        folder = runtime_directory() / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        return cls(folder)

    @property
    def variables(self) -> dict[str, str]:
        """What the server's environment needs. Its compiled code stays where it is, for the next one."""
        usual = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        compiled = child_environment().get("TORCHINDUCTOR_CACHE_DIR") or str(usual)
        return {"TMPDIR": str(self.folder), "TORCHINDUCTOR_CACHE_DIR": compiled}

    def note(self, server: int) -> None:
        """Write down which shared memory the process ``server`` has, with all that it has started."""
        found: set[str] = set()
        with contextlib.suppress(psutil.Error, OSError):  # one has just ended, or this is no Linux
            for process in psutil.Process(server).children(recursive=True):
                found |= set(SHARED_MEMORY.findall(Path(f"/proc/{process.pid}/maps").read_text()))
        with contextlib.suppress(OSError):  # a full disk: then they stay behind
            (self.folder / LIST).write_text("".join(f"{name}\n" for name in sorted(found)))

    def remove(self) -> None:
        """All of it, once the server has ended."""
        with contextlib.suppress(OSError):  # no server came as far as having any
            for name in (self.folder / LIST).read_text().splitlines():
                Path(name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
