"""The commands that start servers: ``xinfer-local``, ``xinfer-supervisor`` and ``xinfer-worker``."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from xinfer import __version__
from xinfer.cli.screen import complain, err
from xinfer.errors import XinferError
from xinfer.settings import DEFAULT_PORT, Settings
from xinfer.telemetry.logs import LOG_FORMAT

Host = Annotated[str, typer.Option("-H", "--host", help="Address to listen on. 0.0.0.0 means every interface.")]
Port = Annotated[int, typer.Option("-p", "--port", min=1, max=65535, help="Port of the HTTP endpoint.")]
Gateways = Annotated[int, typer.Option("--gateways", min=1, max=256, help="How many gateway processes share the port.")]
Policy = Annotated[str, typer.Option("--routing-policy", help="How replicas are chosen: least_loaded, round_robin.")]
LogLevel = Annotated[str, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")]


def _command(function: Any) -> None:
    """Run one function as a program."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(function)
    app()


def local() -> None:
    """Entry point of ``xinfer-local``."""
    _command(_local)


def supervisor() -> None:
    """Entry point of ``xinfer-supervisor``."""
    _command(_supervisor)


def worker() -> None:
    """Entry point of ``xinfer-worker``."""
    _command(_worker)


def _local(
    *,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Launch this model; may be repeated.")
    ] = None,
    gateways: Gateways = 1,
    routing_policy: Policy = "least_loaded",
    log_level: LogLevel = "WARNING",
) -> None:
    """Everything on this machine: supervisor, worker and gateway.

    [dim]Examples:[/]

    xinfer-local --model demo-chat --model demo-embed

    xinfer-local -p 8000 --gateways 2

    What was launched is there again at the next start. Ctrl-C finishes what has begun, then stops everything.
    """
    settings = _start(log_level)
    from xinfer.cli import node  # noqa: PLC0415  --help must not wait for the actor library
    from xinfer.cli.gateways import GatewayFleet  # noqa: PLC0415
    from xinfer.cli.wanted import launch_wanted  # noqa: PLC0415

    fleet = GatewayFleet(settings, host, port, gateways, routing_policy)

    async def serve() -> None:
        told = node.listen_for_end()
        async with contextlib.AsyncExitStack() as stack:
            address = await stack.enter_async_context(node.supervisor(settings, fleet, "127.0.0.1", 0))
            worker = await stack.enter_async_context(node.worker(settings, address, _constant(address)))
            await worker.joined()
            # First of all at the end: gateways answer what they have begun while the replicas are still there.
            stack.push_async_callback(fleet.stop)
            _announce(fleet.url)
            launching = asyncio.create_task(launch_wanted(fleet.url, model or []))
            stack.callback(launching.cancel)
            await node.serve_until(told, fleet.keep_alive())

    _run(serve())


def _supervisor(
    *,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    supervisor_port: Annotated[int, typer.Option(help="Port for workers; 0: the last one, or any.")] = 0,
    gateways: Gateways = 1,
    routing_policy: Policy = "least_loaded",
    log_level: LogLevel = "INFO",
) -> None:
    """The supervisor of a cluster, with its gateways. Workers join it with xinfer-worker.

    [dim]Examples:[/]

    xinfer-supervisor -H 0.0.0.0

    xinfer-worker -e http://THIS-HOST:9997   [dim]# on every machine with accelerators[/]

    Workers on other machines need the cluster token: set XINFER_CLUSTER_TOKEN on all of them, or copy the token file.
    """
    settings = _start(log_level)
    from xinfer.cli import node  # noqa: PLC0415  --help must not wait for the actor library
    from xinfer.cli.gateways import GatewayFleet  # noqa: PLC0415

    fleet = GatewayFleet(settings, host, port, gateways, routing_policy)

    async def serve() -> None:
        told = node.listen_for_end()
        async with node.supervisor(settings, fleet, host, supervisor_port):
            _announce(fleet.url)
            err.print(f"  workers join with:  xinfer-worker -e {fleet.url}")
            await node.serve_until(told, fleet.keep_alive())

    _run(serve())


def _worker(
    *,
    endpoint: Annotated[str | None, typer.Option("-e", "--endpoint", help="URL of the supervisor.")] = None,
    host: Annotated[
        str, typer.Option("-H", "--host", help="This machine's address, as the others reach it.")
    ] = "127.0.0.1",
    worker_port: Annotated[int, typer.Option(help="Port for the supervisor; 0: any.")] = 0,
    name: Annotated[str | None, typer.Option(help="Shown in xinfer status; default: the host name.")] = None,
    log_level: LogLevel = "INFO",
) -> None:
    """A worker: joins a supervisor, and runs replicas on this machine's devices.

    [dim]Example:[/]

    xinfer-worker -e http://SUPERVISOR:9997 -H 10.0.0.7

    Killed or restarted, it finds its running replicas again. Ctrl-C drains and stops them.
    """
    settings = _start(log_level)
    from xinfer.actors import open_pool, prepare  # noqa: PLC0415  --help must not wait for the actor library
    from xinfer.cli import node  # noqa: PLC0415
    from xinfer.cli.gateways import require_free  # noqa: PLC0415
    from xinfer.client.connection import server_url  # noqa: PLC0415

    async def serve() -> None:
        told = node.listen_for_end()
        url = server_url(endpoint or settings.endpoint)
        require_free(host, worker_port)
        prepare(settings)
        async with contextlib.AsyncExitStack() as stack:
            pool = await open_pool(host, worker_port)
            stack.push_async_callback(pool.stop)
            find = node.supervisor_of(url)
            await stack.enter_async_context(node.worker(settings, pool.external_address, find, name=name, host=host))
            err.print(f"[bold]xinfer {__version__}[/] worker at {pool.external_address}, joining {url}")
            await node.serve_until(told)

    _run(serve())


def _start(log_level: str) -> Settings:
    try:
        settings = Settings.from_env()
        if err.is_terminal:
            handlers = [RichHandler(console=err, show_path=False, rich_tracebacks=False)]
            logging.basicConfig(level=log_level.upper(), format="%(name)s: %(message)s", handlers=handlers)
        else:
            logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT)  # whole lines, for files and journals
    except ValueError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    for library in ("httpx", "xoscar"):
        logging.getLogger(library).setLevel("WARNING")
    return settings


def _constant(address: str) -> Any:
    async def find() -> str:
        return address

    return find


def _announce(url: str) -> None:
    err.print(f"[bold]xinfer {__version__}[/] serves on [bold]{url}[/]")
    err.print(f"  API: {url}/docs   openai base_url: {url}/v1", soft_wrap=True)


def _run(serving: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(serving)
    except XinferError as error:
        complain(error.message)
        raise typer.Exit(1) from None
    except OSError as error:
        # Of this machine, not of ours: a home that cannot be written, no room on the disk, no file left to open.
        logging.getLogger(__name__).debug("ended by the operating system", exc_info=True)
        complain(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
