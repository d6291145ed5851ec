"""Whether an interpreter that a launch names can run a replica. Tried once, before a process fails three times over."""

import asyncio
import os
import tempfile
from pathlib import Path

from xinfer.engines.base import Available
from xinfer.errors import EnvironmentFailed
from xinfer.processes import read_record
from xinfer.worker.environments.interpreter import Interpreter
from xinfer.worker.environments.uv import end_group

LIMIT_S = 120.0
"""For a Python that comes from a slow disk for the first time."""
SAID_BYTES = 64 * 1024
REASON_LINES = 6

# Any Python understands its first lines, and one that is not new enough says so instead of stumbling over our syntax.
TRIAL = """
import sys
if sys.version_info < (3, 11):
    sys.exit("it is Python %d.%d, and xinfer runs on 3.11 and newer" % tuple(sys.version_info[:2]))
import runpy
runpy.run_module("xinfer.worker.environments.probe", run_name="__main__")
"""
MODULES = ("xinfer.replica.actor",)


def require_program(python: Path) -> None:
    """A look from outside.

    Raises:
        EnvironmentFailed: there is nothing that could be started.
    """
    if python.is_dir():
        raise EnvironmentFailed(
            f"{python} is a folder on this worker; "
            "name the interpreter in it, or give a virtual environment as 'environment'"
        )
    if not os.access(python, os.X_OK):
        raise EnvironmentFailed(f"there is no Python at {python} on this worker")


async def try_out(running: Interpreter, engine: str) -> None:
    """Start it as a replica is started, and ask it for the engine.

    Raises:
        EnvironmentFailed: it cannot run the engine; says why, and what to do.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "available.json"
        argv = [str(running.python), "-c", TRIAL, engine, str(result), *MODULES]
        try:
            status, said = await asyncio.wait_for(_said(argv, running.environment(), folder), LIMIT_S)
        except TimeoutError:
            status, said = 1, f"it did not answer within {LIMIT_S:.0f} s"
        except OSError as error:
            status, said = 1, str(error)
        if status == 0 and read_record(result, Available) is not None:
            return
    lines = 1 if "Traceback" in said else REASON_LINES
    reason = "\n".join(said.rstrip().splitlines()[-lines:]) or f"it is no Python (exit status {status})"
    raise EnvironmentFailed(
        f"{running.python} cannot run {engine}: {reason}\n"
        "Install what xinfer needs and the engine in it, or name no Python, and xinfer builds an environment "
        "(environment: own)"
    )


async def _said(argv: list[str], env: dict[str, str], folder: str) -> tuple[int, str]:
    """The exit status of a program and what it said, or the beginning of it, if there is no end."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=env,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = await process.stdout.readexactly(SAID_BYTES)
    except asyncio.IncompleteReadError as ended:
        said = ended.partial
        await process.wait()
    finally:
        await end_group(process)
    return process.returncode or 0, said.decode(errors="replace")
