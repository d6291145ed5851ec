"""What the server commands are made of: a supervisor, a worker, or both, in one actor pool of this process."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import xoscar as xo

from xinfer.actors import open_pool, prepare
from xinfer.cli.gateways import GatewayFleet
from xinfer.cli.screen import err
from xinfer.errors import Conflict, XinferError
from xinfer.processes import claimed, read_record, write_record
from xinfer.protocol import SupervisorRecord, supervisor_record
from xinfer.settings import Settings
from xinfer.supervisor.actor import start_supervisor
from xinfer.worker.actor import WorkerHandle, start_worker

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def supervisor(settings: Settings, fleet: GatewayFleet, host: str, port: int) -> AsyncIterator[str]:
    """Run the supervisor of this home and its gateways while the block runs; yields its actor address.

    The address stays the same over restarts where it can: whoever holds it finds the new process without asking.

    Raises:
        Conflict: another supervisor runs in this home, or the HTTP port is taken.
        XinferError: the store or the gateways cannot start; says why.
    """
    async with contextlib.AsyncExitStack() as stack:
        if not stack.enter_context(claimed(settings.home / "supervisor" / "lock")):
            raise Conflict(
                f"a supervisor already runs in {settings.home}; stop it, or set XINFER_HOME to another folder"
            )
        await fleet.start()
        stack.push_async_callback(fleet.stop)
        prepare(settings)
        pool = await _pool_of_before(settings, host, port)
        stack.push_async_callback(pool.stop)
        address = pool.external_address
        handle = await start_supervisor(settings, address)
        stack.push_async_callback(handle.stop)
        write_record(supervisor_record(settings.home), SupervisorRecord(address))
        await fleet.ready()
        yield address


async def _pool_of_before(settings: Settings, host: str, port: int) -> "xo.MainActorPoolType":
    """An actor pool on the port that was asked for, else on the last one, else on a free one."""
    if port:
        return await open_pool(host, port)
    before = read_record(supervisor_record(settings.home), SupervisorRecord)
    if before is not None:
        with contextlib.suppress(OSError):
            return await open_pool(host, int(before.address.rpartition(":")[2]))
    return await open_pool(host)


@contextlib.asynccontextmanager
async def worker(
    settings: Settings,
    address: str,
    find_supervisor: Callable[[], Awaitable[str]],
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[WorkerHandle]:
    """Run a worker in the pool at ``address`` while the block runs, then drain and end its replicas."""
    handle = await start_worker(settings, address, find_supervisor=find_supervisor, name=name, host=host)
    try:
        yield handle
    finally:
        await handle.stop()


def supervisor_of(endpoint: str) -> Callable[[], Awaitable[str]]:
    """Asks a gateway where its supervisor is."""

    async def find() -> str:
        try:
            async with httpx.AsyncClient(base_url=endpoint, timeout=5.0, trust_env=False) as client:
                answer = (await client.get("/v1/address")).raise_for_status()
        except httpx.HTTPError as error:
            raise ConnectionError(f"no supervisor found at {endpoint}: {error}") from error
        return str(answer.json())

    return find


def listen_for_end() -> asyncio.Event:
    """An event that SIGINT or SIGTERM sets from now on. A second ctrl-C leaves at once.

    Called before anything is started: whoever ends us while we start still finds everything cleared away. What runs
    after a second ctrl-C is adopted by the next start, or ends by itself.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def end() -> None:
        told.set()
        err.print("[dim]Ending: what has begun is finished first. Ctrl-C leaves at once.[/]")
        loop.add_signal_handler(signal.SIGINT, os._exit, 130)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    return told


async def serve_until(told: asyncio.Event, *keeping: Awaitable[None]) -> None:
    """Serve until ``told`` is set, or until one of ``keeping`` fails.

    Raises:
        XinferError: what a ``keeping`` ended with.
    """
    tasks = [asyncio.ensure_future(one) for one in (told.wait(), *keeping)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        if (error := task.exception()) is not None:
            raise error if isinstance(error, XinferError) else XinferError(str(error)) from error
