"""One gateway process: ``python -m xinfer.api --host H --port P``. Started, adopted and ended by ``cli``."""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn

from xinfer.actors import prepare
from xinfer.api.app import GatewayApp, create_app
from xinfer.api.state import GatewayState
from xinfer.processes import leave_terminal
from xinfer.settings import Settings
from xinfer.telemetry.logs import LOG_FORMAT


def main() -> None:
    """Serve until told to stop, or until the supervisor was away for the lease time."""
    parser = argparse.ArgumentParser(prog="python -m xinfer.api")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--policy", default="least_loaded")
    parser.add_argument("--shared-metrics", action="store_true", help="count together with the other gateways")
    options = parser.parse_args()
    settings = Settings.from_env()
    logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
    leave_terminal()
    prepare(settings)
    app = create_app(settings, policy=options.policy, shared_metrics=options.shared_metrics)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
        backlog=2048,
    )
    with contextlib.closing(listen(options.host, options.port)) as listener:
        serve(_Server(config, app), listener)


def listen(host: str, port: int) -> socket.socket:
    """A socket that several gateways may have on one port; the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener


class _Server(uvicorn.Server):
    """uvicorn, ending by itself when it has become an orphan."""

    def __init__(self, config: uvicorn.Config, app: GatewayApp) -> None:
        super().__init__(config)
        self._app = app

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        if counter % 10 == 0 and self.started:
            state: GatewayState = self._app.state.gateway_state
            if time.monotonic() - state.supervisor.last_seen > state.settings.gateway_lease_s:
                logging.getLogger(__name__).warning("the supervisor was away for too long; this gateway ends")
                return True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM drains and ends. SIGINT is for the parent, who tells us."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
        loop.remove_signal_handler(signal.SIGTERM)

    def _end(self) -> None:
        if self.started:
            self._app.state.gateway_state.ending.set()
        self.handle_exit(signal.SIGTERM, None)


def serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run the server on uvloop where there is one."""
    factory = None
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415  not on Windows

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main()
