"""A folder for the unix sockets of an engine's own processes: short, of one replica's process, and gone with it.

Libraries leave their sockets behind when they are killed, and some of them also when they end.
"""

import os
import shutil
from pathlib import Path

from xinfer import plugins
from xinfer.processes import runtime_directory

ROOM_FOR_NAMES = 40
"""Characters that an engine may put behind the folder: a slash, and a UUID."""
LONGEST_PATH = 103
"""Of a unix socket: 107 bytes on Linux, 103 elsewhere."""


def socket_folder(instance: str) -> Path:
    """Where the engine of an instance has its sockets."""
    return runtime_directory() / f"{instance}.ipc"


def make_sockets(engine: str, instance: str) -> dict[str, str]:
    """Make the folder, for an engine that wants one; the variable that names it.

    Where paths in it would be too long for sockets, the engine has them where it usually has.

    Raises:
        OSError: it cannot be made.
    """
    variable = str(getattr(plugins.engines().get(engine), "sockets_variable", ""))
    folder = socket_folder(instance)
    if not variable or len(os.fsencode(folder)) + ROOM_FOR_NAMES > LONGEST_PATH:
        return {}
    folder.mkdir(mode=0o700, exist_ok=True)
    return {variable: str(folder)}


def remove_sockets(instance: str) -> None:
    """Once its processes have ended, in whatever way."""
    shutil.rmtree(socket_folder(instance), ignore_errors=True)
