"""``python -m xinfer.replica DIRECTORY``: one replica, started by a worker that wrote its orders to the directory."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import xoscar as xo

from xinfer.actors import open_pool, prepare
from xinfer.processes import ProcessId, leave_terminal, read_record, write_record
from xinfer.protocol import LAUNCH_FILE, PROCESS_FILE, REPLICA_UID, LaunchOrder, ProcessRecord
from xinfer.replica.actor import ReplicaActor
from xinfer.replica.runtime import Replica, end_descendants
from xinfer.settings import Settings
from xinfer.telemetry.logs import LOG_FORMAT

log = logging.getLogger("xinfer.replica")


def main(directory: Path) -> None:
    """Run the replica of a directory to its end. Exit status 0: it ended as asked; 1: it could not load."""
    order = _claim_order(directory)
    if order is None:
        log.warning("no valid %s: the worker withdrew it", directory / LAUNCH_FILE)
        return
    settings = Settings.from_env()
    logging.getLogger().setLevel(settings.log_level)
    prepare(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(order, directory, settings))


def _claim_order(directory: Path) -> LaunchOrder | None:
    """Sign for the order. A worker that restarted meanwhile removes an order that nobody has signed for.

    The worker removes first and looks for a signature then; we sign first and look for the order then. So one of the
    two always sees what the other did.
    """
    if not (directory / LAUNCH_FILE).exists():
        return None
    own = ProcessId.own()
    write_record(directory / PROCESS_FILE, ProcessRecord(pid=own.pid, started=own.started))
    return read_record(directory / LAUNCH_FILE, LaunchOrder)


async def _serve(order: LaunchOrder, directory: Path, settings: Settings) -> NoReturn:
    pool = await open_pool(order.host)
    replica = Replica(order, directory, settings)
    await xo.create_actor(ReplicaActor, replica, address=pool.external_address, uid=REPLICA_UID)
    ended = await replica.run(pool.external_address)
    _leave(1 if ended.failure else 0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _leave(status: int) -> NoReturn:
    """End at once: a thread that still loads weights cannot be interrupted, and would hold a normal exit up."""
    end_descendants()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    leave_terminal()
    main(Path(sys.argv[1]))
